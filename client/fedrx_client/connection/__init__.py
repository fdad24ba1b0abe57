"""The way from a site to its coordinator's SuperLink.

Only this folder of the client uses Flower's internals; patients' data never reach it.
"""
