"""A record system's resources as one patient of a study, through the declared pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedrx_client.clinic.service.serving import Read
from fedrx_client.data.harmonise.codes.value_sets import addresses_of
from fedrx_client.data.load import load_table
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.genotype_columns import RememberedCalls
from fedrx_client.data.readers.read import table_of_records
from fedrx_client.data.readers.records import Code, RecordKind
from fedrx_client.data.readers.selection import Selection
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema

_PLACE = "the record"
_SITE = "bedside"
_TYPES: Mapping[RecordKind, tuple[str, ...]] = MappingProxyType(
    {
        "measurement": ("Observation",),
        "drug": ("MedicationRequest", "MedicationStatement"),
        "condition": ("Condition",),
    }
)
_MOST_CODES = 60  # of a query; a longer address is refused by some servers


def reader(mapping: TableMapping, schema: FeatureSchema, folder: Path) -> Read:
    """Make what reads one patient of the resources that came with a question.

    Args:
        mapping: its columns are made of records, and of the genotypes of a VCF in the folder.
        schema: the model's.
        folder: where the files are that the mapping names.

    Raises:
        DataError: the mapping does not fit the study, or names a code that does not exist.
    """
    from fedrx_client.data.readers.fhir.collect import Collection  # noqa: PLC0415 - it takes 2 s

    mapping.check_inputs(schema)
    wanted = mapping.named_columns
    selection = Selection.of(mapping, wanted)
    source, calls = Source("fhir", str(folder / _PLACE)), RememberedCalls()

    def read(resources: Sequence[Mapping[str, Any]], patient: str) -> Cohort:
        found = Collection(_PLACE, selection.wants)
        for number, resource in enumerate(resources, 1):
            found.add(f"resource {number}", resource)
        records = found.records()
        if len(records.persons) != 1 or patient not in records.persons:
            raise DataError(
                f"{_PLACE}: holds {len(records.persons)} patients, or another one than is asked "
                "about; send the resources of that one patient."
            )
        table = table_of_records(records, source, mapping, wanted, call=calls)
        return load_table(table, mapping, schema, site=_SITE, source=source).cohort

    return read


def prefetch_of(mapping: TableMapping) -> dict[str, str]:
    """List the FHIR queries that give a mapping its records, by name, as discovery tells them."""
    selection = Selection.of(mapping, mapping.named_columns)
    found = {"patient": "Patient/{{context.patientId}}"}
    for kind, types in _TYPES.items():
        codes = sorted(selection.codes(kind), key=lambda one: (one.system, one.code))
        if not codes:
            continue
        # Many codes make an address that is too long: then all of the type are asked for.
        tokens = f"&code={','.join(_tokens(codes))}" if len(codes) <= _MOST_CODES else ""
        for one in types:
            found[one.lower()] = f"{one}?patient={{{{context.patientId}}}}{tokens}"
    return found


def _tokens(codes: Iterable[Code]) -> list[str]:
    """Write codes as FHIR searches them, `system|code`, each system by every address it has."""
    return [
        f"{address}|{one.code}"
        for one in codes
        if one.system != "omop"
        for address in addresses_of(one.system)[:1]
    ]


def orders_of(bundle: Mapping[str, Any]) -> frozenset[Code]:
    """Read the codes of the drugs that a bundle of draft orders orders."""
    from fedrx_client.data.readers.fhir.elements import raw_codes  # noqa: PLC0415 - it takes 2 s

    entries = bundle.get("entry")
    orders = [one.get("resource") for one in entries or () if isinstance(one, Mapping)]
    return frozenset(
        code
        for order in orders
        if isinstance(order, Mapping) and order.get("resourceType") == "MedicationRequest"
        for code in raw_codes(order.get("medicationCodeableConcept"))
    )
