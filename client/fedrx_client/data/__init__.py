"""From a hospital's files to one typed cohort, with an account of every row dropped.

Nothing here trains, records a release or sends anything.
"""
