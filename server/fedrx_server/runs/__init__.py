"""Runs on disk: what was agreed, every finished round, and where to go on.

Nothing here trains, sends or draws.
"""
