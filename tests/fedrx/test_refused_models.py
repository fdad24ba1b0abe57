"""What a study of blocks, outcomes or earlier weights cannot be run with: one sentence, code 2.

A valid study of expression and a toxicity over four sites; a test changes one thing. Of each kind
of file one mistake is enough here: the rest are in `tests/client/data/test_load_outcomes.py`.
"""

import pytest

from fedrx_models.files import save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection, Study

STUDY = """
name = "toxicity"
[cohort]
patients = 80
largest_site = 40
minimum_per_site = 5
[model]
name = "genomic_cnn"
channels = 4
[training]
rounds = 2
[privacy]
mode = "none"
[metrics]
evaluations = 0
[[features]]
name = "age"
kind = "number"
unit = "years"
minimum = 0
maximum = 110
mean = 60
scale = 15
[[blocks]]
name = "expression"
kind = "expression"
unit = "z"
minimum = -10.0
maximum = 10.0
genes = ["CYP2C9", "VKORC1", "TP53"]
[graph]
edges = [["CYP2C9", "VKORC1"]]
[target]
kind = "binary"
name = "toxic"
rate = 0.3
"""

SURVIVAL = """[target]
kind = "survival"
name = "relapse"
time_unit = "months"
edges = [3.0, 6.0, 12.0]
"""

MAPPING = """
[table]
patient = "id"
[target]
column = "toxic"
[features.age]
kind = "number"
column = "age"
unit = "years"
[blocks.expression]
file = "expression.csv"
patient = "id"
unit = "z"
"""

DATA = ("--data", "omics.csv", "--mapping", "omics.toml", "--split-by", "site", "--seed", "1")


def patients():
    """Eighty patients of four sites; a third of them had the toxicity."""
    rows = [f"p{i},s{i % 4},{40 + i % 40},{int(i % 3 == 0)},{1 + i % 15}" for i in range(80)]
    return "\n".join(["id,site,age,toxic,months", *rows]) + "\n"


def expression():
    rows = [f"p{i},{(i % 7) / 3},{(i % 5) / 2},{-(i % 3)}" for i in range(80)]
    return "\n".join(["id,CYP2C9,VKORC1,TP53", *rows]) + "\n"


@pytest.fixture
def omics(place):
    """Study and files, complete; `omics(file, old, new)` changes one thing."""
    files = {
        "omics-study.toml": STUDY,
        "omics.toml": MAPPING,
        "omics.csv": patients(),
        "expression.csv": expression(),
    }
    for name, text in files.items():
        (place / name).write_text(text)

    def change(name, old, new):
        assert old in files[name]
        (place / name).write_text(files[name].replace(old, new))

    return change


def test_what_the_others_change_runs(fedrx, omics):
    ran = fedrx("simulate", "omics-study.toml", *DATA, "--no-baselines", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["metrics"]) == {"federated"}


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (
            "omics.toml",
            "[blocks.expression]",
            '[blocks.proteome]\nfile = "p.csv"\npatient = "id"\nunit = "z"\n[blocks.expression]',
            "'blocks.proteome' is not in the study; its blocks are: expression",
        ),
        ("omics.toml", 'file = "expression.csv"', 'file = "e.csv"', "e.csv: there is no such"),
        ("expression.csv", "p0,0.0", "p0,high", "line 2, column 'CYP2C9': 'high' is not a number"),
        (
            "omics-study.toml",
            '[["CYP2C9", "VKORC1"]]',
            '[["CYP2C9", "BRCA1"]]',
            "the graph names gene 'BRCA1', which is in none of the study's blocks",
        ),
        ("omics-study.toml", '"TP53"]', '"TP53", "TP53"]', "gene 'TP53' stands twice"),
        ("omics.csv", ",1,", ",0,", "have the same outcome 'toxic': bring patients of both kinds"),
        ("omics.csv", ",1,", ",yes,", "'yes'"),
    ],
)
def test_blocks_and_outcomes_that_cannot_be_used(refused, omics, file, old, new, words):
    omics(file, old, new)
    assert words in refused("simulate", "omics-study.toml", *DATA)


