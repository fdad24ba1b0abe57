"""Units, codes, alleles and formulas: what makes the values of two hospitals mean the same.

What belongs here is arithmetic and tables. What never does: reading a file of patients.
"""
