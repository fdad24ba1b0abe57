"""Models of every kind of outcome go live: omics blocks, panels, survival, and a second study.

Coordinator and sites are real processes; every step is a command that a person types.
"""

import json
import re

import numpy as np
import pytest
from live_town import founded

from fedrx_models.contract import get_vector
from fedrx_models.files import load_model
from fedrx_protocol.study.study import Study

pytestmark = pytest.mark.slow

SITES = 3


@pytest.fixture(scope="module")
def town(nursery, tmp_path_factory):
    with founded(nursery, tmp_path_factory.mktemp("models"), SITES) as town:
        town.open()
        for name in town.names:
            town.enter(name)
        yield town


def write_study(town, name, model, task, **more):
    """`study new`, made small, and patients of it at every site."""
    path = town.folder / f"{name}.toml"
    town.done("study", "new", "--model", model, "--task", task, "--output", path)
    text = path.read_text()
    small = {"patients": 120, "largest_site": 60, "evaluations": 1, **more}
    for key, value in small.items():
        text = re.sub(rf"^{key} = [0-9.]+", f"{key} = {value}", text, flags=re.MULTILINE)
    text = re.sub(r'^name = "\w+"', f'name = "{name}"', text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^rounds = \d+", "rounds = 3", text, flags=re.MULTILINE)
    path.write_text(text)
    draw = ("--sites", SITES, "--patients", "40..45", "--output", town.folder / f"{name}-patients")
    town.done("study", "patients", path, *draw)
    return path


def approve(town, study):
    patients = town.folder / f"{study.stem}-patients"
    for number, name in enumerate(town.names, 1):
        data, mapping = patients / f"site-{number}" / "patients.csv", patients / "mapping.toml"
        files = ("--data", data, "--mapping", mapping)
        town.done("site", "approve", town.home(name), study, *files, "--max-epsilon", 40, "--yes")
        town.done("site", "check", town.home(name), study, *files)


def finish(town, study, *more):
    """Run to the end; gives the run's folder."""
    home = town.folder / "consortium"
    name = town.json("coordinator", "run", home, study, "--detach", *more)["run"]
    folder = home / "runs" / name
    live = folder / "live.json"
    town.until(
        lambda: live.exists() and json.loads(live.read_text()).get("state") == "finished",
        120,
        f"{name} finished",
    )
    return folder


@pytest.mark.parametrize(
    ("model", "task", "words"),
    [
        ("multiomics_vae", "response", "MAE"),
        ("genomic_transformer", "survival", "concordance"),
        ("genomic_cnn", "toxicity", "ROC AUC"),
        ("tcn", "forecast", "relative error"),
    ],
)
def test_an_outcome_of_each_kind_goes_live(town, model, task, words):
    study = write_study(town, f"live_{task}", model, task)
    approve(town, study)
    folder = finish(town, study)
    said = town.done("coordinator", "status", town.folder / "consortium", folder.name)
    assert f"after round 3: {words}" in said or "after round 3: hidden by noise" in said
    result = json.loads((folder / "result.json").read_text())
    assert result["finished"]
    assert (folder / "report.html").stat().st_size > 10_000
    shown = town.json("site", "personalise", town.home("site0"), folder / "model.safetensors")
    assert shown["training"] + shown["held_out"] >= 40


def test_a_changed_block_stops_the_site_that_has_it(town):
    study = write_study(town, "live_changed", "linear", "toxicity")
    approve(town, study)
    block = next((town.folder / "live_changed-patients" / "site-2").glob("block-*.csv"))
    kept = block.read_text()
    lines = kept.splitlines()
    block.write_text("\n".join([*lines[:1], *lines[2:]]) + "\n")
    home = town.folder / "consortium"
    name = town.json("coordinator", "run", home, study, "--detach")["run"]
    town.until(lambda: "CohortChanged" in town.refusals("site1"), 60, "a refusal by site1")
    block.write_text(kept)
    live = home / "runs" / name / "live.json"
    town.until(lambda: json.loads(live.read_text()).get("state") == "finished", 120, "the end")


@pytest.mark.parametrize(
    ("model", "task", "frozen"),
    [
        ("genomic_cnn", "toxicity", "network.convolutions"),
        ("tcn", "forecast", "network.layers"),
    ],
)
def test_a_second_study_starts_from_the_first_ones_weights(town, model, task, frozen):
    first = write_study(town, f"live_first_{task}", model, task)
    approve(town, first)
    start = finish(town, first) / "model.safetensors"
    second = write_study(town, f"live_second_{task}", model, task)
    digest = Study.load(first).digest
    section = f'[transfer]\nstudy = "{digest}"\nfreeze = ["{frozen}"]\n\n[training]'
    second.write_text(second.read_text().replace("[training]", section, 1))
    approve(town, second)
    home = town.folder / "consortium"
    assert "--start-from" in town.done("coordinator", "run", home, second, code=2)
    folder = finish(town, second, "--start-from", start)
    before, after = (load_model(f).model for f in (start, folder / "model.safetensors"))
    for name, parameter in before.named_parameters():
        same = np.array_equal(
            parameter.detach().numpy(), dict(after.named_parameters())[name].detach().numpy()
        )
        assert same == name.startswith(frozen), name
    assert len(get_vector(before)) == len(get_vector(after))
