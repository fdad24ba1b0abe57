"""Readers of a hospital's own files, databases and servers, one module a format.

What belongs here turns a source into typed rows or records. What never does: a study's meaning, a
model, or a decision about which patient counts.
"""
