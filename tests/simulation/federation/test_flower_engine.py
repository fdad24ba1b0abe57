"""Flower's own engine on Ray: the same study to the last bit, and errors that come through."""

import sys
import threading

import numpy as np
import pytest

import fedrx
from fedrx_server.rounds.retry import StudyStopped
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.federation import flower
from fedrx_simulation.federation.cancellable import EngineFailed
from fedrx_simulation.federation.flower import FlowerEngine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_other_ray")]

SOURCE = fedrx.SyntheticSites(sites=4, patients=(40, 60))


def _simulate(folder, engine, rounds=3, attempts=10, **options):
    study = fedrx.override(fedrx.default_study()[0], rounds=rounds)
    return fedrx.simulate(
        study.with_(schedule={"attempts": attempts}, metrics={"calibration": True}),
        source=SOURCE,
        seed=5,
        engine=engine,
        baselines=False,
        output=folder,
        **options,
    )


def test_both_engines_end_with_the_same_weights_and_ledgers(tmp_path, capfd):
    """Two Ray workers share the sites' folders; sites drop out at the same moments in both."""
    here = _simulate(tmp_path / "here", "inprocess", dropout=0.15)
    capfd.readouterr()
    there = _simulate(tmp_path / "there", "flower", dropout=0.15)
    assert capfd.readouterr().out == ""
    assert np.array_equal(here.weights, there.weights)
    assert here.reported == there.reported
    assert here.calibration == there.calibration is not None
    assert any(record.dropped for record in there.rounds)
    for one, other in zip(here.rounds, there.rounds, strict=True):
        assert (one.attempt, one.survivors) == (other.attempt, other.survivors)
    for site, releases in here.ledger.items():
        key = [(e.round, e.attempt, e.purpose, e.noise_multiplier) for e in releases]
        assert key == [
            (e.round, e.attempt, e.purpose, e.noise_multiplier) for e in there.ledger[site]
        ]


def test_a_stopped_study_says_so_and_keeps_its_folder(tmp_path):
    with pytest.raises(StudyStopped, match="round 1"):
        _simulate(tmp_path / "run", "flower", dropout=0.95, attempts=1)
    with RunFolder.open(tmp_path / "run") as run:
        assert run.rounds == ()


def test_a_breakdown_of_flower_is_one_of_our_errors(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("An error was encountered.") from ValueError("no actors")

    monkeypatch.setattr("flwr.simulation.run_simulation", broken)
    with pytest.raises(EngineFailed, match=r"broke down .no actors.: resume the run"):
        _simulate(tmp_path / "run", "flower")


def test_the_server_does_not_wait_for_an_engine_that_is_gone(tmp_path, monkeypatch):
    """Ray may break down under a server that still waits: its thread must end."""
    ended = []

    def broken(server_app, *args, **kwargs):
        grid = _Empty()
        ended.append(_started(server_app, grid))
        raise RuntimeError("An error was encountered.")

    monkeypatch.setattr("flwr.simulation.run_simulation", broken)
    with pytest.raises(EngineFailed):
        _simulate(tmp_path / "run", "flower")
    ended[0].join(timeout=60)
    assert not ended[0].is_alive()


def test_without_ray_the_engine_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(fedrx.FedRxError, match=r"pip install 'fedrx\[ray\]'"):
        FlowerEngine(None)


def test_the_wait_for_nodes_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(flower, "_NODES_WAIT_S", 0.0)

    def no_nodes(server_app, *args, **kwargs):
        server_app(_Empty(), None)

    monkeypatch.setattr("flwr.simulation.run_simulation", no_nodes)
    with pytest.raises(EngineFailed, match="made no nodes"):
        _simulate(tmp_path / "run", "flower")


class _Empty:
    """A grid without nodes."""

    def get_node_ids(self):
        return []


def _started(server_app, grid):

    def run():
        with pytest.raises(fedrx.FedRxError, match="has ended"):
            server_app(grid, None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
