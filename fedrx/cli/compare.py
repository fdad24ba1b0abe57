"""`fedrx simulate --compare`: models side by side on the same patients, and what comes of it."""

import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fedrx import api
from fedrx.sources import Source, gather
from fedrx.views.comparison import in_words, interval_in_words, privacy_in_words, shown, write_page
from fedrx.views.terminal import PlainConsole
from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.planning import make_plan
from fedrx_protocol.study.study import Study
from fedrx_simulation.comparison.compare import (
    Cell,
    CellObserver,
    ComparisonPlan,
    begun_with,
    compare,
)
from fedrx_simulation.comparison.statistics import ComparisonTable, tables
from fedrx_simulation.federation.sites import taking_part

_FILE = ".toml"
_MOST_REPEATS = 1000
_FILE_WIDTH = 200  # columns


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    Args:
        study: The study; its `[model]` section counts for the model that it names.
        models: Names of models, which start from their own defaults unless it is the study's; or
            study files, of which `[model]` and `[training]` count: a model trained as it needs.
        source: Patients.
        folds: Parts of each site; `None` for 5, or for none where sites are left out.
        leave_one_site_out: Whether each site is left out once.
        repeats: How many seeds.
        personalised: Whether a private head at each site is judged too.
        seed: The first of them; drawn anew if left out.
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


def run(request: Request, observer: CellObserver) -> Comparison:
    """Compare, or continue a comparison.

    Raises:
        MisuseError: Something given cannot be used; says what to change.
        StudyStopped: A training could not be completed; the same command continues.
    """
    if not 1 <= request.repeats <= _MOST_REPEATS:
        raise MisuseError(f"--repeats is {request.repeats}: use 1 to {_MOST_REPEATS}.")
    seed = _seed(request)
    gathered = gather(request.study, request.source, seed)
    cohorts, notes = taking_part(gathered.study, gathered.cohorts)
    studies = _studies(gathered.study, request.models)
    folds = request.folds
    if folds is None:
        folds = 0 if request.leave_one_site_out and not request.personalised else 5
    plan = ComparisonPlan(
        studies,
        folds,
        request.leave_one_site_out,
        tuple(range(seed, seed + request.repeats)),
        request.personalised,
    )
    _check(studies, cohorts, left_out=int(request.leave_one_site_out))
    found = compare(plan, cohorts, request.output, observer)
    notes = (*gathered.described.get("quality", {}).get("notes", ()), *notes)
    trainings = sum(1 for _ in plan.cells(sorted(cohorts)))
    result = Comparison(gathered.study, tables(plan, found), trainings, request.output, notes)
    (request.output / "result.json").write_text(json.dumps(result.to_json()), encoding="utf-8")
    write_page(request.output / "comparison.html", gathered.study, result.tables, trainings)
    return result


def _studies(study: Study, models: tuple[str, ...]) -> dict[str, Study]:
    """The study with each model, by the name that the tables show.

    Raises:
        MisuseError: a name stands twice, or a study file has other patients than the study.
    """
    found: dict[str, Study] = {}
    for model in models:
        name = Path(model).stem if model.endswith(_FILE) else model
        if name in found:
            raise MisuseError(f"--compare names '{name}' twice: name each once.")
        found[name] = (
            _trained_as(study, Path(model))
            if model.endswith(_FILE)
            else (api.override(study, model=model))
        )
    return found


def _trained_as(study: Study, path: Path) -> Study:
    """The study with model and training of another study file."""
    other, _ = api.read_study(path)
    if other.feature_schema != study.feature_schema:
        raise MisuseError(
            f"{path}: has other features, blocks or target than the study; models are compared "
            "on the same patients only."
        )
    document = study.model_dump(mode="json")
    taken = other.model_dump(mode="json")
    document |= {"model": taken["model"], "training": taken["training"]}
    wanted = document["metrics"]
    found = Study.from_document(
        {**document, "metrics": {**wanted, "evaluations": 0}}, source=str(path)
    )
    return found.with_(metrics={"evaluations": min(wanted["evaluations"], found.rounds)})


def _check(studies: Mapping[str, Study], cohorts: Mapping[str, Cohort], *, left_out: int) -> None:
    """Build every model and plan before the first training."""
    for study in studies.values():
        make_plan(study, len(cohorts) - left_out).check()


def _seed(request: Request) -> int:
    """The seed that was given, that of the comparison that goes on, or a new one."""
    begun = begun_with(request.output)
    if request.seed is None and begun:
        return begun[0]
    return secrets.randbelow(2**31) if request.seed is None else request.seed


def observe(console: PlainConsole) -> CellObserver:
    """A line for each training, on standard error."""

    def told(cell: Cell, number: int, count: int) -> None:
        folds = cell.scheme == "folds"
        what = f"fold {int(cell.part) + 1}" if folds else f"without site {cell.part}"
        console.print(
            f"{number}/{count} {cell.model}, {what}, seed {cell.seed}",
        )

    return told


def print_comparison(found: Comparison) -> None:
    """A table for each scheme, and where the page is."""
    out = PlainConsole()
    if not out.is_terminal:  # a file has no edge at which words would have to be cut
        out.width = max(out.width, _FILE_WIDTH)
    for table in found.tables:
        left_out = "folds of patients" if table.scheme == "folds" else "one site at a time"
        shown_table = Table(title=f"{found.study.title or found.study.name}: {left_out} left out")
        shown_table.add_column("Model", no_wrap=True)
        for measure in table.measures:
            shown_table.add_column(measure.heading, justify="right")
        shown_table.add_column(f"{table.headline.label}, 95 %", justify="right", no_wrap=True)
        shown_table.add_column(f"against {table.models[0].model}")
        for one in table.models:
            values = (shown(one.means.get(m.key), m.digits) for m in table.measures)
            against = in_words(one, table).partition(" (")[0]
            shown_table.add_row(one.model, *values, interval_in_words(one, table), against)
        out.print(shown_table)
    for note in found.notes:
        out.print(note, markup=False)
    out.print(privacy_in_words(found.study, found.trainings))
    out.print(f"Page: {found.folder / 'comparison.html'}")


def command(request: Request, *, as_json: bool) -> None:
    """Run, and print the outcome."""
    console = PlainConsole(err=True)
    found = run(request, (lambda *_: None) if as_json else observe(console))
    if as_json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
    else:
        print_comparison(found)
