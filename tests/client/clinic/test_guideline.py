"""A published guideline beside a model's dose: the line of the table, and a disagreement first."""

from datetime import date

import numpy as np
import pytest

from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.guideline.genes import gene_result
from fedrx_client.clinic.guideline.guidance import guideline_for
from fedrx_client.clinic.guideline.table import GUIDELINES, guideline_table
from fedrx_client.clinic.patient_file import read_patients
from fedrx_client.clinic.predict import PatientPrediction, Point, predict
from fedrx_client.data.harmonise.alleles.tables import GENES, gene_table
from fedrx_common.errors import MisuseError
from fedrx_models.card import ModelCard
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.files import ModelFile, load_model, save_model
from fedrx_models.pharmacogenomic.published_model import published_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, Study

STUDY = Study.parse(template("dose"), source=TASKS["dose"])
SCHEMA = STUDY.feature_schema


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    card = ModelCard(study=STUDY.name, made=date(2026, 1, 2))
    return load_model(
        save_model(path, published_model("pharmacogenetic", SCHEMA), STUDY.digest, card)
    )


def patient(**changes):
    features = {
        "age_decade": 6,
        "height_cm": 170,
        "weight_kg": 80,
        "vkorc1": "A/G",
        "cyp2c9": "*1/*3",
        "race": "White",
        "asian_population": None,
        "gender": "female",
        "enzyme_inducer": False,
        "amiodarone": False,
        "smoker": None,
        "valve_replacement": False,
        "thromboembolism": False,
    }
    one = {"patient": "p1", "features": {**features, **changes}}
    return read_patients([one], SCHEMA, source="p.json").cohort


def answer(value, unit="mg/week"):
    return PatientPrediction("p1", (Point("dose", value, unit, 0.0, 2 * value),), 0.9, (), ())


# FDA label, table of expected maintenance doses (mg/day), by CYP2C9 and VKORC1.
LABEL = {
    "G/G": ("5 to 7", "5 to 7", "3 to 4", "3 to 4", "3 to 4", "0.5 to 2"),
    "A/G": ("5 to 7", "3 to 4", "3 to 4", "3 to 4", "0.5 to 2", "0.5 to 2"),
    "A/A": ("3 to 4", "3 to 4", "0.5 to 2", "0.5 to 2", "0.5 to 2", "0.5 to 2"),
}
CYP2C9 = ("*1/*1", "*1/*2", "*1/*3", "*2/*2", "*2/*3", "*3/*3")


@pytest.mark.parametrize("vkorc1", sorted(LABEL))
@pytest.mark.parametrize("place", range(6))
def test_every_cell_of_the_labels_table(model, vkorc1, place):
    cohort = patient(vkorc1=vkorc1, cyp2c9=CYP2C9[place])
    says, _ = guideline_for("warfarin", SCHEMA)(model, cohort, answer(35.0))
    assert f"FDA label: {LABEL[vkorc1][place]} mg/day" in " ".join(says)
    assert ("consider another anticoagulant" in " ".join(says)) == (place >= 4)
    assert "2017 update" in says[-1]
    assert "CC0 1.0" in says[-1]


def test_the_algorithm_that_the_guideline_recommends_agrees_with_itself(model):
    cohort = patient()
    (found,) = predict(model, cohort)
    says, disagrees = guideline_for("warfarin", SCHEMA)(model, cohort, found)
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 80 - 0.8677 - 0.9357
    assert f"{root**2:.3g} mg/week" in " ".join(says)
    assert disagrees == ""


@pytest.mark.parametrize(
    ("share", "allowed", "told"),
    [(1.24, 0.25, ""), (1.3, 0.25, "30 % above"), (0.7, 0.25, "30 % below"), (1.3, 0.5, "")],
)
def test_a_dose_too_far_from_the_guideline_is_said(model, share, allowed, told):
    cohort = patient()
    (found,) = predict(model, cohort)
    value = share * found.points[0].value
    _, disagrees = guideline_for("warfarin", SCHEMA, allowed)(model, cohort, answer(value))
    assert told in disagrees
    assert bool(disagrees) == bool(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"race": "Black or African American"}, "Without genes"),
        ({"cyp2c9": None}, "Without genes"),
        ({"cyp2c9": None, "vkorc1": None}, "CYP2C9 and VKORC1, not known"),
    ],
)
def test_where_the_guideline_doses_without_genes(model, changes, told):
    cohort = patient(**changes)
    says, _ = guideline_for("warfarin", SCHEMA)(model, cohort, answer(35.0))
    assert told in " ".join(says)


