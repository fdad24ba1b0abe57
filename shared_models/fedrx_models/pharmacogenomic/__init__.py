"""Models of dose and drug response from genotype and clinic.

One model a file; a model returns one loss for each patient and never mixes patients.
"""
