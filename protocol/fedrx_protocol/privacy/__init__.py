"""Privacy accounting: what was released, what it cost, and the noise that a promise needs.

Neighbouring cohorts differ by one patient with all their records, at one site. Epsilon is derived
from recorded releases and never stored.
"""
