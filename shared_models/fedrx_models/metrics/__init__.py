"""Metrics as bounded contributions that add up over patients and sites.

A metric whose contribution has no bound must not be here: it could not be released.
"""
