"""The page of one patient: a person looks, asks "what if", prints, and decides.

What belongs here is who may look, what is kept in memory of a look, and how it is drawn. What never
does: how a patient is read, or how a prediction is computed.
"""
