"""A dry run's lines: each can be green, each can be red, and red ones say what to do."""

import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from omics_cohorts import omics_cohort, omics_schema
from small_consortium import Stage, small_cohort, small_study

from fedrx_client.approvals.approval import Approval
from fedrx_client.approvals.store import Approvals
from fedrx_client.checks import study as check
from fedrx_client.checks.study import Check, CheckLine, DryRun
from fedrx_client.data.load import LoadResult
from fedrx_client.data.quality.account import DataQuality
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.records.database import LedgerDamaged, SiteStore
from fedrx_client.records.ledger import Ledger, PrivacyCap
from fedrx_client.training.device import pick_device
from fedrx_common.errors import DataError, MisuseError
from fedrx_models.planning import make_plan
from fedrx_protocol.privacy.accountant import Account

NOW = 1_800_000_000
STUDY = small_study()
PLAN = make_plan(STUDY, 4)
COHORT = small_cohort(STUDY, "site0")
CPU = torch.device("cpu")


def loaded(cohort=COHORT, **missing):
    count = len(cohort)
    return LoadResult(
        {cohort.site: cohort}, DataQuality("p.csv", count, count, {}, missing, {}, {})
    )


@pytest.fixture
def identity(tmp_path):
    return SiteIdentity.create(tmp_path / "s", site="site0", name="Site 0", now=NOW)


@pytest.fixture
def folder(identity):
    return identity.folder


@pytest.fixture
def approve(identity):
    def add(cap=9.0, **changes):
        values = {"cohort": COHORT.fingerprint, "now": NOW, "days": 30, "by": "DPO"} | changes
        one = Approval.of(STUDY, cap=PrivacyCap(cap, 1e-5), **values)
        Approvals(identity.folder).add(one, identity.keys().identity)

    return add


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("binary", np.zeros_like, "of this site's patients, all have the same outcome 'toxic'"),
        ("survival", lambda target: target * [1, 0], "nobody had the event 'relapse'"),
        ("continuous", lambda target: target * 0 + 35, "all have the same outcome 'dose'"),
        ("panel", lambda target: target * 0 + range(4), "all have the same outcome 'response'"),
    ],
)
def test_outcomes_that_are_all_alike_are_told_and_do_not_keep_a_site_out(kind, change, words):
    cohort = omics_cohort(omics_schema(kind), 30)
    assert check.outcome(cohort) == ()
    (line,) = check.outcome(replace(cohort, target=change(cohort.target)))
    assert line.ok
    assert words in line.text
    assert "mend the mapping" in line.remedy


def test_a_red_line_needs_a_remedy():
    with pytest.raises(MisuseError, match="names no remedy"):
        CheckLine("disk", ok=False, text="full")


def test_an_error_is_a_red_line_with_the_remedy_of_its_check():
    def look():
        raise DataError("no such thing.")

    line = Check("network", look, "Plug it in.").line()
    assert line == CheckLine("network", ok=False, text="no such thing.", remedy="Plug it in.")


def test_data_quality():
    assert check.data_quality(loaded(age=20)).ok
    line = check.data_quality(loaded(age=21, carrier=0))
    assert not line.ok
    assert "age" in line.remedy
    assert "carrier" not in line.remedy


@pytest.mark.parametrize(("size", "ok"), [(9, False), (10, True), (200, True), (201, False)])
def test_cohort_size(size, ok):
    line = check.cohort_size(STUDY, small_cohort(STUDY, "site0", size))
    assert line.ok is ok
    assert bool(line.remedy) is not ok


def test_a_training_step_is_timed():
    ticks = iter([0.0, 2.0])
    line = check.training_step(STUDY, COHORT, device=CPU, clock=lambda: next(ticks))
    assert line.ok
    assert "linear on cpu: about 2 s of computation a round, 8 s in all 4" in line.text


def test_a_step_slower_than_the_deadline_is_red():
    ticks = iter([0.0, 601.0])
    line = check.training_step(STUDY, COHORT, device=CPU, clock=lambda: next(ticks))
    assert not line.ok
    assert "faster machine" in line.remedy


