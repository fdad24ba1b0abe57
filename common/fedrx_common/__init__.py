"""What any party needs on its own machine: files, locks, logs, errors.

It knows no other room and nothing of studies, patients or messages.
"""
