"""The coordinator's side of trust: the consortium's keys, its certificates, and who belongs.

Everything is in one folder, the consortium folder; it never holds patient data.
"""
