"""CDS Hooks: a record system asks, and gets cards that a person reads.

What belongs here is the protocol, its tokens, and cards made of a prediction. What never does: how
a patient is read, or how a prediction is computed.
"""
