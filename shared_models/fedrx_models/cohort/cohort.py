"""One site's patients as a typed table: checked once when built, read-only afterwards.

A `Cohort` never leaves its site. Patient ids are kept only so that a patient can be found again
and so that the split into training and held-out patients is stable.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedrx_common.errors import DataError
from fedrx_models.cohort.visits import Courses, outcome_shape
from fedrx_models.cohort.visits_check import check_range, check_visits, require_forecasts
from fedrx_protocol.study.schema import (
    BinaryTarget,
    Block,
    CategoryFeature,
    ContinuousTarget,
    Feature,
    FeatureSchema,
    FlagFeature,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
    Target,
)

MISSING_CATEGORY = -1
"""Code of an unknown category, or flag; known ones are positions in the schema's `values`."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """The patients of one site, in the order of `patients`.

    Attributes:
        site: the site's name.
        schema: features and target that the table was checked against.
        patients: `n` distinct, non-empty ids; they stay at the site.
        values: by feature name, an array `(n,)`: numbers as float64 in the schema's unit with NaN
            where missing; categories as int16 positions in the schema's `values` with -1 where
            missing; flags as bool, or where the study lets a site lack them as int16, -1 missing.
        target: what happened, float64. A number `(n,)` in the target's unit, or 0 and 1 `(n,)`,
            never missing; for survival `(n, 2)`: the time of event or last contact, and 1 for an
            event, 0 for a patient who left without one; for a panel `(n, drugs)`, NaN where a drug
            was not given, with at least one that was. For a forecast `(n, T, H, M, 2)`, which
            follows from the visits (see `Courses.outcomes`); `(n, 0)` asks to compute it.
        blocks: by block name, `(n, genes)` float64 in the block's unit, NaN where missing.
        visits: `(n, T, 2 + markers + treatments)` float64: time, episode number, and the values
            in the study's order and units, NaN where missing; rows after a patient's last visit
            are NaN throughout. Times rise within an episode, and an episode's visits follow
            each other. None for a study without visits.

    Raises:
        DataError: if a column or block is missing or unknown, has another length or type, or
            holds a value outside the schema's range; if a patient appears twice.
    """

    site: str
    schema: FeatureSchema
    patients: tuple[str, ...]
    values: Mapping[str, NDArray[Any]]
    target: NDArray[np.float64]
    blocks: Mapping[str, NDArray[np.float64]] = field(default_factory=lambda: MappingProxyType({}))
    visits: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def __post_init__(self) -> None:
        site, schema, count = self.site, self.schema, len(self.patients)
        if not site:
            raise DataError("a cohort's site has no name.")
        if not all(self.patients):
            raise DataError(f"site '{site}': patient {self.patients.index('') + 1} has no id.")
        if len(set(self.patients)) != count:
            raise DataError(f"site '{site}': a patient appears more than once.")
        _check_names(site, "feature", schema.features, self.values)
        values = {
            feature.name: _column(site, feature, self.values[feature.name], count)
            for feature in schema.features
        }
        object.__setattr__(self, "values", values)
        visits = np.asarray(self.visits, dtype=np.float64)
        if schema.visits is not None:
            check_visits(site, schema, visits, count)
        elif visits.size:
            raise DataError(f"site '{site}': visits were given, but the study knows of none.")
        else:
            visits = np.zeros((count, 0, 0))
        object.__setattr__(self, "visits", _frozen(visits))
        target = _target(site, schema, self.target, count)
        if isinstance(schema.target, ForecastTarget) and target.ndim == 2:
            target = Courses(schema, self.visits).outcomes()
        object.__setattr__(self, "target", _frozen(target))
        _check_names(site, "block", schema.blocks, self.blocks)
        blocks = {}
        for block in schema.blocks:
            numbers = np.asarray(self.blocks[block.name], dtype=np.float64)
            _check_shape(site, block.name, numbers, count, len(block.genes))
            known = numbers[~np.isnan(numbers)]
            check_range(site, block.name, known, block.minimum, block.maximum)
            blocks[block.name] = _frozen(numbers)
        object.__setattr__(self, "blocks", blocks)

    def __len__(self) -> int:
        return len(self.patients)

    def select(self, index: ArrayLike) -> "Cohort":
        """Select the patients at `index`: positions or a boolean mask `(n,)`."""
        chosen = np.asarray(index)
        if not chosen.size:  # NumPy reads an empty list as floats, which are not positions
            chosen = chosen.astype(np.int64)
        positions = np.arange(len(self))[chosen]
        return Cohort(
            site=self.site,
            schema=self.schema,
            patients=tuple(self.patients[i] for i in positions),
            values={name: column[positions] for name, column in self.values.items()},
            target=self.target[positions],
            blocks={name: block[positions] for name, block in self.blocks.items()},
            visits=self.visits[positions],
        )

    def split(self, held_out: float, salt: bytes, fold: int = 0) -> tuple["Cohort", "Cohort"]:
        """Split into (training, held-out) patients.

        Each patient's side depends only on the salt and that patient's id, so one patient more or
        less moves no other patient. This lets the two privacy budgets compose in parallel.

        Args:
            held_out: expected share of held-out patients, between 0 and 1.
            salt: key of the split, equal in all rounds of a study.
            fold: which part of that size is held out, from 0; parts do not overlap.
        """
        aside = self.aside(held_out, salt, fold)
        return self.select(~aside), self.select(aside)

    def aside(self, held_out: float, salt: bytes, fold: int = 0) -> NDArray[np.bool_]:
        """Compute which patients `split` holds out, `(n,)`."""
        if not 0 <= held_out <= 1:
            raise DataError(f"held_out is {held_out:g}: it must lie between 0 and 1.")
        digests = [
            hmac.digest(salt, b"fedrx/1 split\x00" + patient.encode(), "sha256")
            for patient in self.patients
        ]
        # Pseudo-random places in [0, 1), keyed by the salt.
        places = np.array([int.from_bytes(d[:6], "big") / 2.0**48 for d in digests], float)
        found: NDArray[np.bool_] = (places >= fold * held_out) & (places < (fold + 1) * held_out)
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of schema, site and content; the order of the patients does not matter.

        It names a cohort in the site's own ledger. It does not keep its content secret: do not send
        it.
        """
        digest = hashlib.sha256(b"fedrx/1 cohort\x00")
        _feed(digest, self.site.encode())
        _feed(digest, self.schema.model_dump_json().encode())
        order = sorted(range(len(self)), key=self.patients.__getitem__)
        for i in order:
            _feed(digest, self.patients[i].encode())
        for feature in self.schema.features:
            _feed(digest, _canonical(self.values[feature.name][order]))
        _feed(digest, _canonical(self.target[order]))
        for block in self.schema.blocks:
            _feed(digest, _canonical(self.blocks[block.name][order]))
        if self.schema.visits is not None:
            _feed(digest, _canonical(self.visits[order]))
        return digest.hexdigest()


