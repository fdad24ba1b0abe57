"""One of four hospitals sends what cannot be unmasked: the other three finish, within the promise.

Coordinator, SuperLink, proxy, worker and sites are real processes.
"""

import json

import pytest
from live_town import founded

pytestmark = pytest.mark.slow

BAD = "site1"


@pytest.fixture
def town(nursery, tmp_path):
    with founded(nursery, tmp_path, 4) as town:
        town.open()
        for name in town.names:
            town.enter(name, **({"fault": {"lie": True}} if name == BAD else {}))
        yield town


def test_commitments_and_shares_that_cannot_be_opened(town):
    study = town.study("spoiled", rounds=4)
    town.approve(study)
    run = town.run(study)
    run.round(1, 120)
    town.until(run.kill, 60, "the run's process is killed")  # what it knows of the bad site stays
    run.state("finished", 180)

    assert [record["survivors"] for record in run.rounds] == [3] * 5
    assert sum(record["attempt"] for record in run.rounds) <= 3  # two proofs, and one for the kill
    honest = [name for name in town.names if name != BAD]
    for name in honest:
        [spent] = town.json("site", "ledger", town.home(name))["studies"]
        assert 0 < spent["spent"]["total"] <= 8.0
    result = json.loads((run.folder / "result.json").read_text())
    assert 0 < result["privacy"]["epsilon"] <= 8.0

    said = town.json("coordinator", "status", town.folder / "consortium", run.name)["left_out"]
    assert said == {BAD: {"reason": "ShareInvalid", "times": 2, "for_good": True}}
    assert f"left out: {BAD}: ShareInvalid" in run.command("status")
