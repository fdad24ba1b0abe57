"""Models of a patient's markers over time: from irregular visits to forecasts with a band.

One model a file; a model returns one loss for each patient and never mixes patients.
"""