def placeholder_outcomes(target: Target, patients: int) -> NDArray[np.float64]:
    """Outcomes that a cohort accepts for patients whose outcome is not known, `(n, ...)`.

    They say nothing about a patient: no prediction looks at them, and no model may train on them.
    """
    if isinstance(target, ForecastTarget):
        return np.zeros((patients, 0))
    if isinstance(target, SurvivalTarget):
        return np.zeros((patients, 2))
    if isinstance(target, PanelTarget):
        return np.tile([drug.mean for drug in target.drugs], (patients, 1))
    return np.full(patients, 0.0 if isinstance(target, BinaryTarget) else target.minimum)


def require_variety(target: Target, outcomes: NDArray[np.float64], where: str) -> None:
    """Refuse outcomes from which a model can learn nothing, or on which it cannot be judged.

    Args:
        target: the kind of outcome.
        outcomes: as a `Cohort` holds them, of all sites together.
        where: whose they are, in words.

    Raises:
        DataError: all outcomes are alike: one number or class only, or all censored.
    """
    if isinstance(target, ContinuousTarget | PanelTarget):
        columns = outcomes.reshape(len(outcomes), -1).T  # one for each drug
        known = [column[~np.isnan(column)] for column in columns]
        compared = [numbers for numbers in known if len(numbers) > 1]
        if compared and all((numbers == numbers[0]).all() for numbers in compared):
            raise DataError(
                f"{where}, all have the same outcome '{target.name}': bring patients who differ, "
                "or check column and unit of the mapping."
            )
    if isinstance(target, BinaryTarget) and len(np.unique(outcomes)) < 2:
        raise DataError(
            f"{where}, all have the same outcome '{target.name}': bring patients of both kinds, "
            "or check the codes of the mapping."
        )
    if isinstance(target, SurvivalTarget):
        within = (outcomes[:, 1] == 1) & (outcomes[:, 0] <= target.edges[-1])
        if not within.any():
            raise DataError(
                f"{where}, nobody had the event '{target.name}' before the last edge: bring "
                "longer follow-up, or earlier edges."
            )
    if isinstance(target, ForecastTarget):
        require_forecasts(target, outcomes, where)


def concatenate(cohorts: Sequence[Cohort], *, site: str = "pooled") -> Cohort:
    """Pool cohorts of one schema; ids become "site/patient", as two sites may use the same ids.

    Raises:
        DataError: if there are no cohorts, or their schemas differ.
    """
    if not cohorts:
        raise DataError("there is no cohort to pool.")
    schema = cohorts[0].schema
    for cohort in cohorts[1:]:
        if cohort.schema != schema:
            raise DataError(
                f"site '{cohort.site}' has another schema than site '{cohorts[0].site}': "
                "only cohorts of one study can be pooled."
            )
    return Cohort(
        site=site,
        schema=schema,
        patients=tuple(f"{c.site}/{patient}" for c in cohorts for patient in c.patients),
        values={
            feature.name: np.concatenate([c.values[feature.name] for c in cohorts])
            for feature in schema.features
        },
        target=np.concatenate([c.target for c in cohorts]),
        blocks={
            block.name: np.concatenate([c.blocks[block.name] for c in cohorts])
            for block in schema.blocks
        },
        visits=np.concatenate([c.visits for c in cohorts]),
    )


