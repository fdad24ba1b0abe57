"""The models that both sides agree on, with their contract, metrics and files.

Arithmetic on patients and weights only; nothing here sends, records or reads a clock.
"""
