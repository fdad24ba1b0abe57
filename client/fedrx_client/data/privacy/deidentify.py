"""De-identification: what a cohort keeps of its patients before anything of it is stored.

Ids become a keyed hash, which only the site's key can link to a patient; times are days (or hours)
from the patient's first visit; ages over 89 are one group. Free text needs no rule here: a mapping
names columns of numbers and codes, and nothing else is read.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import TIME
from fedrx_protocol.study.schema import NumberFeature

OLDEST_YEARS: Final = 89.0
"""The oldest age that is kept; people above are so few that the age alone may name them (HIPAA
Safe Harbor, 45 CFR 164.514(b)(2)(i)(C))."""

KEY_BYTES = 32
_PSEUDONYM_DIGITS = 32  # hexadecimal: 128 bits, so that two patients never share one
_AGE = re.compile(r"(?:^|_)age(?:_|$)")
# By unit: the oldest age that is kept, and what stands for all above it.
_AGES_KEPT: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "year": (OLDEST_YEARS, OLDEST_YEARS + 1),
        "years": (OLDEST_YEARS, OLDEST_YEARS + 1),
        "decade": (8.0, 9.0),
    }
)


def derived_key(secret: bytes, purpose: str) -> bytes:
    """Derive a key of 32 bytes from a secret of the site, one for each purpose (HKDF, RFC 5869).

    Args:
        secret: at least 32 random bytes, e.g. a private key.
        purpose: what the key is for; another purpose gives an unrelated key.
    """
    info = f"fedrx/1 {purpose}".encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def pseudonym(patient: str, key: bytes) -> str:
    """Return a patient's pseudonym: the same for the same id and key, and linked by the key alone.

    Args:
        patient: the id in the source.
        key: the site's, 32 bytes; with it, a guessed id can be tried.
    """
    digest = hmac.digest(key, b"fedrx/1 patient\x00" + patient.encode(), "sha256")
    return digest.hex()[:_PSEUDONYM_DIGITS]


def binned_age(years: float) -> float:
    """Return an age in years as it is kept: 90 for everyone over 89."""
    return OLDEST_YEARS + 1 if years > OLDEST_YEARS else years


def deidentified(cohort: Cohort, key: bytes) -> Cohort:
    """Return a cohort without what names a patient; its patients keep their order.

    Args:
        cohort: the patients, as a source gave them.
        key: the site's key of pseudonyms, 32 bytes.
    """
    values = dict(cohort.values)
    for feature in cohort.schema.features:
        if not isinstance(feature, NumberFeature) or not _AGE.search(feature.name):
            continue
        if feature.unit in _AGES_KEPT:
            oldest, everyone_above = _AGES_KEPT[feature.unit]
            column = values[feature.name]
            above = min(everyone_above, feature.maximum)
            values[feature.name] = np.where(column > oldest, above, column)
    visits, target = cohort.visits, cohort.target
    if visits.size:
        visits = visits.copy()
        visits[:, :, TIME] -= visits[:, :1, TIME]
        target = np.zeros((len(cohort), 0))  # follows from the visits
    return replace(
        cohort,
        patients=tuple(pseudonym(patient, key) for patient in cohort.patients),
        values=values,
        visits=visits,
        target=target,
    )
