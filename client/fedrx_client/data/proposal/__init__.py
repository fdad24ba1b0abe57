"""A mapping proposed from a table: names, units and a few values give guesses for a person.

What belongs here reads no more of a table than the proposal then shows, and decides nothing: where
a guess is not safe, the proposal says `# ?`.
"""
