"""One run, round by round: ask, collect, resolve, unmask, step, commit.

Nothing here starts a process or writes a report.
"""
