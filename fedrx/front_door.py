"""What `import fedrx` offers: a study, its cohorts, one call.

Everything here only puts other rooms together: files into cohorts, knobs into a generator, a
simulation into a run folder that can be resumed.
"""

import re
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from fedrx.study_files import TASKS, new_study, template
from fedrx_client.data.load import LoadResult, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_models.cohort import Cohort
from fedrx_models.contract import get_vector
from fedrx_models.files import load_model
from fedrx_models.planning import make_plan
from fedrx_models.transfer import study_model
from fedrx_protocol.errors import DataError, FedRxError, MisuseError, RunError
from fedrx_protocol.roster import SITE_ID
from fedrx_protocol.schema import FeatureSchema
from fedrx_protocol.study import Study
from fedrx_server.run_folder import RunFolder
from fedrx_simulation.cohorts import draw_cohorts
from fedrx_simulation.cohorts.tables import write_tables
from fedrx_simulation.result import SimulationResult
from fedrx_simulation.simulate import (
    EngineName,
    Observer,
    SimulationOptions,
    start,
    stored_options,
)
from fedrx_simulation.simulate import resume as continue_run

_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class SyntheticSites:
    """Knobs of a synthetic consortium.

    Args:
        sites: Number of sites.
        patients: Least and most patients a site.
        heterogeneity: 0 for sites alike, 1 for one ancestry a site.
        missingness: Mean share of clinical values that were not recorded.
        shift: Measurement shift between sites, in standard deviations.
    """

    sites: int = 21
    patients: tuple[int, int] = (63, 789)
    heterogeneity: float = 0.7
    missingness: float = 0.2
    shift: float = 0.1


# Enough to see an omics model learn; the warfarin sites' sizes would take it many minutes.
_OMICS_SITES, _OMICS_PATIENTS = 8, (60, 240)


def synthetic_sites(
    study: Study,
    *,
    sites: int | None = None,
    patients: tuple[int, int] | None = None,
    heterogeneity: float = SyntheticSites.heterogeneity,
    missingness: float = SyntheticSites.missingness,
    shift: float = SyntheticSites.shift,
) -> SyntheticSites:
    """Synthetic sites for a study: as many as suit its family, where nothing is asked for.

    Args:
        study: The study.
        sites: Number of sites, if asked for.
        patients: Least and most patients a site, if asked for.
        heterogeneity: See `SyntheticSites`.
        missingness: See `SyntheticSites`.
        shift: See `SyntheticSites`.
    """
    usual = SyntheticSites(heterogeneity=heterogeneity, missingness=missingness, shift=shift)
    if study.blocks:
        usual = replace(usual, sites=_OMICS_SITES, patients=_OMICS_PATIENTS)
    return replace(
        usual,
        sites=usual.sites if sites is None else sites,
        patients=usual.patients if patients is None else patients,
    )


@dataclass(frozen=True)
class PatientFile:
    """A table of real patients that is split into sites.

    Args:
        data: CSV or Parquet file.
        mapping: Mapping file.
        split_by: Column that names each patient's site.
    """

    data: Path
    mapping: Path
    split_by: str


Source = SyntheticSites | PatientFile


def default_study() -> tuple[Study, str]:
    """The built-in warfarin study, and its text."""
    text = template("dose")
    return Study.parse(text, source=TASKS["dose"]), text


def read_study(path: Path | None) -> tuple[Study, str]:
    """A study file and its text; the built-in study for `None`."""
    if path is None:
        return default_study()
    return Study.load(path), path.read_text(encoding="utf-8")


def parse_range(text: str) -> tuple[int, int]:
    """Read `40..400` or `250`."""
    if text.isdigit():
        return int(text), int(text)
    found = _RANGE.fullmatch(text)
    if not found:
        raise MisuseError(f"--patients is '{text}': give a number, or a range such as 40..400.")
    return int(found[1]), int(found[2])


