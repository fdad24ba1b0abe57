"""Dose and drug response from genotype and clinic."""