def study_of(gene_values, unit="%", name="dose_percent"):
    features = [
        {"name": gene, "kind": "category", "values": list(values)}
        for gene, values in gene_values.items()
    ]
    target = {"name": name, "kind": "continuous", "unit": unit, "minimum": 0.0}
    target |= {"maximum": 1000.0, "transform": "identity", "mean": 100.0, "scale": 20.0}
    return FeatureSchema.model_validate({"features": features, "target": target})


@pytest.mark.parametrize(
    ("name", "genes", "value", "told", "disagrees"),
    [
        ("clopidogrel", {"cyp2c19": "*2/*1"}, 75, "Avoid clopidogrel at the standard", "against"),
        ("clopidogrel", {"cyp2c19": "*1/*17"}, 75, "standard dose of 75 mg/day", ""),
        ("clopidogrel", {"cyp2c19": "*2/*3"}, 75, "prasugrel or ticagrelor", "against"),
        ("simvastatin", {"slco1b1": "*1/*5"}, 15, "less than 20 mg/day", ""),
        ("simvastatin", {"slco1b1": "*1/*5"}, 40, "less than 20 mg/day", "100 % above"),
        ("simvastatin", {"slco1b1": "*5/*15"}, 20, "Another statin", "against"),
        ("fluoropyrimidines", {"dpyd": "Reference/c.1905+1G>A (*2A)"}, 50, "Half", ""),
        ("fluoropyrimidines", {"dpyd": "Reference/Reference"}, 50, "label's dose", "50 % below"),
        ("fluoropyrimidines", {"dpyd": "Poor Metabolizer"}, 50, "Avoid fluorouracil", "against"),
        ("thiopurines", {"tpmt": "*1/*3A", "nudt15": "*1/*3"}, 90, "20 to 50 %", "80 % above"),
        ("thiopurines", {"tpmt": "*3A/*3C", "nudt15": "*1/*1"}, 10, "a tenth", "against"),
        ("thiopurines", {"tpmt": "*1/*3A", "nudt15": "*1/*1"}, 60, "30 to 80 %", ""),
        ("tacrolimus", {"cyp3a5": "*1/*3"}, 100, "1.5 to 2 times", "33 % below"),
        ("tacrolimus", {"cyp3a5_phenotype": "poor metabolizer"}, 100, "standard recommended", ""),
        ("tacrolimus", {"cyp3a5": "other"}, 100, "not known", ""),
    ],
)
def test_phenotype_by_phenotype(tmp_path, name, genes, value, told, disagrees):
    unit = "mg/day" if name in {"clopidogrel", "simvastatin"} else "%"
    schema = study_of({gene: (found, "none") for gene, found in genes.items()}, unit=unit)
    built = build_model(ModelSection(name="linear"), schema, seed=1)
    cohort = Cohort(
        site="here",
        schema=schema,
        patients=("p1",),
        values={gene: np.zeros(1, np.int16) for gene in genes},
        target=np.full(1, 100.0),
    )
    file = ModelFile(built, "0" * 64)
    says, far = guideline_for(name, schema)(file, cohort, answer(float(value), unit))
    assert told in " ".join(says), says
    assert disagrees in far
    assert bool(far) == bool(disagrees), far


@pytest.mark.parametrize("name", GUIDELINES)
def test_a_table_speaks_of_results_that_its_genes_have(name):
    table = guideline_table(name)
    for line in table.recommendation:
        for gene, wanted in line.when.items():
            known = gene_table(gene)
            assert gene in GENES
            for one in wanted:
                phenotypes = set(known.phenotypes.values())
                alleles = set(known.names) | {"G", "A"}
                scores = one.startswith("activity ") and bool(known.activity)
                assert one in phenotypes or scores or set(one.split("/")) <= alleles, (gene, one)
    assert table.address.startswith("https://cpicpgx.org/")
    assert table.licence == "CC0 1.0"


def test_the_result_is_shown_with_its_phenotype():
    assert gene_result(patient(), 0, "CYP2C9").shown == "*1/*3 (Intermediate Metabolizer)"


@pytest.mark.parametrize(
    ("name", "share", "told"),
    [
        ("aspirin", 0.25, "there is no guideline"),
        ("clopidogrel", 0.25, "needs CYP2C19"),
        ("warfarin", 0.0, "disagreement of 0.0"),
        ("warfarin", float("nan"), "disagreement of nan"),
    ],
)
def test_a_guideline_that_cannot_be_given_is_one_sentence(name, share, told):
    with pytest.raises(MisuseError, match=told):
        guideline_for(name, SCHEMA, share)
