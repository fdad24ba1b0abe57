"""Who belongs to a consortium and how that is signed and verified.

Private keys are used here and never stored here.
"""
