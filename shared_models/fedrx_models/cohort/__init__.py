"""Patients as typed tables and as the tensors that a model reads.

Reading a hospital's files belongs to the client; nothing here opens a file.
"""
