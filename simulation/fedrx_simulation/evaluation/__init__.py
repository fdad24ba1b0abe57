"""What a simulated run found: exact metrics, baselines, and examples to look at.

A live coordinator never sees these numbers.
"""
