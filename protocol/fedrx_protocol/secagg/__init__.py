"""Secure aggregation: the coordinator learns sums, never one site's numbers."""
