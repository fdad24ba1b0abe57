"""The one way in for patients to predict for: the study's own names, or the declared pipeline."""

from dataclasses import dataclass
from pathlib import Path

from fedrx_client.clinic.patient_file import read_patient_file, read_patients
from fedrx_client.data.ids import ids_in, normal_id
from fedrx_client.data.load import LoadResult, load_table, load_unlabelled, without_outcome
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.read import read_source, table_of_records
from fedrx_client.data.readers.selection import Selection
from fedrx_client.data.readers.source import Source
from fedrx_client.data.table import Table
from fedrx_common.errors import DataError, MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema

_IN_STUDY_NAMES = ".json"
_LONGEST_ID = 200

__all__ = ["Search", "load_patients", "read_patients"]


@dataclass(frozen=True)
class Search:
    """Where one patient is looked for by id, in what a site has.

    Attributes:
        source: a table, a file or folder, a database, or a FHIR server, which alone is asked about
            this patient only; all else is read whole.
        mapping: how it becomes features.
        folder: where the files are that the mapping names, if the source is an address.
    """

    source: Source
    mapping: TableMapping
    folder: Path

    def find(self, patient: str, schema: FeatureSchema, *, site: str = "here") -> Cohort:
        """Read one patient; what is wrong with another patient's rows does not matter.

        Args:
            patient: the id, as the source has it.
            schema: of the study.
            site: name of the cohort.

        Raises:
            DataError: there is no patient of that id, or naming record and field, if something of
                this patient cannot be used.
        """
        options = self.mapping.table
        wanted = normal_id(patient) if options.similar_ids == "same" else patient
        if not 0 < len(patient) <= _LONGEST_ID:
            raise DataError(f"the id of a patient has 1 to {_LONGEST_ID} characters.")
        mapping = without_outcome(self.mapping)
        table, beside = self._table(patient, mapping)
        table.require((options.patient,))
        ids = ids_in(table, options.patient, options)
        rows = [row for row, one in enumerate(ids) if one == wanted]
        if not rows:
            raise DataError(f"{self.source.name}: there is no patient of this id; check it.")
        loaded = load_table(table.select(rows), mapping, schema, site=site, source=beside)
        if not loaded.cohorts or len(loaded.cohort) != 1:
            why = ", ".join(loaded.quality.dropped) or "no row"
            raise DataError(
                f"{self.source.name}: the mapping leaves nothing of this patient ({why})."
            )
        return loaded.cohort

    def _table(self, patient: str, mapping: TableMapping) -> tuple[Table, Source]:
        """Read the source, and say beside which the files of the mapping are."""
        names = mapping.named_columns
        if self.source.kind != "server":
            return read_source(self.source, mapping, names), self.source
        from fedrx_client.data.readers.fhir import server  # noqa: PLC0415 - it takes 2 s

        found = server.read_server(
            self.source,
            Selection.of(mapping, names),
            only=patient,
            token=server.bearer_token(),
        )
        beside = Source("fhir", str(self.folder / self.source.name.replace("/", "_")))
        return table_of_records(found, beside, mapping, names), beside


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
