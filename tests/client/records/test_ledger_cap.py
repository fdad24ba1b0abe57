"""Caps: a release that would spend too much is refused before anything is written."""

import time

import pytest
from charges import release

from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger, PrivacyCap, ReleaseRepeated
from fedrx_common.errors import BudgetExhausted, MisuseError
from fedrx_protocol.privacy.accountant import epsilon
from fedrx_protocol.privacy.calibration import training_noise_multiplier

CAP = PrivacyCap(epsilon=1.0, delta=1e-5)
NO_NOISE = PrivacyCap(epsilon=1e6, delta=1e-5)


@pytest.fixture
def ledger(tmp_path):
    with SiteStore(tmp_path / "site.sqlite", durability="process") as store:
        yield Ledger(store)


def spend_all(ledger: Ledger, **changes) -> int:
    """Charge until the cap refuses; the number of charges that were made."""
    for number in range(1, 1000):
        try:
            ledger.charge(release(number, **changes), cap=CAP)
        except BudgetExhausted:
            return number - 1
    raise AssertionError


def test_charges_stop_exactly_at_the_cap(ledger):
    made = spend_all(ledger)
    assert made == len(ledger.entries()) > 5
    releases = [*ledger.releases(), release(999)]
    assert epsilon(releases[:-1], CAP.delta) <= CAP.epsilon < epsilon(releases, CAP.delta)


def test_a_refusal_names_the_run_the_round_and_the_cap(ledger):
    made = spend_all(ledger)
    sentence = (
        rf"run run-1, round {made + 1}: this training .* site's cap of epsilon 1 at delta 1e-05"
    )
    with pytest.raises(BudgetExhausted, match=sentence):
        ledger.charge(release(made + 1), cap=CAP)


def test_a_refusal_is_not_written_and_holds_after_reopening(ledger, tmp_path):
    made = spend_all(ledger)
    with SiteStore(tmp_path / "site.sqlite") as store:
        again = Ledger(store)
        assert again.head == ledger.head
        with pytest.raises(BudgetExhausted):
            again.charge(release(made + 1), cap=CAP)


def test_a_cap_counts_every_study_on_the_cohort(ledger):
    spend_all(ledger)
    with pytest.raises(BudgetExhausted):
        ledger.charge(release(1, study="bb" * 32, run="run-2"), cap=CAP)


def test_another_cohort_has_a_budget_of_its_own(ledger):
    made = spend_all(ledger)
    assert spend_all(ledger, cohort="dd" * 32, run="run-2") == made


def test_training_and_metrics_of_one_study_compose_in_parallel(ledger):
    made = spend_all(ledger)
    assert spend_all(ledger, purpose="metrics") == made


def test_a_patient_may_be_held_out_in_one_study_and_trained_on_in_another(ledger):
    spend_all(ledger, purpose="metrics")
    with pytest.raises(BudgetExhausted):
        ledger.charge(release(1, study="bb" * 32), cap=CAP)


def test_a_studys_promise_counts_this_study_only(ledger):
    spend_all(ledger, study="bb" * 32, run="run-2")
    ledger.charge(release(1), study_cap=CAP)
    with pytest.raises(BudgetExhausted, match="the study's promise"):
        ledger.charge(release(2, noise_multiplier=1.0), study_cap=CAP)


def test_a_release_without_noise_breaks_every_cap(ledger):
    with pytest.raises(BudgetExhausted):
        ledger.charge(release(1, noise_multiplier=0.0), cap=NO_NOISE)
    ledger.append(release(1, noise_multiplier=0.0))
    with pytest.raises(BudgetExhausted):
        ledger.charge(release(2), cap=NO_NOISE)


def test_two_charges_of_one_reply_are_made_together_or_not_at_all(ledger):
    with pytest.raises(BudgetExhausted):
        _evaluation_round(ledger, metrics_noise=0.1)
    assert ledger.entries() == ()
    _evaluation_round(ledger, metrics_noise=20.0)
    assert [one.purpose for one in ledger.releases()] == ["training", "metrics"]


def _evaluation_round(ledger: Ledger, metrics_noise: float) -> None:
    with ledger._store.transaction():
        ledger.charge(release(1), cap=CAP)
        ledger.charge(release(1, purpose="metrics", noise_multiplier=metrics_noise), cap=CAP)


def test_a_rolled_back_charge_gives_its_budget_back(ledger):
    made = spend_all(ledger, cohort="dd" * 32)
    with pytest.raises(ReleaseRepeated):
        _spend_all_and_repeat(ledger, made)
    assert spend_all(ledger, run="run-2") == made


def _spend_all_and_repeat(ledger: Ledger, expected: int) -> None:
    with ledger._store.transaction():
        assert spend_all(ledger, run="run-2") == expected
        ledger.append(release(1, run="run-2"))


def test_spent_is_derived_from_the_lines(ledger):
    ledger.append(release(1))
    ledger.append(release(1, purpose="metrics", noise_multiplier=40.0))
    ledger.append(release(1, study="bb" * 32, cohort="dd" * 32, noise_multiplier=5.0))
    spent = ledger.spent(1e-5, study="aa" * 32)
    assert spent.training == pytest.approx(epsilon([release(1)], 1e-5))
    assert spent.total == spent.training > spent.metrics > 0
    assert ledger.spent(1e-5, cohort="dd" * 32).total > spent.total
    assert ledger.spent(1e-5, study="ee" * 32).total == 0


@pytest.mark.parametrize("epsilon_cap", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_cap_is_refused(epsilon_cap):
    with pytest.raises(MisuseError, match="cap's epsilon must be a positive number"):
        PrivacyCap(epsilon_cap, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, float("nan")])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(MisuseError, match="cap's delta must lie between 0 and 1"):
        PrivacyCap(1.0, delta)


def test_a_hundred_rounds_at_twenty_one_sites_cost_well_under_two_seconds(tmp_path):
    sigma = training_noise_multiplier(1.0, 1e-5, 1.0, 100)
    study = PrivacyCap(1.0, 1e-5)
    started = time.process_time()
    for site in range(21):
        with SiteStore(tmp_path / f"{site}.sqlite", durability="process") as store:
            ledger = Ledger(store)
            for number in range(1, 101):
                ledger.charge(release(number, noise_multiplier=sigma), cap=CAP, study_cap=study)
    assert time.process_time() - started < 2.0
