"""A forecast's plots: what they hold, what they call it, and that a live run has none of them."""

from dataclasses import replace

import pytest
from report_pages import ATTACK, FULL, outline

from fedrx_common.errors import MisuseError
from fedrx_server.report import text
from fedrx_server.report.forecast_data import (
    ForecastPictures,
    MarkerCourse,
    PairResult,
    PatientCourse,
    QuantileShares,
    RippleRow,
)
from fedrx_server.report.forecast_figures import (
    calibration,
    course_figures,
    coverage_by_horizon,
    error_by_horizon,
    ripple_map,
    summary_figures,
)
from fedrx_server.report.page import page, report_figures

SODIUM = MarkerCourse(
    marker="sodium",
    unit="mmol/L",
    times=[-2.0, 0.0, 1.0, 6.0],
    values=[138.0, 140.0, 141.0, 139.0],
    last=140.0,
    ahead=[1.0, 6.0],
    median=[140.5, 140.2],
    lower=[138.0, 136.0],
    upper=[143.0, 145.0],
)
NEVER_MEASURED = MarkerCourse(marker="lactate", unit="mmol/L", times=[], values=[], last=None)
PAIRS = [
    PairResult("sodium", 1.0, 0.9, 78.0, 0.04, 6.0),
    PairResult("lactate", 1.0, 1.1, 70.0),
    PairResult("sodium", 6.0, 0.8, 82.0),
    PairResult("lactate", 6.0, None, None),
]
PICTURES = ForecastPictures(
    time_unit="hour",
    level=80.0,
    held_out=54,
    invented=True,
    patients=[PatientCourse("A forecast in the middle", [SODIUM, NEVER_MEASURED])],
    pairs=PAIRS,
    quantiles=[QuantileShares("sodium", [10, 50, 90], [12.0, 49.0, 93.0])],
    ripple=[RippleRow("sodium +3 mmol/L", ["sodium", "lactate"], [None, -0.25], [1.0, 6.0])],
)
SUMMARIES = ["Error by horizon", "Outcomes within the band", "Calibration", "Which markers follow"]


def traces(figure):
    return {trace.name: trace for trace in figure.data if trace.showlegend is not False}


def test_a_course_shows_what_was_known_what_came_and_the_band():
    ((title, caption, figure),) = course_figures(PICTURES)
    assert title == "A forecast in the middle"
    assert "80 %" in caption
    drawn = traces(figure)
    assert list(drawn["measured, known to the forecast"].x) == [-2.0, 0.0]
    assert list(drawn["measured later"].y) == [141.0, 139.0]
    assert list(drawn["forecast (median)"].x) == [0.0, 1.0, 6.0]
    assert list(drawn["forecast (median)"].y) == [140.0, 140.5, 140.2]
    assert list(drawn["80 % band"].y) == [140.0, 143.0, 145.0, 136.0, 138.0, 140.0]
    assert [note.text for note in figure.layout.annotations] == [
        "sodium (mmol/L)",
        "lactate (mmol/L)",
    ]
    assert figure.layout.xaxis.title.text == "Hours from the forecast"


def test_a_legend_names_each_line_once():
    figure = course_figures(PICTURES)[0][2]
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert len(shown) == len(set(shown)) == 4


@pytest.mark.parametrize("markers", [1, 2, 3, 4, 11])
def test_any_number_of_markers_has_its_panels(markers):
    patient = PatientCourse("p", [replace(SODIUM, marker=f"m{i}") for i in range(markers)])
    figure = course_figures(replace(PICTURES, patients=[patient]))[0][2]
    assert len(figure.layout.annotations) == markers
    assert len(figure.data) == 4 * markers
    # The lowest panel of every column says what its axis is.
    axes = [figure.layout[key] for key in figure.layout if key.startswith("xaxis")]
    assert sum(axis.title.text == "Hours from the forecast" for axis in axes) == min(3, markers)


def test_every_marker_has_a_line_over_the_horizons_beside_the_simple_rule():
    figure = error_by_horizon(PAIRS, "hour")
    drawn = traces(figure)
    assert list(drawn["sodium"].y) == [0.9, 0.8]
    assert list(drawn["lactate"].y) == [1.1, None]
    assert list(drawn["sodium"].error_y.array) == [0.04, None]
    assert list(figure.layout.xaxis.ticktext) == ["1", "6"]
    assert figure.layout.shapes[0].y0 == 1.0
    assert coverage_by_horizon(PAIRS, "hour", 80.0).layout.shapes[0].y0 == 80.0
    # Two markers must not be told apart by colour alone.
    assert drawn["sodium"].marker.symbol != drawn["lactate"].marker.symbol


