"""What crosses the wire, and what both sides must compute alike.

No clock, no Flower, no torch; no input or output but reading a study file.
"""
