"""The messages between coordinator and sites, and their bytes.

A message checks itself when it is built; no message opens a socket or a file.
"""