def test_calibration_stands_beside_the_diagonal():
    drawn = traces(calibration(PICTURES.quantiles))
    assert list(drawn["perfect"].x) == list(drawn["perfect"].y)
    assert list(drawn["sodium"].y) == [12.0, 49.0, 93.0]


def test_a_ripple_says_how_far_and_when():
    rows = [*PICTURES.ripple, RippleRow("lactate +1", ["sodium", "lactate"], [0.001, None], [1, 1])]
    (heat,) = ripple_map(rows, "hour").data
    assert [list(row) for row in heat.text] == [["", "-0.25<br>6 h"], ["0", ""]]
    assert (heat.zmin, heat.zmax) == (-0.25, 0.25)


def test_a_large_network_gets_a_tall_picture():
    """Each cell holds two lines, whatever the number of leaders."""
    few, many = (ripple_map([PICTURES.ripple[0]] * n, "hour") for n in (2, 19))
    assert few.layout.height == 330
    assert many.layout.height > 19 * 30


def test_a_network_that_moves_nothing_can_be_drawn():
    still = [RippleRow("a +1", ["a", "b"], [None, 0.0], [1.0, 1.0])]
    assert ripple_map(still, "hour").data[0].zmax == 1.0


def test_the_report_has_them_all():
    data = replace(FULL, forecast=PICTURES)
    words = outline(data).words
    for expected in (*SUMMARIES, "Forecasts of single patients", "A forecast in the middle"):
        assert expected in words, expected
    assert "They are synthetic" in words
    titles = [title for title, _, _ in report_figures(data)]
    assert titles[-5:] == [*SUMMARIES, "A forecast in the middle"]


@pytest.mark.parametrize(
    ("part", "titles"),
    [("pairs", SUMMARIES[:2]), ("quantiles", SUMMARIES[2:3]), ("ripple", SUMMARIES[3:])],
)
def test_each_part_can_be_absent(part, titles):
    found = [title for title, _, _ in summary_figures(replace(PICTURES, **{part: ()}))]
    assert found == [title for title in SUMMARIES if title not in titles]


def test_real_patients_come_with_a_warning():
    words = outline(replace(FULL, forecast=replace(PICTURES, invented=False))).words
    assert "do not pass it on" in words
    assert "synthetic" not in text.courses_in_words(invented=False)


def test_without_courses_there_is_no_section():
    assert "single patients" not in outline(FULL).words
    assert (
        "single patients"
        not in outline(replace(FULL, forecast=replace(PICTURES, patients=()))).words
    )


def test_names_from_a_study_are_never_read_as_html():
    hostile = replace(
        PICTURES,
        time_unit=ATTACK,
        patients=[PatientCourse(ATTACK, [replace(SODIUM, marker=ATTACK, unit=ATTACK)])],
        pairs=[replace(pair, marker=ATTACK) for pair in PAIRS],
        quantiles=[replace(PICTURES.quantiles[0], marker=ATTACK)],
        ripple=[RippleRow(ATTACK, [ATTACK, "b"], [None, 1.0], [1.0, 1.0])],
    )
    document = page(replace(FULL, forecast=hostile))
    assert "<script>alert" not in document
    assert "<img src=x" not in document
    figure = course_figures(hostile)[0][2]
    assert "<" not in figure.layout.annotations[0].text


def test_the_outcome_is_told_beside_the_simple_rule():
    ratio = replace(FULL.measures[1], key="ratio", name="Mean error relative to the last value")
    row = replace(FULL.rows[1], values={"ratio": 0.9264})
    told = text.outcome(replace(FULL, measures=[ratio], rows=[row], target="course", unit=""))
    assert "forecasts the course with 0.926 times the error of the last value" in told


@pytest.mark.parametrize("change", [{"times": [0.0]}, {"lower": [1.0]}, {"ahead": []}])
def test_a_time_without_its_value_is_refused(change):
    with pytest.raises(MisuseError, match="course of sodium: every time needs"):
        replace(SODIUM, **change)


def test_a_metrics_name_stands_in_a_sentence_as_a_word():
    assert text.in_sentence("Mean error relative to the last value").startswith("mean error")
    assert text.in_sentence("ROC AUC") == "ROC AUC"
    assert text.in_sentence("R²") == "R²"
