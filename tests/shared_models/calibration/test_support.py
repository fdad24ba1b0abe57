"""A question out of reach is refused, with the distance; one that was seen is not."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema

from fedrx.api import SyntheticSites, load_cohorts
from fedrx.study_templates import TASKS, template
from fedrx_common.errors import MisuseError
from fedrx_models.calibration.support import (
    FEWEST_PATIENTS,
    LocalSupport,
    Situations,
    public_support,
)
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_protocol.study.study import Study

SCHEMA = flux_schema()


def warfarin(count):
    schema = Study.parse(template("dose"), source=TASKS["dose"]).feature_schema
    sites = SyntheticSites(1, (count, count))
    return next(iter(load_cohorts(sites, schema, seed=4).values()))


def with_values(cohort, **changes):
    values = {**cohort.values, **{name: np.array(value) for name, value in changes.items()}}
    return Cohort(cohort.site, cohort.schema, cohort.patients, values, cohort.target)


def with_dose(cohort, amount):
    """Another amount of the drug at each patient's last visit."""
    visits = cohort.visits.copy()
    last = (~np.isnan(visits[:, :, TIME])).sum(axis=1) - 1
    visits[np.arange(len(visits)), last, FIRST_VALUE + 3] = amount
    nothing = np.zeros((len(cohort), 0))
    return Cohort(cohort.site, SCHEMA, cohort.patients, cohort.values, nothing, visits=visits)


@pytest.mark.parametrize(
    ("amount", "supported", "told"),
    [(20.0, True, "2.0 public scales"), (45.0, False, "4.5 public scales")],
)
def test_the_public_reference_bounds_an_amount(amount, supported, told):
    now = flux_cohort(SCHEMA, 5)
    found = public_support(now, with_dose(now, amount), 0, {"drug"})
    assert (found.supported, found.chance) == (supported, None)
    assert told in found.sentence


def test_the_public_reference_bounds_a_number_and_a_combination_but_no_genotype():
    now = warfarin(1)
    now = with_values(now, age_decade=[6.0], height_cm=[168.0], weight_kg=[78.0])
    far = public_support(now, with_values(now, weight_kg=[160.0]), 0, {"weight_kg"})
    assert not far.supported
    assert far.distance == pytest.approx(4.1)
    near = public_support(now, with_values(now, weight_kg=[90.0]), 0, {"weight_kg"})
    assert near.supported
    odd = with_values(now, weight_kg=[130.0], height_cm=[143.0], age_decade=[9.0])
    joint = public_support(now, odd, 0, {"weight_kg", "height_cm", "age_decade"})
    assert not joint.supported
    assert "combination" in joint.sentence
    gene = public_support(now, with_values(now, vkorc1=np.array([1], np.int16)), 0, {"vkorc1"})
    assert gene.supported
    assert "how rare" in gene.sentence


def test_a_cohort_answers_for_what_its_patients_had_and_refuses_the_rest():
    local = LocalSupport.of(flux_cohort(SCHEMA, 400, seed=1), {"drug"})
    others = flux_cohort(SCHEMA, 60, seed=2)
    fair = [local.judge(others, i).supported for i in range(60)]
    assert sum(fair) >= 55
    never = with_dose(others, 48.0)
    beyond = [local.judge(never, i) for i in range(60)]
    assert sum(one.supported for one in beyond) <= 3
    assert "the nearest to what is asked are" in beyond[0].sentence
    assert min(one.chance for one in beyond) >= 1 / 401


def test_what_only_sick_patients_got_is_refused_for_a_healthy_one():
    """The margins overlap: low albumin is seen, and so is a high dose, but never together."""
    rng, known = np.random.default_rng(3), flux_cohort(SCHEMA, 400, seed=5, missingness=0.0)
    visits = known.visits.copy()
    albumin = visits[:, :, FIRST_VALUE + 1]
    dose = np.where(albumin > 50.0, rng.uniform(15, 25, albumin.shape), 0.0)
    visits[:, :, FIRST_VALUE + 3] = np.where(np.isnan(albumin), np.nan, dose)
    nothing = np.zeros((400, 0))
    known = Cohort("a", SCHEMA, known.patients, known.values, nothing, visits=visits)
    local = LocalSupport.of(known, {"drug"})
    newest = np.array([one[~np.isnan(one)][-1] for one in albumin])
    healthy = known.select(newest < 37.0)
    asked = with_dose(healthy, 20.0)
    each = range(len(healthy))
    assert sum(local.judge(asked, i).supported for i in each) <= len(healthy) // 4
    assert sum(local.judge(healthy, i).supported for i in each) >= len(healthy) - 1
    assert all(public_support(healthy, asked, i, {"drug"}).supported for i in each)


def test_a_genotype_that_nobody_has_is_refused_by_a_cohort():
    cohort = warfarin(300)
    codes = cohort.values["cyp2c9"]
    common, rare = np.argsort(np.bincount(codes[codes >= 0]))[[-1, 0]]
    counts = np.array([(codes == code).sum() for code in codes])
    others = cohort.select((codes != rare) & (counts > 3))
    local = LocalSupport.of(others, {"cyp2c9"})
    one = others.select([0])
    found = local.judge(with_values(one, cyp2c9=np.array([rare], np.int16)), 0)
    assert not found.supported
    assert local.judge(with_values(one, cyp2c9=np.array([common], np.int16)), 0).supported


def test_too_few_patients_are_no_measure():
    with pytest.raises(MisuseError, match=f"at least {FEWEST_PATIENTS}"):
        LocalSupport.of(warfarin(20), {"cyp2c9"})


def test_two_different_categories_are_one_scale_apart():
    cohort = warfarin(30)
    asked = Situations.of(cohort, {"vkorc1"}).asked
    codes = cohort.values["vkorc1"]
    i, j = np.flatnonzero(codes != codes[0])[0], 0
    assert np.linalg.norm(asked[i] - asked[j]) == pytest.approx(1.0)