def test_local_epochs_count_each():
    study = small_study(privacy={"mode": "local", "epsilon": 200.0})
    ticks = iter([0.0, 1.0])
    line = check.training_step(study, COHORT, device=CPU, clock=lambda: next(ticks))
    assert "about 2 s" in line.text


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_picked(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device().type == expected


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_what_is_planned_costs_what_was_promised_at_most(mode):
    study = small_study(privacy={"mode": mode, "epsilon": 20.0})
    releases = check.planned_releases(make_plan(study, 4), COHORT.fingerprint)
    spent = Account.of(releases).spent(1e-5)
    assert 8.0 < spent.total <= 20.0
    assert [r.round for r in releases if r.purpose == "training"] == [1, 2, 3, 4]
    assert [r.round for r in releases if r.purpose == "metrics"] == [2, 5]


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_the_plan_is_what_a_site_releases(tmp_path, mode):
    stage = Stage(tmp_path, small_study(privacy={"mode": mode, "epsilon": 20.0}))
    stage.run()
    planned = check.planned_releases(stage.plan, stage.cohorts["site0"].fingerprint)
    assert plain(planned) == plain(stage.releases("site0"))


def plain(releases):
    """Releases without what no account reads."""
    empty = {"time": "1970-01-01T00:00:00Z", "run": "any", "clipping_norm": 1}
    return [replace(one, **empty) for one in releases]


def test_the_budget_without_and_with_an_approval(folder, approve):
    line = check.privacy_budget(PLAN, COHORT.fingerprint, folder, NOW)
    assert line.ok
    assert "no cap is in force" in line.text
    approve()
    line = check.privacy_budget(PLAN, COHORT.fingerprint, folder, NOW)
    assert line.ok
    assert "spent epsilon 0.00" in line.text


def charged(folder, study, cohort):
    with SiteStore(folder / check.LEDGER) as store:
        for one in check.planned_releases(PLAN, cohort):
            Ledger(store).append(replace(one, study=study))


def test_other_studies_on_the_same_patients_count(folder, approve):
    approve()
    charged(folder, "cd" * 32, COHORT.fingerprint)
    line = check.privacy_budget(PLAN, COHORT.fingerprint, folder, NOW)
    assert not line.ok
    assert "Raise the cap" in line.remedy


@pytest.mark.parametrize(
    ("study", "cohort"), [(STUDY.digest, COHORT.fingerprint), ("cd" * 32, "ef" * 32)]
)
def test_this_study_and_other_patients_do_not_count_twice(folder, approve, study, cohort):
    approve()
    charged(folder, study, cohort)
    assert check.privacy_budget(PLAN, COHORT.fingerprint, folder, NOW).ok


def test_exact_sums_have_no_budget(folder):
    plan = make_plan(small_study(privacy={"mode": "none"}), 4)
    line = check.privacy_budget(plan, COHORT.fingerprint, folder, NOW)
    assert line.ok
    assert "no epsilon holds" in line.text
    spent = Account.of(check.planned_releases(plan, COHORT.fingerprint)).spent(1e-5)
    assert math.isinf(spent.total)


def test_a_damaged_ledger_is_no_empty_one(folder):
    (folder / check.LEDGER).write_bytes(b"no database" * 100)
    with pytest.raises(LedgerDamaged):
        check.read_releases(folder)


def test_the_disk(folder, monkeypatch):
    assert check.disk(folder).ok
    assert not (folder / ".check").exists()
    small = shutil.disk_usage(folder)._replace(free=check.LEAST_DISK_BYTES - 1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: small)
        assert "Free at least 100 MB" in check.disk(folder).remedy

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    line = check.disk(folder)
    assert not line.ok
    assert "No space left" in line.text


def dry_run(folder, load=loaded, **changes):
    return DryRun(folder, STUDY, load, make_plan, NOW, **changes)


def by_name(lines):
    return {line.name: line for line in lines}


def test_a_site_that_never_joined(folder, approve):
    approve()
    found = by_name(dry_run(folder).lines())
    red = {name for name, line in found.items() if not line.ok}
    assert red == {"keys and roster", "privacy budget"}
    assert "joined no consortium" in found["keys and roster"].text


def test_patients_that_cannot_be_read_are_one_red_line(folder):
    def load():
        raise DataError("p.csv, line 7: 'x' is no number.")

    lines = dry_run(folder, load).lines()
    assert [line.name for line in lines] == ["keys and roster", "disk", "data"]
    assert "line 7" in lines[-1].text


def test_further_checks_stand_before_the_patients(folder):
    more = Check("network", lambda: CheckLine("network", ok=True, text="there"), "Plug it in.")
    names = [line.name for line in dry_run(folder).lines([more])]
    assert names.index("network") == names.index("disk") + 1


@pytest.mark.parametrize(
    ("given", "installed", "text"),
    [
        ({"cohort": "ef" * 32}, None, "changed since"),
        ({"minimum_patients": 41}, None, "more patients"),
        ({"now": NOW - 31 * 86_400}, None, "ended on"),
        ({}, "9.9", "9.9 is"),
    ],
)
def test_an_approval_that_does_not_fit_is_red(folder, approve, given, installed, text):
    approve(**given)
    changes = {} if installed is None else {"installed": installed}
    line = by_name(dry_run(folder, **changes).lines())["approval"]
    assert not line.ok
    assert text in line.text
    assert "fedrx site approve" in line.remedy


def test_an_approval_that_fits_is_green(folder, approve):
    approve()
    line = by_name(dry_run(folder).lines())["approval"]
    assert (line.ok, line.text) == (True, "given by DPO, ends in 30 days.")
