"""The `fedrx` command: parses, calls the front door, prints through the views.

A notebook can do all that a command does.
"""
