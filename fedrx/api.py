"""What `import fedrx` offers: a study, its cohorts, one call.

Everything here only puts other rooms together: files into cohorts, knobs into a generator, a
simulation into a run folder that can be resumed.
"""

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from fedrx.sources import (
    PatientFile,
    Source,
    SyntheticSites,
    gather,
    load_cohorts,
    parse_range,
    source_of,
    synthetic_sites,
    write_patients,
)
from fedrx.study_cost import study_cost
from fedrx.study_templates import TASKS, fitting_steps, new_study, template, under_noise
from fedrx_client.clinic.patient_file import EXAMPLE_PATIENT, write_patient
from fedrx_client.data.frames import cohort_frame, visits_frame
from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.pipeline import require_pipeline
from fedrx_common.errors import FedRxError, StudyError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.files import load_model
from fedrx_models.registry import check_config
from fedrx_protocol.study.study import Study
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.evaluation.result import SimulationResult
from fedrx_simulation.simulate import EngineName, Observer, SimulationOptions, start, stored_options
from fedrx_simulation.simulate import resume as continue_run


def default_study() -> tuple[Study, str]:
    """Give the built-in warfarin study, and its text."""
    text = template("dose")
    return Study.parse(text, source=TASKS["dose"]), text


def read_study(path: Path | None) -> tuple[Study, str]:
    """Read a study file, and give its text too; the built-in study for `None`."""
    if path is None:
        return default_study()
    study = Study.load(path)
    try:
        check_config(study.model)
    except StudyError as error:
        raise StudyError(*(f"{path}: {sentence}" for sentence in error.args)) from None
    return study, path.read_text(encoding="utf-8")


def read_cohort(
    source: Path | str, mapping: Path | str, study: Study | Path | str, *, site: str = "here"
) -> LoadResult:
    """Read one hospital's patients as a study would, from whatever it has.

    Args:
        source: A table (CSV, Parquet, Excel), FHIR files, a folder, or the address of a database
            or of a FHIR server.
        mapping: Mapping file.
        study: The study, or its file.
        site: Name of the site.

    Returns:
        `cohort`, `quality` (the account of every row); `cohort_frame` makes a DataFrame of it.

    Raises:
        DataError: Naming source, record and field, if anything in it cannot be used.
        PipelineChanged: The study pins another mapping.
    """
    agreed = study if isinstance(study, Study) else Study.load(study)
    declared = TableMapping.load(mapping)
    require_pipeline(agreed, declared)
    return load_cohort(source, declared, agreed.feature_schema, site=site)


def override(
    study: Study,
    *,
    epsilon: float | None = None,
    privacy: str | None = None,
    model: str | None = None,
    rounds: int | None = None,
) -> Study:
    """Copy `study` with the given values replaced, and validate the copy.

    Another model starts from that model's own defaults, or where noise is added from what is
    better then, as in a new study file: the hyper-parameters in the file belong to the model in
    the file, and so do the long steps of the dosing study.
    """
    document = study.model_dump(mode="json")
    if epsilon is not None:
        document["privacy"]["epsilon"] = epsilon
    if privacy is not None and privacy != study.privacy.mode:
        document["privacy"]["mode"] = privacy
        document["training"]["steps"] = None
    if model is not None and model != study.model.name:
        noisy = document["privacy"]["mode"] != "none"
        document["model"] = {"name": model, **(under_noise(model) if noisy else {})}
        training = document["training"]
        training["optimizer"] = fitting_steps(model, training["optimizer"])
    if rounds is not None:
        document["training"]["rounds"] = rounds
        document["training"]["local"]["rounds"] = None
        most = max(rounds, 0)  # a negative number is a mistake of its own, reported once
        document["metrics"]["evaluations"] = min(document["metrics"]["evaluations"], most)
    return Study.from_document(document, source="study")


