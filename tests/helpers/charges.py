"""A release as a site charges it to its ledger; a test changes one value."""

from fedrx_protocol.privacy.events import Release


def release(round_number: int = 1, **changes) -> Release:
    values = {
        "time": "2026-11-21T10:00:00Z",
        "study": "aa" * 32,
        "run": "run-1",
        "round": round_number,
        "attempt": 0,
        "purpose": "training",
        "noise_multiplier": 20.0,
        "sample_rate": 1.0,
        "clipping_norm": 1.0,
        "cohort": "cc" * 32,
    }
    return Release(**{**values, **changes})
