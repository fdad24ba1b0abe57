"""Who this site is and whom it trusts: keys, pins and offers of runs.

A private key never leaves this folder's files.
"""
