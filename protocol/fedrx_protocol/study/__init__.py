"""The study file: what a consortium agrees on, as strict values.

Nothing here knows who takes part or how sums are computed.
"""
