"""Collects persons and events of many resources, in any order, and joins them by reference."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedrx_client.data.readers.fhir.elements import (
    TYPES,
    Passed,
    Resource,
    codes_of,
    id_of,
    raw_codes,
    reference_of,
)
from fedrx_client.data.readers.fhir.resources import KIND_OF, Keep, events_of, person_of
from fedrx_client.data.readers.records import Code, Event, Person, RecordKind, Records
from fedrx_common.errors import DataError


def keep_all(_kind: RecordKind, _codes: Sequence[Code]) -> bool:
    """Want every record."""
    return True


@dataclass
class Collection:
    """What was read so far; `records` joins it.

    Attributes:
        source: the file, folder or server, for errors.
        keep: whether a record with such codes is wanted.
    """

    source: str
    keep: Keep = keep_all
    _persons: dict[str, Person] = field(default_factory=dict)
    _patients: dict[str, str] = field(default_factory=dict)
    _drugs: dict[str, tuple[Code, ...]] = field(default_factory=dict)
    _drafts: list[tuple[Event, str]] = field(default_factory=list)
    _seen: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    _skipped: Counter[str] = field(default_factory=Counter)

    def add(self, place: str, content: object, full_url: object = None) -> None:
        """Read one resource; a type that is not read is passed over.

        Args:
            place: the entry or line in words.
            content: its JSON.
            full_url: the address that its bundle gives it.

        Raises:
            DataError: naming place and field, if it is not as FHIR R4 says.
        """
        if not isinstance(content, dict) or not isinstance(content.get("resourceType"), str):
            raise DataError(
                f"{self.source}, {place}: is not a FHIR resource: it has no resourceType; give a "
                "bundle or an NDJSON export of FHIR R4."
            )
        kind = content["resourceType"]
        if kind == "Bundle":  # a line of an export, or an answer in a bundle of answers
            entries = content.get("entry", [])
            for n, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
                self.add_entry(f"{place}, entry {n}", entry)
        if kind not in TYPES:
            return
        resource = Resource(self.source, f"{place} ({kind})", kind, content)
        url = full_url.lower() if isinstance(full_url, str) else ""
        try:
            if kind == "Patient":
                self._add_person(resource, url)
            elif kind == "Medication":
                codes = codes_of(resource.checked().code)
                self._drugs.update({f"Medication/{id_of(resource)}": codes, url: codes})
            elif self._may_be_wanted(resource):
                self._add_events(resource)
        except Passed as passed:
            self._skipped[str(passed)] += 1

    def add_entry(self, place: str, entry: object) -> None:
        """Read one entry of a bundle; without a resource it says what was deleted or refused.

        Raises:
            DataError: as `add`.
        """
        if not isinstance(entry, dict):
            raise DataError(f"{self.source}, {place}: is not an entry of a bundle.")
        if "resource" in entry:
            self.add(place, entry["resource"], entry.get("fullUrl"))

    def _add_person(self, resource: Resource, url: str) -> None:
        own = id_of(resource)
        patient = own or url.removeprefix("urn:uuid:") if own or url.startswith("urn:uuid:") else ""
        if not patient:
            raise resource.refused("id", "is missing, so that no record can belong to the Patient")
        person = person_of(resource, patient)
        known = self._persons.setdefault(patient, person)
        if replace(known, place="") != replace(person, place=""):
            raise resource.refused(
                "id", f"is that of another Patient too, at {known.place}; export them together"
            )
        self._patients |= {f"Patient/{patient}": patient}
        if url:
            self._patients[url] = patient

    def _may_be_wanted(self, resource: Resource) -> bool:
        """Look at the codes only: a resource that no column needs is passed over unchecked."""
        raw, kind = resource.content, KIND_OF[resource.kind]
        if kind == "drug" and "medicationReference" in raw:
            return True
        code = raw.get("medicationCodeableConcept" if kind == "drug" else "code")
        parts = raw.get("component")
        inner = parts if isinstance(parts, list) else []
        concepts = [code, *(one.get("code") for one in inner if isinstance(one, dict))]
        found = [codes for concept in concepts if (codes := raw_codes(concept))]
        return not found or any(self.keep(kind, codes) for codes in found)

    def _add_events(self, resource: Resource) -> None:
        own = id_of(resource)
        events = events_of(resource, self.keep)
        drug = ""
        if KIND_OF[resource.kind] == "drug" and not events[0].codes:
            events, drug = self._referenced(resource, events)
        if own:
            digest = hash(tuple(replace(event, place="") for event in events))
            place, first = self._seen.setdefault((resource.kind, own), (resource.place, digest))
            if place != resource.place:
                if digest == first:
                    raise Passed("given a second time")
                raise resource.refused(
                    "id",
                    f"is that of another {resource.kind} too, at {place}; export them together",
                )
        self._drafts += [(event, drug) for event in events]

    def _referenced(self, resource: Resource, events: list[Event]) -> tuple[list[Event], str]:
        """Find the drug that a reference names: contained in the resource, or one to come."""
        model = resource.checked()
        reference = reference_of(resource, "medicationReference", model.medicationReference)
        if not reference:
            raise Passed("the reference names no Medication")
        if not reference.startswith("#"):
            return events, reference
        contained: Any = resource.content.get("contained") or ()
        for one in contained if isinstance(contained, list) else ():
            named = isinstance(one, dict) and one.get("id") == reference[1:]
            if named and one.get("resourceType") == "Medication":
                inside = Resource(self.source, resource.place, "Medication", one)
                codes = codes_of(inside.checked().code)
                if not self.keep("drug", codes):
                    return [], ""
                return [replace(event, codes=codes) for event in events], ""
        raise Passed("the reference names no Medication")

    def records(self) -> Records:
        """Join events to their patients and drugs."""
        events = []
        skipped = self._skipped.copy()
        for event, drug in self._drafts:
            codes = self._drugs.get(drug, ()) if drug else event.codes
            patient = self._patients.get(event.patient)
            if patient is None:
                skipped["their Patient is not in the source"] += 1
            elif not codes:
                skipped["their Medication is not in the source, or has no code"] += 1
            elif not drug or self.keep("drug", codes):
                events.append(replace(event, patient=patient, codes=codes))
        return Records(
            self.source, dict(self._persons), tuple(events), dict(sorted(skipped.items()))
        )
