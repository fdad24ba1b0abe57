"""Visits, markers, treatments and a forecast in a study file: what is agreed, what is refused."""

import copy

import pytest
from flux_cohorts import flux_document

from fedrx_common.errors import StudyError
from fedrx_protocol.study.schema import ForecastTarget
from fedrx_protocol.study.study import Study

STUDY = {
    "name": "course",
    "cohort": {"patients": 500, "largest_site": 100},
    "model": {"name": "last_value"},
    "metrics": {"error_bound": 3.0},
    **flux_document(),
}


def parse(document=STUDY):
    return Study.from_document(copy.deepcopy(document), source="s")


def changed(*path, to):
    document = copy.deepcopy(STUDY)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return document


def test_a_forecast_is_read():
    study = parse()
    assert isinstance(study.target, ForecastTarget)
    assert study.visits.most == 12
    assert [marker.name for marker in study.feature_schema.forecast_markers] == [
        "bilirubin",
        "albumin",
        "platelets",
    ]
    assert study.target.horizons[1].window == (3.5, 4.5)
    assert Study.from_document(study.model_dump(mode="json"), source="s").digest == study.digest


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("visits", "most"), 13),
        (("visits", "time_unit"), "day"),
        (("markers", 1, "scale"), 11.0),
        (("treatments", 0, "maximum"), 51.0),
        (("target", "horizons", 0, "change"), 0.4),
        (("target", "markers"), ["albumin"]),
        (("graph", "edges"), [["platelets", "albumin"]]),
    ],
)
def test_the_digest_covers_every_agreed_value(path, to):
    assert parse(changed(*path, to=to)).digest != parse().digest


@pytest.mark.parametrize(
    ("path", "to", "words"),
    [
        (("visits",), None, "a forecast needs a [visits] section with its time_unit"),
        (("visits", "time_unit"), "week", "'visits.time_unit' is 'week'"),
        (("visits", "most"), 1, "'visits.most' is 1"),
        (("target", "markers"), ["crp"], "target.markers names 'crp', which is not among the"),
        (("target", "markers"), ["albumin", "albumin"], "marker 'albumin' stands twice"),
        (("graph", "edges"), [["albumin", "crp"]], "the graph names marker 'crp', which is not"),
        (("markers", 0, "minimum"), 0.0, "transform 'log' needs a minimum above 0"),
        (("markers", 1, "mean"), 500.0, "mean 500 must lie between 1 and 99"),
        (("treatments", 1, "name"), "drug", "drug is repeated"),
        (("treatments", 0, "unit"), "", "an amount needs a unit"),
        (("treatments", 1, "maximum"), 3.0, "a flag has no unit, maximum or scale"),
        (("target", "horizons", 0, "window"), [1.5, 2.0], "must begin above 0 and hold"),
        (("target", "horizons", 0, "at"), 9.0, "window [0.5, 1.5] must begin above 0"),
        (("metrics", "error_bound"), 60.0, "bounded in the markers' scales: use 20 or less"),
        (("markers", 0, "colour"), "red", "unknown key 'markers.0.colour'; allowed here: name"),
        (("visits", "colour"), "red", "unknown key 'visits.colour'; allowed here: time_unit"),
    ],
)
def test_a_mistake_is_one_sentence(path, to, words):
    with pytest.raises(StudyError) as found:
        parse(changed(*path, to=to))
    (line,) = str(found.value).splitlines()
    assert words in line


def test_horizons_rise():
    horizons = STUDY["target"]["horizons"][::-1]
    with pytest.raises(StudyError, match="horizons must rise"):
        parse(changed("target", "horizons", to=horizons))


def test_visits_are_for_forecasts_only():
    with pytest.raises(StudyError, match=r"set target.kind to 'forecast', or remove them"):
        parse(changed("target", to={"kind": "binary", "name": "toxic", "rate": 0.2}))


def test_a_study_without_visits_keeps_the_form_that_its_digest_is_made_of():
    target = {"kind": "binary", "name": "toxic", "rate": 0.2}
    plain = {key: STUDY[key] for key in ("name", "cohort", "model", "features")}
    written = parse({**plain, "target": target}).model_dump(mode="json")
    assert not {"visits", "markers", "treatments"} & set(written)
