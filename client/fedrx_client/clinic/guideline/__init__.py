"""A published guideline beside a model's answer: what it recommends for this patient's genes.

What belongs here is short tables of published recommendations with their source, version and
licence, and how a patient finds the line that applies. What never does: a recommendation that no
publication makes, or a decision.
"""
