"""Models of a patient's markers over time: from irregular visits to forecasts with a band."""
