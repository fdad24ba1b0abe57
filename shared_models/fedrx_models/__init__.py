"""The models that both sides agree on, with their contract, metrics and files.

This room computes on patients and weights; nothing here sends, records or reads a clock.
"""