def test_a_survival_outcome_without_events_is_refused(refused, omics):
    omics("omics-study.toml", STUDY[STUDY.index("[target]") :], SURVIVAL)
    omics("omics.toml", 'column = "toxic"', 'column = "months"\nunit = "months"\nevent = "toxic"')
    omics("omics.csv", ",1,", ",0,")
    said = refused("simulate", "omics-study.toml", *DATA)
    assert "nobody had the event 'relapse' before the last edge" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--folds", "30"), "has 20 patients, fewer than the 30 folds: use fewer folds"),
        (("--leave-one-site-out", "--personalised", "--folds", "0"), "--personalised needs"),
    ],
)
def test_a_cohort_smaller_than_the_folds_is_refused(refused, omics, options, words):
    compared = ("--models", "linear,mlp", *options, "--output", "c")
    assert words in refused("compare", "omics-study.toml", *DATA, *compared)


class TestEarlierWeights:
    """`[transfer]` and `--start-from`."""

    DIGEST = "ab" * 32

    @pytest.fixture
    def weights(self, place, omics):
        """A model of an earlier study, with the study file that starts from it."""
        section = f'[transfer]\nstudy = "{self.DIGEST}"\n[training]'
        omics("omics-study.toml", "[training]", section)
        schema = Study.load(place / "omics-study.toml").feature_schema

        def save(name="genomic_cnn", digest=self.DIGEST, **config):
            model = build_model(ModelSection(name=name, **config), schema, seed=1)
            save_model(place / "model.safetensors", model, digest)

        save(channels=4)
        return save

    def begin(self, *more):
        return ("simulate", "omics-study.toml", *DATA, "--no-baselines", *more)

    def test_they_are_what_it_starts_from(self, fedrx, weights):
        ran = fedrx(*self.begin("--start-from", "model.safetensors", "--json"))
        assert ran.code == 0, ran.err

    @pytest.mark.parametrize(
        ("saved", "words"),
        [
            ({"name": "mlp"}, "holds a model 'mlp', but the study trains 'genomic_cnn'"),
            ({"channels": 4, "digest": "cd" * 32}, "belongs to study cdcdcdcdcdcd, not abababab"),
            ({"channels": 8}, "was trained with model.channels = 8, but the study has 4"),
        ],
    )
    def test_those_of_another_model_or_study_are_refused(self, refused, weights, saved, words):
        weights(**saved)
        assert words in refused(*self.begin("--start-from", "model.safetensors"))

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ((), "give that study's model.safetensors with --start-from"),
            (("--start-from", "nowhere"), "nowhere: there is no such model file"),
            (("--start-from", "omics.csv"), "omics.csv: cannot be read as safetensors"),
        ],
    )
    def test_without_them_nothing_starts(self, refused, weights, more, words):
        assert words in refused("simulate", "omics-study.toml", *DATA, *more)

    def test_a_comparison_starts_from_no_earlier_weights(self, refused, weights):
        asked = refused("compare", "omics-study.toml", *DATA, "--models", "linear,mlp")
        assert "remove [transfer] from the study file" in asked

    def test_a_study_that_names_none_takes_none(self, refused, place, weights):
        (place / "omics-study.toml").write_text(STUDY)
        said = refused(*self.begin("--start-from", "model.safetensors"))
        assert "starts from no other study" in said
        assert "[transfer]" in said

    @pytest.mark.parametrize("digest", ["xyz", DIGEST[:12], DIGEST.upper()])
    def test_a_digest_that_is_none(self, refused, place, weights, digest):
        text = (place / "omics-study.toml").read_text().replace(self.DIGEST, digest)
        (place / "omics-study.toml").write_text(text)
        said = refused("study", "check", "omics-study.toml", "--sites", "4")
        assert f"'transfer.study' is '{digest[:50]}" in said
        assert "give all 64 hex digits" in said
        assert "report" in said

    def test_a_part_that_the_model_lacks_cannot_be_frozen(self, refused, place, weights):
        text = (place / "omics-study.toml").read_text()
        text = text.replace("[training]", 'freeze = ["encoder"]\n[training]')
        (place / "omics-study.toml").write_text(text)
        said = refused("study", "check", "omics-study.toml", "--sites", "4")
        assert "'transfer.freeze' names 'encoder', which is no part of model 'genomic_cnn'" in said
