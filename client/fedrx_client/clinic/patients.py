"""The one way in for patients to predict for: the study's own names, or the declared pipeline."""

from pathlib import Path

from fedrx_client.clinic.patient_file import read_patient_file, read_patients
from fedrx_client.data.load import LoadResult, load_unlabelled
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import MisuseError
from fedrx_protocol.study.schema import FeatureSchema

_IN_STUDY_NAMES = ".json"

__all__ = ["load_patients", "read_patients"]


def load_patients(
    source: Path | str, schema: FeatureSchema, mapping: TableMapping | None, *, site: str = "here"
) -> LoadResult:
    """Read patients whose outcome is not known, or not looked at.

    Args:
        source: a `patient.json` in the study's own names; or with a mapping anything that a study
            is trained on.
        schema: the study's.
        mapping: how the source becomes features; None for a `patient.json`.
        site: name of the cohort.

    Raises:
        DataError: naming source, record and field, if anything in it cannot be used.
        MisuseError: the source needs a mapping.
    """
    if mapping is not None:
        return load_unlabelled(source, mapping, schema, site=site)
    if not str(source).endswith(_IN_STUDY_NAMES):
        raise MisuseError(
            f"{source}: needs a mapping that says how it becomes the study's features; give "
            "--mapping, or a patient.json in the study's own names."
        )
    return read_patient_file(source, schema, site=site)
