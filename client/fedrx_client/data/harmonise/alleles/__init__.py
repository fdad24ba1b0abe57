"""Named alleles: their definitions, the caller, the phenotypes and the spellings of a laboratory.

What belongs here turns positions of a genome into the names that pharmacogenetics uses. What never
does: a guess. What the tables do not name is reported as unknown, and never counts as *1.
"""
