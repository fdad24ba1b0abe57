"""The study file: everything a consortium agrees on before the first patient is touched.

A study is a TOML file, parsed once into a frozen `Study`. Its digest is the hash of a canonical
form, so that comments and key order do not matter but every agreed value does. Site and
coordinator compare digests; a site that approved one study takes part in no other.
"""

import hashlib
import json
from math import floor, inf, log10, sqrt
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedrx_common.documents import DocumentInvalid, read_toml, require_bounded
from fedrx_common.errors import StudyError
from fedrx_common.text import require_showable
from fedrx_protocol.study.base import (
    DIGEST_PATTERN,
    Line,
    Name,
    Paragraph,
    StrictModel,
    is_empty,
    is_off,
)
from fedrx_protocol.study.omics import Block, GeneGraph
from fedrx_protocol.study.schema import Feature, FeatureSchema
from fedrx_protocol.study.targets import ContinuousTarget, ForecastTarget, PanelTarget, Target
from fedrx_protocol.study.validation import messages
from fedrx_protocol.study.visits import Marker, Treatment, VisitsSection

PrivacyMode = Literal["distributed", "local", "none"]

# No consortium is larger; bounds what the grid's arithmetic must hold.
_MOST_PATIENTS = 1_000_000_000
# In a marker's reference standard deviations; a larger bound would drown the metrics in noise.
_LARGEST_FORECAST_BOUND = 20.0
CALIBRATION_SHARE = 0.5
"""Calibration's part of the last evaluation's budget, unless a study says otherwise."""
# Times the largest error that there can be; noise on a mean error is as many times too loud.
_DROWNING = 10.0


class CohortSection(StrictModel):
    """Whom the study is about, in numbers that the consortium made public."""

    patients: int = Field(
        ge=1,
        le=_MOST_PATIENTS,
        description="agreed size of the whole federation: the public divisor of every mean",
    )
    largest_site: int = Field(
        ge=1,
        le=_MOST_PATIENTS,
        description="no site brings more patients than this; bounds a site's sum",
    )
    minimum_per_site: int = Field(
        default=20, ge=1, description="a site with fewer patients stays out"
    )
    held_out: float = Field(default=0.2, gt=0, lt=1, description="share kept for testing, per site")
    pipeline: str | None = Field(
        default=None,
        pattern=DIGEST_PATTERN,
        exclude_if=is_empty,  # younger than approved studies: see `is_empty`
        description="digest of how every site makes its cohort; `fedrx data cohort` shows a site's",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum_per_site > self.largest_site:
            raise ValueError(
                f"minimum_per_site {self.minimum_per_site} is above largest_site "
                f"{self.largest_site}: no site could take part"
            )
        return self


class ModelSection(BaseModel):
    """The model's name and its hyper-parameters, which the model itself validates."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, strict=True)

    name: Name = Field(description="which model; its hyper-parameters are beside it")

    @model_validator(mode="after")
    def _showable(self) -> Self:
        """Check what the model has not validated yet against the rule for texts."""
        require_showable(self.parameters)
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Hyper-parameters as written in the file, by name."""
        return dict(self.__pydantic_extra__ or {})


class OptimizerSection(StrictModel):
    """The coordinator's optimizer: it steps on the noisy sum, which costs no privacy."""

    name: Literal["sgd", "adam"] = Field(default="sgd", description="sgd or adam")
    learning_rate: float = Field(default=1.0, gt=0, description="length of a step")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd's momentum, adam's beta 1")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="adam's beta 2")
    decay: Literal["none", "linear"] = Field(
        default="linear", description="linear: the learning rate falls to 0 at the last round"
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        exclude_if=lambda pull: pull == 0,  # younger than approved studies: see `is_empty`
        description="how strongly weights are pulled to 0: a share of rate x this, each round",
    )


class LocalOptimizerSection(OptimizerSection):
    """The coordinator's step on the sites' mean change: sgd is FedAvg, adam is FedAdam."""

    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd's momentum, adam's beta 1")
    decay: Literal["none", "linear"] = Field(
        default="none", description="linear: the learning rate falls to 0 at the last round"
    )


class LocalTrainingSection(StrictModel):
    """What a site does between two rounds when it trains epochs of its own."""

    rounds: int | None = Field(
        default=None, ge=1, le=100_000, description="rounds when sites train epochs; else as above"
    )
    epochs: int = Field(
        default=1, ge=1, le=1000, description="passes over the site's patients between two rounds"
    )
    batch_size: int = Field(default=32, ge=1, description="expected patients a step")
    learning_rate: float = Field(default=0.1, gt=0, description="length of a step at the site")
    proximal: float = Field(default=0.0, ge=0, description="FedProx's mu; 0 is FedAvg")
    optimizer: LocalOptimizerSection = Field(
        default=LocalOptimizerSection(), description="the coordinator's step on the sites' changes"
    )


class TransferSection(StrictModel):
    """Start from the weights that another study's run ended with, instead of random ones."""

    study: str = Field(
        pattern=DIGEST_PATTERN, description="digest of that study; its model file holds it"
    )
    freeze: tuple[Line, ...] = Field(
        default=(), strict=False, description="parts of the model that stay as they were there"
    )


class TrainingSection(StrictModel):
    """How the model is trained."""

    rounds: int = Field(
        default=100, ge=1, le=100_000, description="how many times the sites send a sum"
    )
    steps: Literal["gradient", "local"] | None = Field(
        default=None,
        description="what a site sends: one gradient sum, or the change after local epochs; "
        "by default the one that belongs to the privacy mode",
    )
    sample_rate: float = Field(default=1.0, gt=0, le=1, description="Poisson rate per patient")
    clipping_norm: float = Field(
        default=1.0, gt=0, le=1e6, description="L2 bound of a patient's gradient"
    )
    mixed_precision: bool = Field(
        default=False,
        exclude_if=is_off,  # younger than approved studies: see `is_empty`
        description="a GPU may multiply in bfloat16; in mode none only, where nothing is clipped",
    )
    optimizer: OptimizerSection = Field(
        default=OptimizerSection(), description="the coordinator's step on the sites' gradients"
    )
    local: LocalTrainingSection = Field(
        default=LocalTrainingSection(), description="what a site does where steps = 'local'"
    )


class PrivacySection(StrictModel):
    """The promise to a patient: add or remove one, with all records, at one site."""

    mode: PrivacyMode = Field(
        default="distributed",
        description="distributed: sites share the noise; local: each adds all; none: no noise",
    )
    epsilon: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="bound for the whole study, metrics included; smaller is more private",
    )
    delta: float = Field(
        default=1e-5,
        gt=0,
        lt=0.1,
        description="chance that the bound does not hold; below 1/patients",
    )
    reserve_rounds: int = Field(
        default=10,
        ge=0,
        le=100_000,
        description="repeated attempts that the noise already pays for",
    )


