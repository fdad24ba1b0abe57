"""Where a simulation's patients come from: knobs of synthetic sites, or a table of real ones."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedrx_client.data.load import LoadResult, load_dealt, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.pipeline import require_pipeline
from fedrx_client.data.readers.source import Source as PatientSource
from fedrx_common.errors import MisuseError, RunError
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import Study
from fedrx_protocol.trust.roster import SITE_ID
from fedrx_simulation.cohorts.draw import draw_cohorts
from fedrx_simulation.cohorts.tables import write_tables

_RANGE = re.compile(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?")


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


# Enough to see a new study file learn, and few enough to end within a minute on two cores: noise
# falls on every weight of a model of omics, and one of courses goes through every visit.
_OMICS = (8, (150, 600))
_COURSES = (4, (50, 100))


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
    if study.blocks or study.visits is not None:
        count, sizes = _OMICS if study.visits is None else _COURSES
        usual = replace(usual, sites=count, patients=sizes)
    return replace(
        usual,
        sites=usual.sites if sites is None else sites,
        patients=usual.patients if patients is None else patients,
    )


@dataclass(frozen=True)
class PatientFile:
    """Real patients that are split into sites.

    Args:
        data: a file (CSV, Parquet, Excel, FHIR), a folder, or the address of a database or server.
        mapping: Mapping file.
        split_by: Column that names each patient's site; or
        sites: into how many sites the patients of a table without such a column are dealt out.
    """

    data: Path | str
    mapping: Path
    split_by: str | None = None
    sites: int | None = None

    def __post_init__(self) -> None:
        if (self.split_by is None) == (self.sites is None):
            raise MisuseError(
                "a patient file needs --split-by COLUMN, or --sites NUMBER for a table that names "
                "no sites: give one of the two."
            )
        if self.sites is not None and self.sites < 1:
            raise MisuseError(f"sites is {self.sites}: use 1 or more.")


Source = SyntheticSites | PatientFile


def parse_range(text: str) -> tuple[int, int]:
    """Read `40..400` or `250`."""
    found = _RANGE.fullmatch(text)
    if not found:
        raise MisuseError(f"--patients is '{text}': give a number, or a range such as 40..400.")
    return int(found[1]), int(found[2] or found[1])


@dataclass(frozen=True)
class Gathered:
    """What a source gives a study.

    Attributes:
        study: With the sizes of synthetic sites; else as it was.
        cohorts: Patients by site.
        described: The source as JSON values, to find the same patients again.
    """

    study: Study
    cohorts: Mapping[str, Cohort]
    described: dict[str, Any]


def gather(study: Study, source: Source, seed: int) -> Gathered:
    """A simulation's patients, and the study that fits them."""
    described = _described(source)
    if isinstance(source, PatientFile):
        require_pipeline(study, TableMapping.load(source.mapping))
        loaded = read_patients(source, study.feature_schema)
        described["quality"] = loaded.quality.to_dict()
        return Gathered(study, loaded.cohorts, described)
    cohorts = load_cohorts(source, study.feature_schema, seed)
    return Gathered(_sized(study, source, cohorts), cohorts, described)


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
    if source.sites is not None:
        return load_dealt(source.data, mapping, schema, sites=source.sites)
    return _with_site_ids(load_split(source.data, mapping, schema, split_by=source.split_by or ""))


def _with_site_ids(loaded: LoadResult) -> LoadResult:
    """The same patients, at sites whose ids a roster and a file's name can hold."""
    ids = site_ids(loaded.cohorts)
    cohorts = {ids[name]: replace(one, site=ids[name]) for name, one in loaded.cohorts.items()}
    renamed = ", ".join(f"'{name}' is {site}" for name, site in ids.items() if name != site)
    if not renamed:
        return loaded
    notes = (*loaded.quality.notes, f"Sites have ids of plain letters: {renamed}.")
    return LoadResult(cohorts, replace(loaded.quality, notes=notes))


def site_ids(names: Iterable[str]) -> dict[str, str]:
    """An id for each site of a simulation, by its name; one that is an id already is kept.

    Accents are left out and other signs become '-'; a name of which nothing is left, as of one in
    another script, is 'site'. What is taken gets a number. The same names get the same ids, in
    whatever order they come.
    """
    listed = list(names)
    found = {name: name for name in listed if SITE_ID.fullmatch(name)}
    taken = set(found)
    for name in sorted(set(listed) - taken):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:56] or "site"
        tries = (stem, *(f"{stem}-{number}" for number in range(2, len(listed) + 2)))
        found[name] = next(one for one in tries if one not in taken)
        taken.add(found[name])
    return {name: found[name] for name in listed}


def write_patients(
    study: Study, folder: Path, *, sites: int, patients: str | None, seed: int
) -> tuple[Path, ...]:
    """Draw synthetic patients for a study and write them as tables with their mapping.

    Args:
        study: The study.
        folder: To make; must not exist, or be empty.
        sites: Number of sites.
        patients: Range a site, as `parse_range` reads it; else about what the study expects.
        seed: Fixes what is drawn.
    """
    size = min(study.cohort.patients // sites, study.cohort.largest_site)
    most = max(size, study.cohort.minimum_per_site)
    expected = (max(3 * most // 4, study.cohort.minimum_per_site), most)
    source = SyntheticSites(sites, parse_range(patients) if patients else expected)
    return write_tables(load_cohorts(source, study.feature_schema, seed), folder)


def _sized(study: Study, source: Source, cohorts: Mapping[str, Cohort]) -> Study:
    """The study with the sizes of a synthetic consortium, whose knobs are public."""
    if not isinstance(source, SyntheticSites):
        return study
    sizes = [len(cohort) for cohort in cohorts.values()]
    least = min(study.cohort.minimum_per_site, *sizes)
    return study.with_(
        cohort={"patients": sum(sizes), "largest_site": max(sizes), "minimum_per_site": least}
    )


def _described(source: Source) -> dict[str, Any]:
    """A source as JSON values; paths are made absolute, so that a run resumes from anywhere."""
    if isinstance(source, PatientFile):
        return {
            "kind": "file",
            "data": PatientSource.parse(source.data).kept,
            "mapping": str(source.mapping.resolve()),
            "split_by": source.split_by,
            "sites": source.sites,
        }
    return {"kind": "synthetic", **asdict(source)}


def source_of(folder: Path, described: Mapping[str, Any]) -> Source:
    """The source that a run folder describes; raises `RunError` if a notebook gave the cohorts."""
    values = dict(described)
    kind = values.pop("kind", None)
    if kind == "file":
        split_by, sites = values.get("split_by"), values.get("sites")
        return PatientFile(values["data"], Path(values["mapping"]), split_by, sites)
    if kind == "synthetic":
        return SyntheticSites(**{**values, "patients": tuple(values["patients"])})
    raise RunError(
        f"{folder}: its cohorts came from a notebook; resume it there with the same cohorts."
    )
