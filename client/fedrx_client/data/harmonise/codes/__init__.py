"""Value sets: which codes of LOINC, RxNorm, ATC and OMOP mean a marker or a drug; molar masses.

What belongs here is a small table with a source for each row, and its look-up. What never does: a
whole vocabulary, or a code that was guessed.
"""