def override(
    study: Study,
    *,
    epsilon: float | None = None,
    privacy: str | None = None,
    model: str | None = None,
    rounds: int | None = None,
) -> Study:
    """A copy of `study` with the given values replaced, validated anew.

    Another model starts from that model's own defaults: the hyper-parameters in the file belong
    to the model in the file.
    """
    document = study.model_dump(mode="json")
    if epsilon is not None:
        document["privacy"]["epsilon"] = epsilon
    if privacy is not None and privacy != study.privacy.mode:
        document["privacy"]["mode"] = privacy
        document["training"]["steps"] = None
    if model is not None and model != study.model.name:
        document["model"] = {"name": model}
    if rounds is not None:
        document["training"]["rounds"] = rounds
        document["training"]["local"]["rounds"] = None
        document["metrics"]["evaluations"] = min(document["metrics"]["evaluations"], rounds)
    return Study.from_document(document, source="study")


def load_cohorts(source: Source, schema: FeatureSchema, seed: int) -> dict[str, Cohort]:
    """The cohorts of a simulation, by site."""
    if isinstance(source, PatientFile):
        return read_patients(source, schema).cohorts
    return draw_cohorts(
        schema,
        sites=source.sites,
        patients=source.patients,
        heterogeneity=source.heterogeneity,
        missingness=source.missingness,
        measurement_shift=source.shift,
        seed=seed,
    )


def read_patients(source: PatientFile, schema: FeatureSchema) -> LoadResult:
    """A patient file's cohorts by site, and what happened to every row."""
    mapping = TableMapping.load(source.mapping)
    loaded = load_split(source.data, mapping, schema, split_by=source.split_by)
    _check_site_ids(source, loaded.cohorts)
    return loaded


def _check_site_ids(source: PatientFile, sites: Iterable[str]) -> None:
    for site in sites:
        if not SITE_ID.fullmatch(site):
            raise DataError(
                f"{source.data}, column '{source.split_by}': {site!r} is no site id; use 1 to 64 "
                "letters, digits, '.', '_', '-', the first of them a letter or digit."
            )


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
        seed: Makes everything repeatable; drawn anew if left out.
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
        source = source or synthetic_sites(study)
        described = _describe(source)
        if isinstance(source, PatientFile):
            loaded = read_patients(source, study.feature_schema)
            cohorts, described["quality"] = loaded.cohorts, loaded.quality.to_dict()
        else:
            cohorts = load_cohorts(source, study.feature_schema, seed)
        study = sized(study, source, cohorts)
    folder = Path(output) if output else Path(tempfile.mkdtemp(prefix="fedrx-")) / study.name
    return start(
        study,
        cohorts,
        folder,
        options,
        source=described,
        study_text=study_text,
        start_from=None if start_from is None else Path(start_from),
        observer=observer,
    )


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
        _require_study(folder, study if isinstance(study, Study) else Study.load(study))
    if cohorts is None:
        with RunFolder.open(folder) as run:
            options, schema = stored_options(run), run.study.feature_schema
            described = run.meta.get("source", {})
        cohorts = load_cohorts(_source(folder, described), schema, options.seed)
    return continue_run(folder, cohorts, observer=observer)


def _require_study(folder: Path, study: Study) -> None:
    """Refuse the folder of another study; the file it was started from counts as its study.

    Options and the sizes of synthetic sites change a study before it runs, so its file alone no
    longer has the digest of the run.
    """
    written = folder / "study.toml"
    known = Study.load(written).digest if written.is_file() else None
    if study.digest != known:
        RunFolder.open(folder, study).close()


