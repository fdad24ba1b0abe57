"""Synthetic patients with documented sources.

No generator reads a real patient.
"""
