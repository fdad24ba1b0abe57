"""`fedrx study new --model` writes files that run at once; `fedrx compare` says which is better."""

import re

import pytest

from fedrx import api
from fedrx.study_templates import TASKS, model_section, new_study, template
from fedrx_models.registry import FACTORIES, build_model, models_of
from fedrx_protocol.study import study as study_file
from fedrx_protocol.study.study import Study

QUICK = ("--sites", "4", "--patients", "30..40", "--rounds", "2", "--seed", "2")
NEEDS_BLOCKS = {"drug_gene_gnn", "multiomics_vae"}
SECTIONS = (
    study_file.CohortSection,
    study_file.TrainingSection,
    study_file.OptimizerSection,
    study_file.LocalTrainingSection,
    study_file.PrivacySection,
    study_file.SecureAggregationSection,
    study_file.MetricsSection,
    study_file.ScheduleSection,
    study_file.TransferSection,
)
SETTINGS = {key for section in SECTIONS for key in section.model_fields} - {"optimizer", "local"}
SETTINGS -= {"error_bound", "calibration", "calibration_share"}  # for outcomes with a unit only
AT_DEFAULT = (
    *("minimum_per_site", "huber_delta", "mixed_precision", "beta2", "weight_decay", "proximal"),
    *("reserve_rounds", "final_share", r"\[schedule", "round_deadline_s", "attempts"),
    *(r"\[training.local", 'name = "sgd"', "learning_rate", "momentum", "decay"),
)


@pytest.mark.parametrize("model", FACTORIES)
@pytest.mark.parametrize("task", TASKS)
def test_every_model_has_a_file_for_every_task_it_can_do(fedrx, place, model, task):
    ran = fedrx("study", "new", "--model", model, "--task", task, "--output", "new.toml")
    flux = template(task).count('kind = "forecast"') > 0
    if (task == "dose" and model in NEEDS_BLOCKS) or flux != (model in models_of("flux")):
        assert ran.code == 2
        can, offered = ran.err.split("cannot do --task")
        assert f"--model is '{model}', which " in can
        # What it offers instead can do the task.
        assert (task == "dose") <= NEEDS_BLOCKS.isdisjoint(re.findall(r"\w+", offered))
        assert not (place / "new.toml").exists()
        return
    assert ran.code == 0, ran.err
    study = Study.load(place / "new.toml")
    assert study.model.name == model
    build_model(study.model, study.feature_schema, seed=0)
    assert (place / "new.toml").read_text().count("# ") > 8


@pytest.mark.parametrize("model", FACTORIES)
def test_the_model_section_holds_every_hyper_parameter_at_its_default(model):
    text = model_section(model, private=False)
    study = Study.parse(template("toxicity").replace('[model]\nname = "linear"\n', text))
    config = FACTORIES[model].config
    assert config.model_validate(study.model.parameters) == config()
    for key, field in config.model_fields.items():
        assert f"{key} =" in text
        assert field.description, f"{key} has no comment in a new study file"


@pytest.mark.parametrize("task", TASKS)
def test_a_new_file_shows_every_setting_and_what_is_commented_out_is_the_default(task):
    text = new_study(None, task)
    for key in SETTINGS:
        assert re.search(rf"^(# )?{key} = ", text, re.MULTILINE), key
    # Of the others the default follows from the mode and the number of sites.
    shown = re.sub(rf"^# ({'|'.join(AT_DEFAULT)})", r"\1", text, flags=re.MULTILINE)
    assert shown.count("\n# ") < text.count("\n# ") - 8
    for study in (Study.parse(text), Study.parse(shown)):
        build_model(study.model, study.feature_schema, seed=0)
        assert study.with_(model={"huber_delta": 1.0}) == Study.parse(shown).with_(
            model={"huber_delta": 1.0}
        )


def test_under_noise_a_vae_gives_nothing_back():
    study = Study.parse(new_study("multiomics_vae", "toxicity"))
    assert study.privacy.mode == "distributed"
    assert (study.model.parameters["reconstruction"], study.model.parameters["kl"]) == (0.0, 0.0)
    private, public = (model_section("mlp", private=private) for private in (True, False))
    assert private == public


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_under_noise_a_model_that_is_only_named_starts_as_in_its_own_file(mode):
    linear = Study.parse(new_study("linear", "toxicity"))
    named = api.override(linear, model="multiomics_vae", privacy=mode)
    assert named.model.parameters == {"reconstruction": 0.0, "kl": 0.0}
    assert api.override(named, model="mlp").model.parameters == {}
    open_ = api.override(linear, model="multiomics_vae", privacy="none")
    assert open_.model.parameters == {}


