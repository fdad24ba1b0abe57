"""The page's what-if refuses what `fedrx whatif` refuses, and by the same measure."""

import pytest

from fedrx.api import SyntheticSites, load_cohorts
from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.page.whatif_form import changed, fields
from fedrx_common.errors import DataError
from fedrx_protocol.study.study import Study

SCHEMA = Study.parse(template("dose"), source=TASKS["dose"]).feature_schema


@pytest.fixture
def patient():
    sites = SyntheticSites(1, (1, 1), missingness=0.0)
    return next(iter(load_cohorts(sites, SCHEMA, seed=4).values()))


def asked(patient, **values):
    given = {one.key: one.value for one in fields(patient)}
    return changed(patient, given | {f"feature.{name}": v for name, v in values.items()})


def test_a_value_within_the_range_but_far_from_the_reference_is_refused(patient):
    with pytest.raises(DataError, match="the data cannot support an answer: 'weight_kg' would be"):
        asked(patient, weight_kg="290")


def test_a_value_that_the_reference_supports_is_answered(patient):
    other, told = asked(patient, weight_kg="80")
    assert other.values["weight_kg"][0] == 80
    assert len(told) == 1