def _feed(digest: "hashlib._Hash", part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)


def _canonical(column: NDArray[Any]) -> bytes:
    little_endian = column.dtype.newbyteorder("<")
    if np.issubdtype(column.dtype, np.floating):  # one NaN and one zero, whatever their sign
        column = np.where(np.isnan(column), np.nan, column + 0.0)
    return np.ascontiguousarray(column, dtype=little_endian).tobytes()


def _check_names(
    site: str, kind: str, wanted: Sequence[Feature | Block], given: Mapping[str, NDArray[Any]]
) -> None:
    names = {one.name for one in wanted}
    absent, unknown = sorted(names - set(given)), sorted(set(given) - names)
    if absent:
        raise DataError(f"site '{site}': {kind} '{absent[0]}' of the study is missing.")
    if unknown:
        raise DataError(f"site '{site}': {kind} '{unknown[0]}' is not in the study.")


def _column(site: str, feature: Feature, column: ArrayLike, count: int) -> NDArray[Any]:
    """Check, copy and freeze the column of one feature."""
    raw = np.asarray(column)
    _check_shape(site, feature.name, raw, count)
    if isinstance(feature, NumberFeature):
        if not np.issubdtype(raw.dtype, np.number):
            raise DataError(f"site '{site}': '{feature.name}' must hold numbers, not {raw.dtype}.")
        numbers = raw.astype(np.float64)
        known = numbers[~np.isnan(numbers)]
        check_range(site, feature.name, known, feature.minimum, feature.maximum)
        return _frozen(numbers)
    if isinstance(feature, CategoryFeature):
        return _codes(site, feature, raw, len(feature.values) - 1)
    if isinstance(feature, FlagFeature) and feature.optional:
        return _codes(site, feature, raw.astype(np.int16) if raw.dtype == np.bool_ else raw, 1)
    if raw.dtype != np.bool_:
        raise DataError(f"site '{site}': flag '{feature.name}' must be boolean, not {raw.dtype}.")
    return _frozen(raw)


def _codes(
    site: str, feature: CategoryFeature | FlagFeature, raw: NDArray[Any], last: int
) -> NDArray[np.int16]:
    if not np.issubdtype(raw.dtype, np.integer):
        raise DataError(
            f"site '{site}': '{feature.name}' must hold positions in the study's values, "
            f"not {raw.dtype}."
        )
    check_range(site, feature.name, raw, MISSING_CATEGORY, last)
    return _frozen(raw.astype(np.int16))


def _target(site: str, schema: FeatureSchema, values: ArrayLike, count: int) -> NDArray[Any]:
    """Check the outcomes."""
    target, numbers = schema.target, np.asarray(values, dtype=np.float64)
    name = target.name
    if isinstance(target, ForecastTarget):
        if numbers.shape not in ((count, 0), outcome_shape(schema, count)):
            raise DataError(f"site '{site}': '{name}' has shape {numbers.shape}: give (n, 0).")
    elif isinstance(target, PanelTarget):
        _check_shape(site, name, numbers, count, len(target.drugs))
        known = ~np.isnan(numbers)
        check_range(site, name, numbers[known], target.minimum, target.maximum)
        _check_known(site, name, known.sum(axis=1) > 0)
    elif isinstance(target, SurvivalTarget):
        _check_shape(site, name, numbers, count, 2)
        _check_known(site, name, np.isnan(numbers).sum(axis=1) == 0)
        check_range(site, f"{name}, time", numbers[:, 0], 0, np.inf)
        _check_yes_or_no(site, f"{name}, event", numbers[:, 1])
    else:
        _check_shape(site, name, numbers, count)
        _check_known(site, name, ~np.isnan(numbers))
        if isinstance(target, BinaryTarget):
            _check_yes_or_no(site, name, numbers)
        else:
            check_range(site, name, numbers, target.minimum, target.maximum)
    return numbers


def _check_known(site: str, name: str, known: NDArray[np.bool_]) -> None:
    if not known.all():
        raise DataError(f"site '{site}': target '{name}' is missing for a patient.")


def _check_yes_or_no(site: str, name: str, numbers: NDArray[np.float64]) -> None:
    other = numbers[(numbers != 0) & (numbers != 1)]
    if other.size:
        raise DataError(f"site '{site}': '{name}' holds {other[0]:g}, but only 0 and 1 are known.")


def _check_shape(
    site: str, name: str, column: NDArray[Any], count: int, columns: int | None = None
) -> None:
    if column.shape != ((count,) if columns is None else (count, columns)):
        raise DataError(
            f"site '{site}': '{name}' has shape {column.shape}, but there are {count} patients."
        )


def _frozen(column: NDArray[Any]) -> NDArray[Any]:
    copy = column.copy()
    copy.flags.writeable = False
    return copy