def study_cost(study: Study, sites: int) -> dict[str, Any]:
    """What a study will cost with a number of sites: noise, privacy, bytes a round.

    Raises:
        MisuseError: The study cannot be run with so many sites; says what to change.
    """
    plan = make_plan(study, sites)
    plan.check()
    weights = len(get_vector(study_model(study, seed=0)))
    between, final = plan.metrics_noise
    masked = max(plan.round(number, 0).layout.length for number in (1, study.final_round))
    return {
        "study": study.name,
        "digest": study.digest,
        "model": study.model.name,
        "weights": weights,
        "trained_weights": plan.dimension,
        "rounds": study.rounds,
        "evaluation_rounds": list(study.evaluation_rounds),
        "sites": sites,
        "threshold": plan.parameters.threshold,
        "max_colluding_sites": plan.parameters.max_colluding,
        "min_honest_sites": plan.parameters.min_honest,
        "privacy": {
            "mode": study.privacy.mode,
            "epsilon": None if study.privacy.mode == "none" else study.privacy.epsilon,
            "delta": study.privacy.delta,
            "noise_multiplier": plan.training_noise or None,
            "evaluation_noise_multiplier": between if isfinite(between) and between else None,
            "final_evaluation_noise_multiplier": final or None,
        },
        "bytes_up_per_site_and_round": 4 * masked,
        "bytes_down_per_site_and_round": 4 * weights,
    }


def new_run_folder(study: Study, now: datetime) -> Path:
    """Where `fedrx simulate` keeps a run if it is not told: `runs/NAME-TIME`."""
    return Path("runs") / f"{study.name}-{now:%Y%m%d-%H%M%S-%f}"


def write_patients(
    study: Path, folder: Path, *, sites: int, patients: str | None, seed: int
) -> tuple[Path, ...]:
    """Draw synthetic patients for a study and write them as tables with their mapping.

    Args:
        study: Study file.
        folder: To make; must not exist, or be empty.
        sites: Number of sites.
        patients: Range a site, as `parse_range` reads it; else about what the study expects.
        seed: Fixes what is drawn.
    """
    agreed, _ = read_study(study)
    size = min(agreed.cohort.patients // sites, agreed.cohort.largest_site)
    most = max(size, agreed.cohort.minimum_per_site)
    expected = (max(3 * most // 4, agreed.cohort.minimum_per_site), most)
    source = SyntheticSites(sites, parse_range(patients) if patients else expected)
    return write_tables(load_cohorts(source, agreed.feature_schema, seed), folder)


def sized(study: Study, source: Source, cohorts: Mapping[str, Cohort]) -> Study:
    """The study with the sizes of a synthetic consortium, whose knobs are public."""
    if not isinstance(source, SyntheticSites):
        return study
    sizes = [len(cohort) for cohort in cohorts.values()]
    least = min(study.cohort.minimum_per_site, *sizes)
    return study.with_(
        cohort={"patients": sum(sizes), "largest_site": max(sizes), "minimum_per_site": least}
    )


def _describe(source: Source) -> dict[str, Any]:
    """A source as JSON values; paths are made absolute, so that a run resumes from anywhere."""
    if isinstance(source, PatientFile):
        return {
            "kind": "file",
            "data": str(source.data.resolve()),
            "mapping": str(source.mapping.resolve()),
            "split_by": source.split_by,
        }
    return {"kind": "synthetic", **asdict(source)}


def _source(folder: Path, described: Mapping[str, Any]) -> Source:
    values = dict(described)
    kind = values.pop("kind", None)
    if kind == "file":
        return PatientFile(Path(values["data"]), Path(values["mapping"]), values["split_by"])
    if kind == "synthetic":
        return SyntheticSites(**{**values, "patients": tuple(values["patients"])})
    raise RunError(
        f"{folder}: its cohorts came from a notebook; resume it there with the same cohorts."
    )


__all__ = [
    "Cohort",
    "FedRxError",
    "PatientFile",
    "SimulationResult",
    "Source",
    "Study",
    "SyntheticSites",
    "default_study",
    "load_cohorts",
    "load_model",
    "new_run_folder",
    "new_study",
    "override",
    "parse_range",
    "read_patients",
    "read_study",
    "resume",
    "simulate",
    "sized",
    "study_cost",
    "synthetic_sites",
    "write_patients",
]
