"""The options that `fedrx simulate` and `fedrx compare` share: a study and its patients."""

from collections.abc import Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from click.core import ParameterSource

from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx.api import Source, Study

# Half of what a generator takes, so that the seeds after it, one for each repeat, fit too.
LARGEST_SEED = 2**63 - 1

# What shapes synthetic sites and says nothing about a file of real patients.
_SYNTHETIC = frozenset({"--patients", "--heterogeneity", "--missingness", "--shift"})

# Panels of `--help`.
PATIENTS = "Patients"
STUDY = "What differs from the study file"
RUN = "How it runs"
OUTPUT = "Output"


def there(sentence: str) -> Callable[[Path | None], Path | None]:
    """Make a callback that refuses a path with nothing there, before torch is imported."""

    def refuse(path: Path | None) -> Path | None:
        if path is not None and not path.exists():
            raise MisuseError(f"{path}: {sentence}")
        return path

    return refuse


# Repeated from those who read the files, and who look again.
study_there = there("no such study file; `fedrx study new` writes one.")
mapping_there = there("there is no such mapping file.")
model_there = there("there is no such model file.")

StudyFile = Annotated[
    Path | None,
    typer.Argument(
        help="Study file; the built-in warfarin study if left out.", callback=study_there
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "--source",
        help="Real patients: a table (CSV, Parquet, Excel), a folder, a database or FHIR address.",
        rich_help_panel=PATIENTS,
    ),
]
Mapping = Annotated[
    Path | None,
    typer.Option(
        help="How the file's columns become features (TOML).",
        callback=mapping_there,
        rich_help_panel=PATIENTS,
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        help="Column of the file that names each patient's site.", rich_help_panel=PATIENTS
    ),
]
Sites = Annotated[
    int | None,
    typer.Option(
        help="Number of synthetic sites (21, or 8 with omics blocks, or 4 with visits), or of "
        "parts into which the patients of --data are dealt, where it names no sites.",
        rich_help_panel=PATIENTS,
    ),
]
Patients = Annotated[
    str | None,
    typer.Option(
        help="Patients a synthetic site, as LEAST..MOST; 63..789, 150..600 or 50..100.",
        rich_help_panel=PATIENTS,
    ),
]
Heterogeneity = Annotated[
    float,
    typer.Option(help="0: sites alike; 1: each site has one ancestry.", rich_help_panel=PATIENTS),
]
Missingness = Annotated[
    float, typer.Option(help="Mean share of unrecorded clinical values.", rich_help_panel=PATIENTS)
]
Shift = Annotated[
    float,
    typer.Option(
        help="Measurement shift between sites, in standard deviations.", rich_help_panel=PATIENTS
    ),
]
Epsilon = Annotated[
    float | None, typer.Option(help="Overrides privacy.epsilon.", rich_help_panel=STUDY)
]
Privacy = Annotated[
    str | None,
    typer.Option(help="Overrides privacy.mode: distributed, local or none.", rich_help_panel=STUDY),
]
Rounds = Annotated[
    int | None, typer.Option(help="Overrides training.rounds.", rich_help_panel=STUDY)
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT),
]


def given(context: typer.Context) -> frozenset[str]:
    """The options and arguments on the command line, by their names."""
    return frozenset(
        next((one for one in parameter.opts if one.startswith("--")), parameter.opts[0])
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    )


def refuse_together(option: str, found: Set[str], *, allowed: Set[str]) -> None:
    """Refuse options that would be ignored beside `option`, if that one was given."""
    useless = sorted(found - allowed)
    if option in found and useless:
        raise MisuseError(
            f"{' and '.join(useless)} cannot be given with {option}: leave one of them out."
        )


def refuse_shapes_of_a_file(found: Set[str]) -> None:
    """Refuse options of synthetic sites beside a file of real patients."""
    refuse_together("--data", found, allowed=found - _SYNTHETIC)


def study_and_patients(
    study: Path | None,
    *,
    data: str | None,
    mapping: Path | None,
    split_by: str | None,
    sites: int | None,
    patients: str | None,
    heterogeneity: float,
    missingness: float,
    shift: float,
) -> "tuple[Study, str, Source]":
    """The study, its text, and the patients that the options name: a file's or synthetic ones.

    Raises:
        MisuseError: the study cannot be used, or only a part of a patient file is described.
    """
    from fedrx import api

    named = {"--data": data, "--mapping": mapping}
    missing = [name for name, path in named.items() if path is None]
    if missing and (len(missing) == 1 or split_by is not None):
        raise MisuseError(
            "a patient file needs --data and --mapping, and --split-by COLUMN or --sites NUMBER: "
            f"give {' and '.join(missing)} too."
        )
    agreed, text = api.read_study(study)
    if data is not None and mapping is not None:
        return agreed, text, api.PatientFile(data, mapping, split_by, sites)
    synthetic = api.synthetic_sites(
        agreed,
        sites=sites,
        patients=None if patients is None else api.parse_range(patients),
        heterogeneity=heterogeneity,
        missingness=missingness,
        shift=shift,
    )
    return agreed, text, synthetic
