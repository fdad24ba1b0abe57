"""The processes that `fedrx coordinator start` keeps running.

Nothing here decides about a round.
"""
