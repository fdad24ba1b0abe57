"""Blocks, graphs and kinds of outcome in a study file: what is agreed, and what is refused."""

import copy

import pytest

from fedrx_common.errors import StudyError
from fedrx_protocol.study.schema import (
    BinaryTarget,
    ContinuousTarget,
    FeatureSchema,
    PanelTarget,
    SurvivalTarget,
)
from fedrx_protocol.study.study import Study

BLOCK = {
    "name": "expression",
    "kind": "expression",
    "unit": "z",
    "minimum": -10.0,
    "maximum": 10.0,
    "genes": ["TP53", "MDM2", "HLA-A"],
}
TARGETS = {
    "continuous": {
        "name": "dose",
        "unit": "mg",
        "minimum": 0.0,
        "maximum": 9.0,
        "mean": 1.0,
        "scale": 2.0,
    },
    "binary": {"kind": "binary", "name": "toxic", "rate": 0.2},
    "survival": {"kind": "survival", "name": "relapse", "time_unit": "months", "edges": [6.0, 12]},
    "panel": {
        "kind": "panel",
        "name": "response",
        "unit": "ln uM",
        "minimum": -10.0,
        "maximum": 15.0,
        "drugs": [
            {"name": "a", "mean": 1.0, "scale": 1.0, "targets": ["TP53"]},
            {"name": "b", "mean": 2.0, "scale": 1.5, "compound": "a"},
        ],
    },
}
STUDY = {
    "name": "omics",
    "cohort": {"patients": 500, "largest_site": 100},
    "model": {"name": "linear"},
    "blocks": [BLOCK],
    "graph": {"edges": [["TP53", "MDM2"]]},
    "target": TARGETS["panel"],
}


def parse(document) -> Study:
    return Study.from_document(copy.deepcopy(document), source="s")


def finding(**changes) -> str:
    with pytest.raises(StudyError) as raised:
        parse({**STUDY, **changes})
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("continuous", ContinuousTarget),
        ("binary", BinaryTarget),
        ("survival", SurvivalTarget),
        ("panel", PanelTarget),
    ],
)
def test_the_kind_decides_the_outcome(kind, type_):
    study = parse({**STUDY, "target": TARGETS[kind]})
    assert type(study.target) is type_
    assert study.target.unit
    assert Study.model_validate_json(study.model_dump_json()) == study
    again = FeatureSchema.model_validate_json(study.feature_schema.model_dump_json())
    assert again == study.feature_schema


def test_what_an_old_study_does_not_say_is_not_in_its_canonical_form():
    document = {
        **STUDY,
        "features": [{"name": "x", "kind": "flag"}],
        "target": TARGETS["continuous"],
    }
    old = parse({key: value for key, value in document.items() if key not in {"blocks", "graph"}})
    dumped = old.model_dump(mode="json")
    assert not {"blocks", "graph"} & set(dumped)
    assert "kind" not in dumped["target"]
    spelt_out = {**dumped, "blocks": [], "target": {**dumped["target"], "kind": "continuous"}}
    assert parse(spelt_out).digest == old.digest


def test_the_example_has_the_digest_it_always_had(repository):
    study = Study.load(repository / "examples" / "warfarin" / "study.toml")
    assert study.digest == "023f94009b1b9bc46a223191a17b230754c67c0ee7d1b85473fee423111787b9"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["blocks"][0]["genes"].reverse(),
        lambda s: s["blocks"][0].update(scale=2.0),
        lambda s: s["blocks"][0].update(mean=[0.0, 0.0, 0.1]),
        lambda s: s["graph"]["edges"].append(["MDM2", "HLA-A"]),
        lambda s: s["target"]["drugs"][0].update(targets=["MDM2"]),
        lambda s: s["target"]["drugs"][1].update(compound="b"),
        lambda s: s.pop("graph"),
    ],
)
def test_the_digest_covers_blocks_graph_and_drugs(change):
    document = copy.deepcopy(STUDY)
    change(document)
    assert parse(document).digest != parse(STUDY).digest


def test_entries_of_one_compound_share_their_identity():
    drugs = parse(STUDY).target.drugs
    assert [drug.identity for drug in drugs] == ["a", "a"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": {"edges": [["TP53", "KRAS"]]}}, "the graph names gene 'KRAS', which is in none"),
        ({"graph": {"edges": [["TP53"]]}}, "'graph.edges.0.1'"),
        ({"graph": {"edges": []}}, "'graph.edges' is []: at least 1 needed"),
        ({"blocks": [{**BLOCK, "genes": ["A", "A"]}]}, "'blocks.0': gene 'A' stands twice"),
        ({"blocks": [{**BLOCK, "mean": 1e6}]}, "'blocks.0': mean 1e+06 must lie between"),
        ({"blocks": [{**BLOCK, "mean": [1.0, -1e6, 1.0]}]}, "mean -1e+06 must lie between"),
        (
            {"target": {**TARGETS["panel"], "drugs": [{"name": "a", "mean": 1e6, "scale": 1.0}]}},
            "'target': drug 'a': mean 1e+06 must lie between -10 and 15",
        ),
        ({"metrics": {"error_bound": 1e9}}, "maximum no error is above 25, and noise grows with"),
        ({"blocks": [{**BLOCK, "mean": [1.0]}]}, "mean has 1 values for 3 genes: give one, or"),
        ({"blocks": [{**BLOCK, "scale": [1.0, 0, 2.0]}]}, "scale 0 must be above 0"),
        ({"blocks": [{**BLOCK, "maximum": -10.0}]}, "minimum -10 must be below maximum -10"),
        ({"blocks": [{**BLOCK, "genes": ["A B"]}]}, "'blocks.0.genes.0' is 'A B': use letters"),
        ({"blocks": [{**BLOCK, "kind": "rna"}]}, "'blocks.0.kind' is 'rna': it should be 'expr"),
        ({"blocks": [{**BLOCK, "gene": 1}]}, "'blocks.0.gene'; allowed here: name, kind, unit"),
        ({"blocks": [BLOCK, BLOCK]}, "feature names must be unique, but expression is repeated"),
        ({"blocks": []}, "at least 1 item in features or blocks"),
        ({"target": {**TARGETS["binary"], "kind": "yes"}}, "'target.kind' is 'yes': use continu"),
        ({"target": {**TARGETS["binary"], "rate": 1}}, "'target.rate' is 1: it should be less"),
        ({"target": {**TARGETS["binary"], "x": 1}}, "'target.x'; allowed here: kind, name, rate"),
        ({"target": {**TARGETS["survival"], "edges": [6, 6]}}, "edges must rise from above 0"),
        ({"target": {**TARGETS["survival"], "edges": []}}, "'target.edges' is []: at least 1"),
        ({"target": {**TARGETS["panel"], "minimum": 15}}, "minimum 15 must be below maximum 15"),
        (
            {"target": {**TARGETS["panel"], "drugs": [TARGETS["panel"]["drugs"][0]] * 2}},
            "drug 'a' stands twice",
        ),
        (
            {
                "target": {
                    **TARGETS["panel"],
                    "drugs": [{**TARGETS["panel"]["drugs"][0], "smiles": "C"}],
                }
            },
            "'target.drugs.0.smiles'; allowed here: name, mean, scale, compound",
        ),
        ({"target": 5}, "'target' is 5: it must be a table"),
    ],
)
def test_what_cannot_be_agreed_on_is_one_sentence(changes, words):
    assert words in finding(**changes)