class SecureAggregationSection(StrictModel):
    """Who must take part before a sum is opened; unset values follow from the roster's size."""

    threshold: int | None = Field(
        default=None, ge=3, description="sites that must help to open a sum"
    )
    max_colluding_sites: int | None = Field(
        default=None,
        ge=0,
        description="sites that may collude with the coordinator and still learn no sum of others",
    )
    min_honest_sites: int | None = Field(
        default=None, ge=1, description="honest sites in a sum whose noise alone keeps the promise"
    )
    stable_lists: bool | None = Field(
        default=None,
        exclude_if=is_empty,
        description="open every sum of the study over one list of sites, and wait for a lost one; "
        "by default in live studies of privacy.mode 'none'",
    )


class MetricsSection(StrictModel):
    """Which metrics leave, and how much of a patient they may show."""

    mode: Literal["private", "secure-sum"] = Field(
        default="private",
        description="private: metrics carry noise and cost epsilon; secure-sum: exact sums",
    )
    evaluations: int = Field(default=5, ge=0, description="besides the last one")
    error_bound: float = Field(
        default=60.0, gt=0, description="in the target's unit; for a forecast in markers' scales"
    )
    final_share: float = Field(
        default=0.6, gt=0, lt=1, description="the last evaluation's part of the metrics' budget"
    )
    calibration: bool = Field(
        default=False,
        exclude_if=is_off,  # younger than approved studies: see `is_empty`
        description="the last evaluation also releases how far outcomes lie from their intervals",
    )
    calibration_share: float = Field(
        default=CALIBRATION_SHARE,
        gt=0,
        lt=1,
        exclude_if=lambda share: share == CALIBRATION_SHARE,  # likewise
        description="calibration's part of the last evaluation's budget",
    )

    @model_validator(mode="after")
    def _shared_for_something(self) -> Self:
        if not self.calibration and self.calibration_share != CALIBRATION_SHARE:
            raise ValueError(
                "calibration_share is set, but calibration is off: add calibration = true, or "
                "remove it"
            )
        return self


class ScheduleSection(StrictModel):
    """How long the coordinator waits, and how often it tries."""

    round_deadline_s: float = Field(
        default=600.0, gt=0, le=604_800, description="a later reply is a dropout"
    )
    attempts: int = Field(
        default=10, ge=1, le=1000, description="tries at one round before the run stops"
    )


