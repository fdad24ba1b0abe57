"""Whether data can answer a what-if: how far the asked values lie from what was seen.

No treatment model is fitted, so there is no propensity to get wrong. Two measures:

- `public_support` needs no patient. It holds the asked values against the study's public
  reference: each in standard deviations from its mean (an amount in its public scales), and all
  numbers together.
- `LocalSupport` needs a cohort, as a site has one. Overlap is looked for among patients in the same
  state: of those whose state is nearest, how far is the third nearest to what is asked; how far is
  the third nearest state itself; and how far is the third nearest to what is asked among all
  patients, whatever their state. The distances become conformal p-values by the same distances
  of the cohort's own patients, each from the others (Vovk, Gammerman, Shafer, Algorithmic Learning
  in a Random World, 2005, section 2): if what is asked happened to a patient like these, it is
  refused with a probability of at most `LEAST_CHANCE`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import chi2

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, TIME, Courses
from fedrx_protocol.study.schema import CategoryFeature, NumberFeature

Floats = NDArray[np.float64]

LEAST_CHANCE = 0.03
"""Share of answerable questions that may be refused, by one of the three distances."""
FARTHEST = 3.0
"""Public standard deviations, or public scales of an amount, up to which a value is asked."""
FEWEST_PATIENTS = 100
_LEAST_TOGETHER = 1e-3  # as a prediction warns of an unusual combination
_NEAREST = 3
_SHARE, _NEAR = 0.2, (20, 50)  # of rows that count as the same state, and fewest and most
_MOST_ROWS, _MOST_CALIBRATING = 20_000, 500


@dataclass(frozen=True)
class Support:
    """Whether a question can be answered, and how far it lies from what is known.

    Attributes:
        supported: whether it can.
        measure: `public` or `cohort`.
        distance: how far what is asked lies: in public standard deviations; an amount in public
            scales by the public measure, and by a cohort's in their logarithms, see `Situations`.
        chance: share of the cohort's patients as far away; None without a cohort.
        sentence: the same in words.
    """

    supported: bool
    measure: str
    distance: float
    chance: float | None
    sentence: str


def public_support(now: Cohort, then: Cohort, i: int, asked: Collection[str]) -> Support:
    """Hold what is asked against the study's public reference.

    Args:
        now: the patient as he is.
        then: the same, with what is asked.
        i: position of the patient in both.
        asked: names of changed features and treatments.
    """
    far = {name: distance for name, distance in _apart(then, i).items() if name in asked}
    worst = max(far, key=lambda name: abs(far[name]), default="")
    distance = abs(far.get(worst, 0.0))
    drugs = {one.name for one in then.schema.treatments}
    kind = "scales" if worst in drugs else "standard deviations from the mean"
    numbers = len(set(_apart(then, i)) - drugs)
    before, after = (_together(one, i) for one in (now, then))
    supported = distance <= FARTHEST
    if not supported:
        sentence = (
            f"'{worst}' would be {distance:.1f} public {kind}, and the study's public "
            f"reference supports {FARTHEST:g}"
        )
    elif numbers and after > before and chi2.sf(after, numbers) < _LEAST_TOGETHER:
        supported, distance = False, math.sqrt(after)
        sentence = (
            f"the combination would be {distance:.1f} standard deviations from the middle of the "
            "study's public reference, where fewer than 1 patient in 1,000 is"
        )
    elif far:
        sentence = (
            f"'{worst}' is {distance:.1f} public {kind}, within the {FARTHEST:g} that the "
            "study's public reference supports; without a cohort nothing is known of patients in "
            "the same state"
        )
    else:
        sentence = (
            "the study names what is asked; its public reference does not say how rare it is, and "
            "without a cohort nothing is known of patients in the same state"
        )
    return Support(supported, "public", distance, None, sentence)


def _apart(cohort: Cohort, i: int) -> dict[str, float]:
    """Distance of each known number of a patient from the public reference, by name."""
    schema = cohort.schema
    found = {
        one.name: (float(cohort.values[one.name][i]) - one.mean) / one.scale
        for one in schema.features
        if isinstance(one, NumberFeature) and not np.isnan(cohort.values[one.name][i])
    }
    if schema.visits is not None:
        row = int((~np.isnan(cohort.visits[i, :, TIME])).sum()) - 1
        given = np.nan_to_num(cohort.visits[i, row, FIRST_VALUE + len(schema.markers) :])
        for one, amount in zip(schema.treatments, given, strict=True):
            found[one.name] = float(amount) / one.scale
    return found


def _together(cohort: Cohort, i: int) -> float:
    """Squared distance of a patient's numbers from the middle of the public reference."""
    drugs = {one.name for one in cohort.schema.treatments}
    return sum(z * z for name, z in _apart(cohort, i).items() if name not in drugs)


