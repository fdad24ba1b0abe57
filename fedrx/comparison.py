"""A comparison from a study and its patients: models side by side, and what comes of it."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedrx import api
from fedrx.sources import Source, gather
from fedrx.views.comparison import write_page
from fedrx_common.errors import MisuseError
from fedrx_models.planning import make_plan
from fedrx_protocol.study.study import Study
from fedrx_simulation.comparison.compare import CellObserver, ComparisonPlan, begun_with, compare
from fedrx_simulation.comparison.statistics import ComparisonTable, tables
from fedrx_simulation.federation.sites import taking_part

_FILE = ".toml"
_MOST_REPEATS = 1000


@dataclass(frozen=True)
class Request:
    """What a person wants to compare.

    Args:
        study: The study; its `[model]` section counts for the model that it names.
        models: Names of models, which start from their own defaults unless it is the study's; or
            study files, of which `[model]` and `[training]` count: a model trained as it needs.
        source: Patients.
        folds: Parts of each site; `None` for 5, or for none where sites are left out.
        leave_one_site_out: Whether each site is left out once.
        repeats: How many seeds.
        personalised: Whether a private head at each site is judged too.
        seed: The first of them; drawn if left out.
        output: Folder; one of the same comparison is continued.
    """

    study: Study
    models: tuple[str, ...]
    source: Source
    folds: int | None
    leave_one_site_out: bool
    repeats: int
    personalised: bool
    seed: int | None
    output: Path


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        study: the study, with the sizes of its patients.
        tables: one for each scheme.
        trainings: how often a model was trained on these patients.
        folder: where it is kept.
        notes: sentences on sites that were left out, and on what a person should look at.
    """

    study: Study
    tables: tuple[ComparisonTable, ...]
    trainings: int
    folder: Path
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "study": self.study.name,
            "study_digest": self.study.digest,
            "privacy": self.study.privacy.mode,
            "epsilon": None if self.study.privacy.mode == "none" else self.study.privacy.epsilon,
            "trainings": self.trainings,
            "tables": [asdict(table) for table in self.tables],
            "folder": str(self.folder),
            "notes": list(self.notes),
        }


def run(request: Request, observer: CellObserver = lambda *_: None) -> Comparison:
    """Compare, or continue a comparison.

    Raises:
        MisuseError: Something given cannot be used; says what to change.
        StudyStopped: A training could not be completed; the same command continues.
    """
    if not 1 <= request.repeats <= _MOST_REPEATS:
        raise MisuseError(f"--repeats is {request.repeats}: use 1 to {_MOST_REPEATS}.")
    seed, begun = request.seed, begun_with(request.output)
    if seed is None:  # a comparison that goes on keeps its own
        seed = begun[0] if begun else secrets.randbelow(2**31)
    gathered = gather(request.study, request.source, seed)
    cohorts, notes = taking_part(gathered.study, gathered.cohorts)
    folds = request.folds
    if folds is None:
        folds = 0 if request.leave_one_site_out and not request.personalised else 5
    plan = ComparisonPlan(
        _studies(gathered.study, request.models),
        folds,
        request.leave_one_site_out,
        tuple(range(seed, seed + request.repeats)),
        request.personalised,
    )
    for study in plan.studies.values():  # every model and plan, before the first training
        make_plan(study, len(cohorts) - int(request.leave_one_site_out)).check()
    found = compare(plan, cohorts, request.output, observer)
    notes = (*gathered.described.get("quality", {}).get("notes", ()), *notes)
    trainings = sum(1 for _ in plan.cells(sorted(cohorts)))
    result = Comparison(gathered.study, tables(plan, found), trainings, request.output, notes)
    (request.output / "result.json").write_text(json.dumps(result.to_json()), encoding="utf-8")
    write_page(request.output / "comparison.html", gathered.study, result.tables, trainings)
    return result


def _studies(study: Study, models: tuple[str, ...]) -> dict[str, Study]:
    """Make the study with each model, by the name that the tables show.

    Raises:
        MisuseError: a name is given twice, or a study file has other patients than the study.
    """
    found: dict[str, Study] = {}
    for model in models:
        path = Path(model) if model.endswith(_FILE) else None
        name = path.stem if path else model
        if name in found:
            raise MisuseError(f"'{name}' is named twice: name each model once.")
        if path is None:
            found[name] = api.override(study, model=model)
            continue
        other, _ = api.read_study(path)
        if other.feature_schema != study.feature_schema:
            raise MisuseError(
                f"{path}: has other features, blocks or target than the study; models are compared "
                "on the same patients only."
            )
        document, trained = study.model_dump(mode="json"), other.model_dump(mode="json")
        document |= {"model": trained["model"], "training": trained["training"]}
        # The file may have fewer rounds than the study has evaluations.
        evaluations = document["metrics"]["evaluations"]
        document["metrics"] = {**document["metrics"], "evaluations": 0}
        file = Study.from_document(document, source=str(path))
        found[name] = file.with_(metrics={"evaluations": min(evaluations, file.rounds)})
    return found
