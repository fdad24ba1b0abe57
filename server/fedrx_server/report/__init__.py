"""A run as a report that people read: values, words, figures and one HTML page.

A report shows what the coordinator has seen, and no more.
"""
