"""The `fedrx` command: parses, calls the front door, prints through the views.

Whatever a command does, a notebook can do too.
"""