def simulate(
    study: Study | str | Path | None = None,
    cohorts: Mapping[str, Cohort] | Sequence[Cohort] | None = None,
    *,
    source: Source | None = None,
    seed: int | None = None,
    engine: EngineName = "inprocess",
    dropout: float = 0.0,
    delay_s: float = 0.0,
    baselines: bool = True,
    output: Path | str | None = None,
    study_text: str | None = None,
    start_from: Path | str | None = None,
    observer: Observer = lambda _: None,
) -> SimulationResult:
    """Run a whole federated study on this machine.

    Args:
        study: A study, a study file, or `None` for the built-in warfarin study.
        cohorts: Patients by site; or `source`; or nothing for synthetic sites.
        source: A patient file or the knobs of synthetic sites.
        seed: Makes everything repeatable; drawn if left out.
        engine: `inprocess`, or `flower` for Flower's simulation on Ray.
        dropout: Chance that a site drops out of a round.
        delay_s: Mean reply time in simulated seconds; late replies are lost.
        baselines: Whether to train the pooled and the site-alone models too.
        output: Run folder to make; a temporary one if left out.
        study_text: The study file as written, to keep beside the run.
        start_from: Model file of the study that `[transfer]` names.
        observer: Called after every round.

    Raises:
        MisuseError: Something given cannot be used; no folder is made.
        StudyStopped: A round could not be completed; `fedrx.resume(folder)` continues.
    """
    if not isinstance(study, Study):
        study, study_text = read_study(None if study is None else Path(study))
    seed = secrets.randbelow(2**31) if seed is None else seed
    options = SimulationOptions(
        seed=seed, engine=engine, dropout=dropout, delay_s=delay_s, baselines=baselines
    )
    described: dict[str, Any] = {}
    if cohorts is None:
        gathered = gather(study, source or synthetic_sites(study), seed)
        study, cohorts, described = gathered.study, gathered.cohorts, gathered.described
    folder = Path(output) if output else Path(tempfile.mkdtemp(prefix="fedrx-")) / study.name
    result = start(
        study,
        cohorts,
        folder,
        options,
        source=described,
        study_text=study_text,
        start_from=None if start_from is None else Path(start_from),
        observer=observer,
    )
    if described.get("kind") == "synthetic":  # a real patient is written nowhere
        example = write_patient(
            next(iter(cohorts.values() if isinstance(cohorts, Mapping) else cohorts)), 0
        )
        (folder / EXAMPLE_PATIENT).write_text(json.dumps(example, indent=1), encoding="utf-8")
    return result


def resume(
    folder: Path | str,
    cohorts: Mapping[str, Cohort] | Sequence[Cohort] | None = None,
    *,
    study: Study | str | Path | None = None,
    observer: Observer = lambda _: None,
) -> SimulationResult:
    """Continue a simulation that was cut off.

    Args:
        folder: Its run folder.
        cohorts: The cohorts it was started with, if they came from a notebook.
        study: The study that the caller means; a run of another one is refused.
        observer: Called after every round.

    Raises:
        RunError: No run folder, one in use, one of another study, or its cohorts are not known.
        MisuseError: The cohorts are not those that the run was started with.
    """
    folder = Path(folder)
    if study is not None:
        meant = study if isinstance(study, Study) else Study.load(study)
        # Options and the sizes of synthetic sites change a study before it runs, so the digest of
        # its file is not the run's: the file that the run was started from counts as its study.
        written = folder / "study.toml"
        if not written.is_file() or Study.load(written).digest != meant.digest:
            RunFolder.open(folder, meant).close()
    if cohorts is None:
        with RunFolder.open(folder) as run:
            options, schema = stored_options(run), run.study.feature_schema
            described = run.meta.get("source", {})
        cohorts = load_cohorts(source_of(folder, described), schema, options.seed)
    return continue_run(folder, cohorts, observer=observer)


def new_run_folder(study: Study, now: datetime) -> Path:
    """Name the folder in which `fedrx simulate` keeps a run by default: `runs/NAME-TIME`."""
    return Path("runs") / f"{study.name}-{now:%Y%m%d-%H%M%S-%f}"


__all__ = [
    "Cohort",
    "FedRxError",
    "PatientFile",
    "SimulationResult",
    "Source",
    "Study",
    "SyntheticSites",
    "cohort_frame",
    "default_study",
    "load_cohorts",
    "load_model",
    "new_run_folder",
    "new_study",
    "override",
    "parse_range",
    "read_cohort",
    "read_study",
    "resume",
    "simulate",
    "study_cost",
    "synthetic_sites",
    "visits_frame",
    "write_patients",
]
