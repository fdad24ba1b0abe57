"""The dry run: what would happen if this site took part, line by line.

A check changes nothing and sends nothing about a patient.
"""
