"""At the bedside: one patient in, a prediction that a person can check out.

What belongs here reads a patient through the declared pipeline, asks a model and puts its answer
into words. What never does: training, the arithmetic of models, or a decision.
"""
