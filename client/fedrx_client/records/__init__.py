"""What a site writes down and never forgets: privacy ledger, round guard, audit log.

A record is on disk before the answer leaves; no record holds a patient's data.
"""
