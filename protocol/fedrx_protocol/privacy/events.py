"""What was released, as frozen records; every claim about privacy is derived from these.

A release is one noisy sum that left a site. A record holds what was done, never an epsilon.
"""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_protocol.privacy.errors import ReleaseInvalid

Purpose = Literal["training", "metrics"]

PURPOSES: tuple[Purpose, ...] = ("training", "metrics")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_NUMBERS = ("noise_multiplier", "sample_rate", "clipping_norm", "grid_slack")
_COUNTS = {"round": 1, "attempt": 0, "steps": 1}
_TEXTS = ("time", "study", "run", "purpose", "mechanism", "cohort")


@dataclass(frozen=True, kw_only=True)
class Release:
    """One noisy sum that left a site, or is about to.

    Attributes:
        time: when it was recorded, ISO 8601 in UTC, e.g. '2025-03-01T12:00:00Z'.
        study: digest of the study file, hex.
        run: name of the run.
        round: number of the round, from 1.
        attempt: number of the attempt at this round, from 0.
        purpose: whose patients it speaks about, those trained on or those held out.
        mechanism: 'gaussian', the only one the accountant knows.
        noise_multiplier: standard deviation of the noise that protects, over the sensitivity.
        sample_rate: Poisson rate at which a patient takes part in a step, in (0, 1].
        steps: Gaussian steps inside this release; local training has several.
        clipping_norm: L2 bound of one patient's contribution.
        cohort: fingerprint of the cohort, hex.
        grid_slack: eta of this release, see `fedrx_protocol.privacy.discretization`.

    Raises:
        ReleaseInvalid: a value is of the wrong type or impossible.
    """

    time: str
    study: str
    run: str
    round: int
    attempt: int
    purpose: Purpose
    mechanism: Literal["gaussian"] = "gaussian"
    noise_multiplier: float
    sample_rate: float
    steps: int = 1
    clipping_norm: float
    cohort: str
    grid_slack: float = 0.0

    def __post_init__(self) -> None:
        for name in _TEXTS:
            _require(isinstance(getattr(self, name), str), name, "must be text", self)
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
            _require(is_count, name, f"must be a whole number of at least {least}", self)
        for name in _NUMBERS:
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _require(is_number and math.isfinite(value), name, "must be a finite number", self)
            # Stored as floats, so that 1 and 1.0 have one canonical form.
            object.__setattr__(self, name, float(value))
        try:
            in_utc = datetime.fromisoformat(self.time).utcoffset() == timedelta(0)
        except ValueError:
            in_utc = False
        _require(in_utc, "time", "must be ISO 8601 in UTC", self)
        _require(bool(_HEX.fullmatch(self.study)), "study", "must be lower-case hex", self)
        _require(bool(_HEX.fullmatch(self.cohort)), "cohort", "must be lower-case hex", self)
        _require(bool(self.run), "run", "must not be empty", self)
        _require(self.purpose in PURPOSES, "purpose", "must be 'training' or 'metrics'", self)
        _require(self.mechanism == "gaussian", "mechanism", "must be 'gaussian'", self)
        _require(self.noise_multiplier >= 0, "noise_multiplier", "must not be negative", self)
        _require(0 < self.sample_rate <= 1, "sample_rate", "must lie in (0, 1]", self)
        _require(self.clipping_norm > 0, "clipping_norm", "must be above 0", self)
        _require(self.grid_slack >= 0, "grid_slack", "must not be negative", self)

    def to_json(self) -> str:
        """Canonical form: sorted keys, no white space, ASCII; what a ledger hashes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Release":
        """Read the form that `to_json` writes; every key must be present, and no other.

        Raises:
            ReleaseInvalid: not JSON, a key is missing, unknown or repeated, a value is impossible.
        """
        try:
            document = read_json(text, _without_repeats)
        except DocumentInvalid as error:
            raise ReleaseInvalid(f"A release record is {error}.") from None
        if not isinstance(document, dict):
            raise ReleaseInvalid("A release record must be a JSON object.")
        names = {field.name for field in dataclasses.fields(cls)}
        if document.keys() != names:
            different = ", ".join(sorted(names ^ document.keys()))
            raise ReleaseInvalid(f"A release record has missing or unknown keys: {different}.")
        return cls(**document)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ReleaseInvalid("A release record repeats a key.")
    return document


def _require(holds: bool, name: str, rule: str, release: Release) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise ReleaseInvalid(f"Release '{name}' {rule}, but is {getattr(release, name)!r}.")
