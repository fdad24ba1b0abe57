"""A hospital's whole folder put back from a backup, while the coordinator keeps its signed head."""

import shutil

import pytest
from live_town import founded

pytestmark = pytest.mark.slow


def test_a_restored_backup_of_everything_is_shut_out_by_the_witness(nursery, tmp_path):
    with founded(nursery, tmp_path / "three", 3) as town:
        study = town.study(rounds=400)
        town.approve(study)
        town.open()
        for name in town.names:
            town.enter(name)
        run = town.run(study)
        run.round(1, 90)
        town.sites["site0"].end()
        home, backup = town.home("site0"), town.folder / "backup"
        shutil.copytree(home, backup)
        town.enter("site0")
        run.round(run.rounds[-1]["round"] + 2, 90)
        town.sites["site0"].end()

        # An old database alone: the command says so at once.
        newest = (home / "site.db").read_bytes()
        (home / "site.db").write_bytes((backup / "site.db").read_bytes())
        assert "older copy" in town.done("site", "ledger", home, "--verify", code=2)
        (home / "site.db").write_bytes(newest)
        town.done("site", "ledger", home, "--verify")

        # Everything: it fits itself, the agent starts, and the first request shows it.
        released = len(town.releases("site0"))
        home.rename(town.folder / "newest")
        backup.rename(home)
        town.done("site", "ledger", home, "--verify")
        before = len(town.releases("site0"))
        assert before < released
        town.enter("site0")
        town.until(lambda: "FolderOutdated" in town.refusals("site0"), 90, "the refusal")
        assert len(town.releases("site0")) == before
        kept = town.json("coordinator", "witness", town.folder / "consortium")["sites"]
        (head,) = (one["head"] for one in kept if one["site"] == "site0")
        said = town.done("site", "audit", home, "--verify", "--head", head, code=2)
        assert "not the one that was noted" in said

        # The newest folder is back: the run goes on with it.
        town.sites["site0"].end()
        shutil.rmtree(home)
        (town.folder / "newest").rename(home)
        town.enter("site0")
        done = run.rounds[-1]["round"]
        run.round(done + 2, 90)
        run.command("stop")