@dataclass(frozen=True, eq=False)
class Situations:
    """Patients, or their visits, as points: what they are like, and what is asked about.

    Attributes:
        state: all but what is asked, `(rows, s)`: numbers and newest markers in public standard
            deviations, former treatments as log(1 + amount / public scale), since doses act by
            ratios and few are very high; different categories 1 apart.
        asked: changed features, and treatments from the visit on, `(rows, a)`.
        owner: patient of each row, `(rows,)`.
    """

    state: Floats
    asked: Floats
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, cohort: Cohort, asked: Collection[str]) -> "Situations":
        """Read them from a cohort: a row a patient, or a row a visit."""
        schema, size = cohort.schema, len(cohort)
        state, want = [np.zeros((size, 0))], [np.zeros((size, 0))]
        for one in schema.features:
            column = cohort.values[one.name]
            if isinstance(one, NumberFeature):
                known = ~np.isnan(column)
                z = np.nan_to_num((column - one.mean) / one.scale)
                parts = np.stack([z, 1.0 * ~known], axis=1)
            else:
                codes = len(one.values) if isinstance(one, CategoryFeature) else 2
                parts = np.eye(codes + 1)[column.astype(int) - MISSING_CATEGORY] / math.sqrt(2)
            (want if one.name in asked else state).append(parts)
        static, changed = np.concatenate(state, axis=1), np.concatenate(want, axis=1)
        if schema.visits is None:
            return cls(static, changed, np.arange(size))
        courses = Courses(schema, cohort.visits)
        scales = np.array([one.scale for one in schema.treatments])
        amounts = np.nan_to_num(cohort.visits[:, :, FIRST_VALUE + len(schema.markers) :])
        given = np.log1p(amounts / scales)
        before = np.zeros_like(given)
        before[:, 1:] = given[:, :-1]
        before[courses.starts] = 0.0
        owner, place = np.nonzero(courses.valid)
        last = courses.last[owner, place]
        seen = [static[owner], np.nan_to_num(last), 1.0 * np.isnan(last), before[owner, place]]
        wanted = [changed[owner], given[owner, place]]
        return cls(np.concatenate(seen, axis=1), np.concatenate(wanted, axis=1), owner)

    def select(self, rows: NDArray[np.int64]) -> "Situations":
        """Keep these rows."""
        return Situations(self.state[rows], self.asked[rows], self.owner[rows])

    def distances(self, others: "Situations") -> Floats:
        """Compute how far the third nearest of other patients are, `(rows, 3)`.

        In what is asked, among the nearest in state; in state; in what is asked, among all.
        """
        near = int(np.clip(_SHARE * len(others.owner), *_NEAR))
        found = np.empty((len(self.owner), 3))
        for k, owner in enumerate(self.owner):
            strangers = np.flatnonzero(others.owner != owner)
            apart = cdist(self.state[k : k + 1], others.state[strangers])[0]
            alike = np.argpartition(apart, min(near, len(apart)) - 1)[:near]
            away = cdist(self.asked[k : k + 1], others.asked[strangers])[0]
            parts = (away[alike], apart[alike], away)
            found[k] = [np.partition(one, _NEAREST - 1)[_NEAREST - 1] for one in parts]
        return found


@dataclass(frozen=True, eq=False)
class LocalSupport:
    """A cohort as a measure of what can be asked; it stays at the site.

    Attributes:
        situations: the cohort's.
        usual: distances of its patients from the others, `(patients, 3)`.
        asked: names of changed features and treatments.
    """

    situations: Situations
    usual: Floats
    asked: frozenset[str]

    @classmethod
    def of(cls, cohort: Cohort, asked: Collection[str], seed: int = 0) -> "LocalSupport":
        """Measure a cohort's own distances.

        Args:
            cohort: patients of the study.
            asked: names of changed features and treatments.
            seed: which visits and patients count where there are too many.

        Raises:
            MisuseError: there are too few patients to say.
        """
        if len(cohort) < FEWEST_PATIENTS:
            raise MisuseError(
                f"{len(cohort)} patients are too few to say what can be asked: bring at least "
                f"{FEWEST_PATIENTS}, or ask without a cohort."
            )
        rng = np.random.default_rng(seed)
        known = Situations.of(cohort, asked)
        if len(known.owner) > _MOST_ROWS:
            known = known.select(np.sort(rng.choice(len(known.owner), _MOST_ROWS, replace=False)))
        # One row of each patient, since it is patients that are alike.
        order = rng.permutation(len(known.owner))
        _, first = np.unique(known.owner[order], return_index=True)
        picked = rng.permutation(order[first])[:_MOST_CALIBRATING]
        return cls(known, known.select(picked).distances(known), frozenset(asked))

    def judge(self, then: Cohort, i: int) -> Support:
        """Hold what is asked of patient `i` against the cohort."""
        told = Situations.of(then, self.asked)
        last = told.select(np.flatnonzero(told.owner == i)[-1:])
        stranger = Situations(last.state, last.asked, np.array([-1]))
        (found,) = stranger.distances(self.situations)
        chances = (1 + (self.usual >= found - 1e-9).sum(axis=0)) / (1 + len(self.usual))
        place = int(np.argmin(chances))
        chance = float(chances[place])
        nearest = (
            "among patients in the same state, the nearest to what is asked are",
            "the nearest patients in the same state are",
            "among all patients, the nearest to what is asked are",
        )[place]
        return Support(
            supported=chance >= LEAST_CHANCE / len(chances),
            measure="cohort",
            distance=float(found[place]),
            chance=chance,
            sentence=(
                f"{nearest} {found[place]:.2f} away (in public standard deviations; an amount in "
                f"logarithms of its public scale), and {100 * chance:.1f} % of the cohort's "
                "patients are as far from the others"
            ),
        )
