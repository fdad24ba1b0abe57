"""Secure aggregation: the coordinator learns sums, never one site's numbers.

A pure state machine for each side; transport, disk and model stay outside.
"""
