"""Text and pages for people.

A view prints and computes nothing.
"""
