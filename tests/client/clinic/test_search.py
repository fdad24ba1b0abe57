"""A patient found by id on a FHIR server, which is asked about no one else; a VCF called once."""

from urllib.parse import parse_qs, urlsplit

import pytest
from bedside import MAPPING, measurements, person
from fhir_town import FhirTown
from vcf_files import locus, record, reference, vcf

from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.patients import Search
from fedrx_client.data.column_sources import GenotypeColumn
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.genotype_columns import RememberedCalls
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError
from fedrx_protocol.study.study import Study

SCHEMA = Study.parse(template("dose"), source=TASKS["dose"]).feature_schema


def test_a_fhir_server_is_asked_about_one_patient_only(tmp_path):
    other = [{**one, "id": f"x{one['id']}"} for one in measurements("p2", weight=60)]
    town = FhirTown([person("p1"), person("p2"), *measurements("p1"), *other])
    with town.open() as address:
        search = Search(Source("server", address), TableMapping.parse(MAPPING), tmp_path)
        found = search.find("p1", SCHEMA)
        assert found.patients == ("p1",)
        assert float(found.values["weight_kg"][0]) == 80.0
        asked = [urlsplit(one) for one in town.asked if not one.startswith("metadata")]
        for one in asked:
            whose = parse_qs(one.query)
            if one.path == "Patient":
                assert whose["_id"] == ["p1"]
            elif one.path != "Medication":
                assert whose["patient"] == ["p1"]
        with pytest.raises(DataError, match="no patient of this id"):
            search.find("p9", SCHEMA)


def test_a_vcf_is_called_once_until_it_changes(tmp_path):
    def write(genotype):
        lines = reference("CYP2C9", {"rs1799853": [genotype]}, samples=1)
        lines.append(record(locus("rs9923231"), ["0/1"]))
        path.write_text(vcf(lines, samples=("p1",)))

    path = tmp_path / "laboratory.vcf"
    write("0/1")
    mapping = TableMapping.parse(
        '[table]\npatient = "id"\n[genotypes]\nfile = "laboratory.vcf"\n'
        '[columns.called]\ngene = "CYP2C9"\n'
    )
    made = {"called": mapping.columns["called"]}
    assert isinstance(made["called"], GenotypeColumn)
    source, calls = Source("fhir", str(tmp_path / "record")), RememberedCalls()
    first = calls(path, source, mapping, made)
    assert first.table.columns["called"][first.rows["p1"]] == "*1/*2"
    assert calls(path, source, mapping, made) is first
    write("1/1")
    second = calls(path, source, mapping, made)
    assert second.table.columns["called"][second.rows["p1"]] == "*2/*2"
