"""What a simulation found: weights, exact and reported metrics, privacy spent, bytes, report."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.quality.account import DataQuality
from fedrx_models.card import Calibration
from fedrx_models.contract import PatientModel
from fedrx_models.metrics.dose import DoseMetrics
from fedrx_models.metrics.registry import Metrics, measures_of
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.privacy.figures import Figure, readable
from fedrx_protocol.study.study import Study
from fedrx_server.report.data import PrivacyStatement, ReportData
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_simulation.evaluation.coverage import Coverage

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SimulationResult:
    """A finished simulation.

    Attributes:
        study: The study that ran.
        model: The federated model with its final weights.
        weights: The same weights as one vector, `(d,)`.
        metrics: Exact metrics on all held-out patients: `federated`, and where they were asked
            for `personalised`, `pooled`, `site_alone`, `fixed`, `published`.
        reported: The federated metrics as they were released, with noise; `reported_headline` says
            whether that hides the first of them.
        privacy: What was spent, and the assumption it rests on.
        ledger: Every site's releases.
        rounds: One record for each round.
        report: What the report shows, for one's own plots.
        folder: The run folder.
        quality: What happened to the rows of a patient file on their way in; `None` without one.
        seconds: Wall time of this call.
        sites: Number of sites.
        calibration: What the last evaluation released of the intervals; `None` without it.
        coverage: Exact share of outcomes inside them, by site; all together under the empty name.
        notes: Sentences on sites that were left out, and on what does not fit the study.
    """

    study: Study
    model: PatientModel
    weights: NDArray[np.float32]
    metrics: Mapping[str, Metrics]
    reported: Mapping[str, float]
    privacy: PrivacyStatement
    ledger: Mapping[str, tuple[Release, ...]]
    rounds: tuple[RoundRecord, ...]
    report: ReportData
    folder: Path
    quality: DataQuality | None
    seconds: float
    sites: int
    calibration: Calibration | None = None
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, Any]:
        """The report's plots as plotly figures, by name, e.g. `learning_curve`."""
        from fedrx_server.report.page import report_figures  # noqa: PLC0415 - plotly is slow

        figures = report_figures(self.report)
        return {title.lower().replace(" ", "_"): figure for title, _, figure in figures}

    @property
    def frames(self) -> "dict[str, pd.DataFrame]":
        """The result as DataFrames.

        `metrics` has a row for each model (`federated`, `pooled`, ...); `rounds` one for each
        round, with the metrics that it released; `spent` one for each release of a site.
        """
        import pandas as pd  # noqa: PLC0415 - only a notebook needs it

        models = {name: _plain(metrics) for name, metrics in self.metrics.items()}
        rounds = [{**asdict(one), **(one.metrics or {})} for one in self.rounds]
        for one in rounds:
            del one["metrics"], one["calibration"]
        spent = [
            {"site": site, **asdict(release)}
            for site, releases in self.ledger.items()
            for release in releases
        ]
        return {
            "metrics": pd.DataFrame.from_dict(models, orient="index").rename_axis("model"),
            "rounds": pd.DataFrame(rounds),
            "spent": pd.DataFrame(spent),
        }

    @property
    def reported_headline(self) -> Figure:
        """The headline as a real coordinator would have seen it, with its intervals."""
        return measures_of(self.study.target)[0].figure(self.reported)

    @property
    def bytes_up(self) -> int:
        """Bytes from all sites to the coordinator."""
        return sum(record.bytes_up for record in self.rounds)

    @property
    def bytes_down(self) -> int:
        """Bytes from the coordinator to all sites."""
        return sum(record.bytes_down for record in self.rounds)

    def to_json(self) -> dict[str, Any]:
        """The object that `fedrx simulate --json` prints and `result.json` holds.

        A reported headline that noise hides is null in it, with its intervals; see `readable`.
        """
        headline = measures_of(self.study.target)[0]
        return {
            "study": self.study.name,
            "study_digest": self.study.digest,
            "model": self.study.model.name,
            "metrics": {name: _plain(metrics) for name, metrics in self.metrics.items()},
            "reported": readable(self.reported, headline.key, headline.tells),
            **self._calibration(),
            "privacy": self.privacy.to_json(),
            "rounds": self.study.rounds,
            "sites": self.sites,
            "seconds": round(self.seconds, 3),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "run": str(self.folder),
            "notes": list(self.notes),
            "data": None if self.quality is None else self.quality.to_dict(),
        }

    def _calibration(self) -> dict[str, Any]:
        """The key `calibration`, where the study has it."""
        if self.calibration is None:
            return {}
        by_site = {site: asdict(one) for site, one in self.coverage.items()}
        overall = by_site.pop("", None)
        released = self.calibration.model_dump(mode="json")
        return {"calibration": {**released, "exact": overall, "exact_by_site": by_site}}


def _plain(metrics: Metrics) -> dict[str, Any]:
    if not isinstance(metrics, DoseMetrics):
        return {**metrics.to_dict(), "patients": int(metrics.n)}
    return {
        "mae": metrics.mae,
        "mae_ci": metrics.mae_ci,
        "r2": metrics.r2,
        "within_20_percent": metrics.within_20_percent,
        "patients": int(metrics.n),
        "groups": {
            group.name: {
                "mae": group.mae,
                "within_20_percent": group.within_20_percent,
                "patients": int(group.n),
            }
            for group in metrics.groups
        },
    }
