"""The way from a site to its coordinator's SuperLink.

The client's only use of Flower's internals; nothing here sees a patient.
"""