class Study(StrictModel):
    """A whole study, as agreed. Build it with `Study.load` or `Study.parse`."""

    name: Name = Field(description="name of the study; runs and approvals are called after it")
    title: Line = Field(default="", description="one line for reports")
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )
    cohort: CohortSection = Field(description="whom the study is about")
    model: ModelSection = Field(description="the model and its hyper-parameters")
    transfer: TransferSection | None = Field(
        default=None, exclude_if=is_empty, description="start from another study's weights"
    )
    training: TrainingSection = Field(
        default=TrainingSection(), description="how the model is trained"
    )
    privacy: PrivacySection = Field(
        default=PrivacySection(), description="the promise to a patient"
    )
    secure_aggregation: SecureAggregationSection = Field(
        default=SecureAggregationSection(), description="who must take part before a sum is opened"
    )
    metrics: MetricsSection = Field(default=MetricsSection(), description="which metrics leave")
    schedule: ScheduleSection = Field(
        default=ScheduleSection(),
        description="how long the coordinator waits, and how often it tries",
    )
    features: tuple[Feature, ...] = Field(
        default=(),
        strict=False,
        description="what is known once of a patient, in the order of the model's inputs",
    )
    blocks: tuple[Block, ...] = Field(
        default=(),
        strict=False,
        exclude_if=is_empty,
        description="omics measurements, gene by gene",
    )
    visits: VisitsSection | None = Field(
        default=None, exclude_if=is_empty, description="the time axis of a forecast"
    )
    markers: tuple[Marker, ...] = Field(
        default=(), strict=False, exclude_if=is_empty, description="what is measured at visits"
    )
    treatments: tuple[Treatment, ...] = Field(
        default=(), strict=False, exclude_if=is_empty, description="what is given between visits"
    )
    graph: GeneGraph | None = Field(
        default=None, exclude_if=is_empty, description="which genes or markers act on each other"
    )
    target: Target = Field(description="what is predicted")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _ = self.feature_schema
        self._check_training()
        # A delta of 1/patients would allow publishing one patient's records outright.
        delta, limit = self.privacy.delta, self.delta_limit
        if self.privacy.mode != "none" and delta >= limit:
            raise ValueError(
                f"privacy.delta is {delta:g}, but with {self.cohort.patients} patients it must be "
                f"below {limit:.3g} (1/patients), or the promise may be broken for a patient or "
                f"more: use e.g. {10 ** floor(log10(limit / 10)):g}"
            )
        if self.metrics.evaluations > self.rounds:
            raise ValueError(
                f"metrics.evaluations is {self.metrics.evaluations}, but the study has "
                f"{self.rounds} rounds: use {self.rounds} or fewer"
            )
        self._check_error_bound()
        if self.metrics.calibration and self.target.kind in ("binary", "survival"):
            raise ValueError(
                f"metrics.calibration is true, but a {self.target.kind} outcome has no interval to "
                "calibrate: remove it"
            )
        return self

    def _check_training(self) -> None:
        """What the sites do must be what the privacy mode can protect."""
        if self.privacy.mode == "distributed" and self.training.steps == "local":
            raise ValueError(
                "training.steps is 'local', but privacy.mode 'distributed' sends one clipped "
                "gradient sum a round: use 'gradient', or privacy.mode 'local' or 'none'"
            )
        if self.privacy.mode == "local" and self.training.steps == "gradient":
            raise ValueError(
                "training.steps is 'gradient', but privacy.mode 'local' trains epochs at the "
                "site: use 'local', or privacy.mode 'distributed' or 'none'"
            )
        if self.training.mixed_precision and self.privacy.mode != "none":
            raise ValueError(
                "training.mixed_precision is true, but patients are clipped, which needs float32: "
                "remove it, or use privacy.mode 'none'"
            )

    def _check_error_bound(self) -> None:
        """Noise on errors grows with their bound: one far above any error drowns them all."""
        bound, largest = self.metrics.error_bound, self.largest_error
        if isinstance(self.target, ForecastTarget) and bound > _LARGEST_FORECAST_BOUND:
            raise ValueError(
                f"metrics.error_bound is {bound:g}, but a forecast's errors are bounded in the "
                f"markers' scales: use {_LARGEST_FORECAST_BOUND:g} or less, e.g. 4"
            )
        if self.metrics_are_private and bound > _DROWNING * largest:
            raise ValueError(
                f"metrics.error_bound is {bound:g}, but between the target's minimum and maximum "
                f"no error is above {largest:g}, and noise grows with the bound: use that or less"
            )

    @property
    def largest_error(self) -> float:
        """In the target's unit, of predictions in its range; infinite where it has no range."""
        target = self.target
        if not isinstance(target, ContinuousTarget | PanelTarget):
            return inf
        return target.maximum - target.minimum

    @property
    def delta_limit(self) -> float:
        """1/patients: a promise with such a delta would be none."""
        return 1 / self.cohort.patients

    @property
    def feature_schema(self) -> FeatureSchema:
        """Features, blocks, markers, graph and target together, as the models want them."""
        return FeatureSchema(
            features=self.features,
            blocks=self.blocks,
            visits=self.visits,
            markers=self.markers,
            treatments=self.treatments,
            graph=self.graph,
            target=self.target,
        )

    @property
    def steps(self) -> Literal["gradient", "local"]:
        """What a site sends each round, resolved."""
        return self.training.steps or ("local" if self.privacy.mode == "local" else "gradient")

    @property
    def rounds(self) -> int:
        """Training rounds, numbered from 1."""
        local = self.training.local.rounds
        return local if self.steps == "local" and local else self.training.rounds

    @property
    def optimizer(self) -> OptimizerSection:
        """The coordinator's optimizer for what the sites send."""
        return self.training.local.optimizer if self.steps == "local" else self.training.optimizer

    @property
    def final_round(self) -> int:
        """Number of the round that only evaluates the finished model."""
        return self.rounds + 1

    @property
    def evaluation_rounds(self) -> tuple[int, ...]:
        """Rounds in which metrics are released, the final one last.

        Those in between are denser at the start, where the learning curve bends.
        """
        count = self.metrics.evaluations
        between = {1 + round(self.rounds * (i / (count + 1)) ** 2) for i in range(1, count + 1)}
        return (*sorted(between), self.final_round)

    @property
    def metrics_are_private(self) -> bool:
        """Whether released metrics carry noise and count in the privacy account."""
        return self.privacy.mode != "none" and self.metrics.mode == "private"

    def metric_weight(self, *, final: bool) -> float:
        """What metrics are multiplied by in an evaluation's sums: below 1 beside a calibration.

        The sums' sensitivity is 1 in any case, so that the account is the same.
        """
        beside = final and self.metrics.calibration
        return sqrt(1 - self.metrics.calibration_share) if beside else 1.0

    @property
    def opens_exact_sums(self) -> bool:
        """Whether a sum without noise is opened; a model then serves one opened context only."""
        return not self.metrics_are_private

    def opens_one_list(self, *, live: bool) -> bool:
        """Whether every sum is opened over the same sites, so that no two can be subtracted.

        Args:
            live: whether hospitals take part; a simulation owns its patients and need not wait.
        """
        asked = self.secure_aggregation.stable_lists
        return live and self.privacy.mode == "none" if asked is None else asked

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical form: sorted keys, no white space, defaults resolved."""
        canonical = json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return hashlib.sha256(b"fedrx/1 study\x00" + canonical.encode()).hexdigest()

    def with_(self, **sections: dict[str, Any]) -> "Study":
        """Make a copy with some keys of some sections replaced, and validate it.

        Example: `study.with_(privacy={"epsilon": 3.0}, training={"rounds": 50})`.
        """
        document = self.model_dump(mode="json")
        for section, values in sections.items():
            before = document.get(section)
            document[section] = {**(before if isinstance(before, dict) else {}), **values}
        return Study.from_document(document, source="study")

    @classmethod
    def from_document(cls, document: dict[str, Any], *, source: str) -> "Study":
        """Validate a parsed document; `source` names it in errors."""
        try:
            require_bounded(document)
            return cls.model_validate(document)
        except ValidationError as error:
            raise StudyError(*messages(error, source, cls)) from None
        except DocumentInvalid as error:
            raise StudyError(f"{source}: {error}.") from None

    @classmethod
    def parse(cls, text: str, *, source: str = "study.toml") -> "Study":
        """Parse TOML text."""
        try:
            document = read_toml(text)
        except DocumentInvalid as error:
            raise StudyError(f"{source}: {error}.") from None
        return cls.from_document(document, source=source)

    @classmethod
    def load(cls, path: Path | str) -> "Study":
        """Read a study file."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")  # some editors begin with a mark
        except FileNotFoundError:
            raise StudyError(f"{path}: no such study file; `fedrx study new` writes one.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"{path}: cannot be read as UTF-8 text: {error}.") from None
        return cls.parse(text, source=str(path))
