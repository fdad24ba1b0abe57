"""Models side by side on the same folds, sites and seeds, with paired statistics.

A comparison trains through the same engines as a simulation.
"""