@pytest.mark.parametrize("model", FACTORIES)
def test_every_models_file_runs_at_once(fedrx, model):
    assert fedrx("study", "new", "--model", model, "--output", "n.toml").code == 0
    ran = fedrx("simulate", "n.toml", *QUICK, "--no-baselines", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["model"] == model


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("drug_gene_gnn", "response"),
        ("mlp", "toxicity"),
        ("linear", "survival"),
        ("linear_mixed", "anticoagulation"),
    ],
)
def test_a_new_file_runs_at_once_on_synthetic_patients(fedrx, model, task):
    assert fedrx("study", "new", "--model", model, "--task", task, "--output", "n.toml").code == 0
    ran = fedrx("simulate", "n.toml", *QUICK, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["model"] == model
    beside = {"personalised", "pooled", "site_alone", "fixed"}
    assert set(ran.json["metrics"]) == {"federated", *beside}


@pytest.mark.parametrize("privacy", ["none", "distributed"])
def test_a_deep_models_dosing_file_does_not_run_away(fedrx, privacy):
    """With the steps of `linear` it misses doses by hundreds of mg a week, or ends at once."""
    new = ("study", "new", "--model", "genomic_cnn", "--task", "dose", "--output", "n.toml")
    assert fedrx(*new).code == 0
    run = ("simulate", "n.toml", *QUICK[:4], "--rounds", "12", "--seed", "2", "--no-baselines")
    ran = fedrx(*run, "--privacy", privacy, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["metrics"]["federated"]["mae"] < 30


def test_a_deep_model_that_is_only_named_takes_the_steps_of_its_own_dosing_file():
    study, _ = api.default_study()
    named = api.override(study, model="genomic_cnn").training
    assert named == Study.parse(new_study("genomic_cnn", "dose")).training
    assert api.override(study, model="mlp").training == study.training
    own = study.with_(training={"optimizer": {"name": "sgd", "learning_rate": 1.9}})
    assert api.override(own, model="genomic_cnn").training == own.training


def test_a_model_without_a_task_gets_its_usual_one():
    assert Study.parse(new_study("mlp", None)).target.kind == "continuous"
    assert Study.parse(new_study("genomic_cnn", None)).target.kind == "panel"
    assert Study.parse(new_study("tcn", None)).target.kind == "forecast"
    assert new_study(None, None) == template("dose")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "forest"), "--model is 'forest': use linear, mlp, genomic_cnn"),
        (("--task", "sleep"), "--task is 'sleep': use dose, response, toxicity, survival"),
    ],
)
def test_an_unknown_model_or_task_is_one_sentence(fedrx, place, options, words):
    ran = fedrx("study", "new", *options, "--output", "new.toml")
    assert ran.code == 2
    assert words in ran.err
    assert not (place / "new.toml").exists()


def test_models_are_compared_and_the_same_command_goes_on(fedrx, place):
    command = ("compare", *QUICK[:-2], "--models", "linear,mlp", "--folds", "2", "--output", "c")
    ran = fedrx(*command, "--seed", "3")
    assert ran.code == 0, ran.err
    assert "4/4 mlp, fold 2, seed 3" in ran.err
    assert "against linear" in ran.out
    assert "MAE (mg/week)" in ran.out
    page = (place / "c" / "comparison.html").read_text()
    assert "default-src 'none'" in page
    again = fedrx(*command, "--json")
    assert again.code == 0, again.err
    (table,) = again.json["tables"]
    assert [one["model"] for one in table["models"]] == ["linear", "mlp"]
    assert table["models"][1]["pairs"] > 100
    folder = command[command.index("--output") + 1]
    assert "same command" in fedrx("simulate", "--resume", folder).err


def test_a_study_file_is_compared_as_it_trains(fedrx, place):
    """Its model and its training count; the study's own patients and privacy hold for all."""
    text = template("dose").replace('name = "linear"', 'name = "mlp"\nhidden = [4]', 1)
    text = text.replace("rounds = 100", "rounds = 8").replace("epsilon = 1.0", "epsilon = 99.0")
    (place / "small.toml").write_text(text)
    options = (*QUICK, "--models", "linear,small.toml", "--folds", "2", "--output", "c")
    ran = fedrx("compare", *options, "--json")
    assert ran.code == 0, ran.err
    assert [one["model"] for one in ran.json["tables"][0]["models"]] == ["linear", "small"]
    assert ran.json["epsilon"] == 1.0


def test_a_study_file_of_other_patients_is_refused(fedrx, place):
    (place / "other.toml").write_text(template("toxicity"))
    ran = fedrx("compare", *QUICK, "--models", "linear,other.toml", "--output", "c")
    assert ran.code == 2
    assert "other.toml: has other features, blocks or target" in ran.err
    assert not (place / "c").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("linear",), "a comparison needs at least two models"),
        (("linear,linear",), "'linear' is named twice"),
        (("linear,forest",), "'model.name' is 'forest': allowed are linear, mlp"),
        (("linear,mlp", "--folds", "41"), "fewer than the 41 folds"),
        (("linear,mlp", "--repeats", "0"), "--repeats is 0"),
        (("linear,mlp", "--engine", "flower"), "No such option"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_sentence(fedrx, place, options, words):
    ran = fedrx("compare", *QUICK, "--models", *options)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not (place / "runs").exists()


def test_the_old_option_gives_the_same_comparison_and_names_the_new_command(fedrx, place):
    options = (*QUICK, "--folds", "2", "--seed", "3", "--json")
    new = fedrx("compare", *options, "--models", "linear,mlp", "--output", "new")
    old = fedrx("simulate", *options, "--compare", "linear,mlp", "--output", "old")
    assert (new.code, old.code) == (0, 0), new.err + old.err
    assert {**old.json, "folder": "new"} == new.json
    assert (new.err, old.err.count("\n")) == ("", 1)
    assert "use `fedrx compare --models`" in old.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--compare", "linear,mlp", "--engine", "flower"), "--engine cannot be given with --comp"),
        (("--folds", "3"), "--folds belongs to `fedrx compare`"),
        (("--personalised",), "--personalised belongs to `fedrx compare`"),
    ],
)
def test_options_of_a_comparison_and_of_a_run_are_not_mixed(fedrx, place, options, words):
    ran = fedrx("simulate", *QUICK, *options)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not (place / "runs").exists()
