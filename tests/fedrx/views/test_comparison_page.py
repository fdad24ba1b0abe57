"""The comparison's page: one offline file, every name in it escaped."""

from report_pages import ATTACK, Outline

from fedrx.study_templates import template
from fedrx.views.comparison import page
from fedrx_models.metrics.registry import Measure
from fedrx_protocol.study.study import Study
from fedrx_simulation.comparison.statistics import ComparedModel, ComparisonTable

MAE = Measure("mae", "Mean absolute error", "mg/week", higher_is_better=False, digits=2)
STUDY = Study.parse(template("dose"))


def table_of(name):
    single = {"a": (0.93, (0.9, 0.97)), name: (1.1, None)}
    first = ComparedModel(name, {"mae": 8.0}, (7.0, 9.0), single)
    other = ComparedModel("b", {"mae": 7.5}, None, {}, -0.5, (-0.9, -0.1), 0.002, 40)
    return ComparisonTable("folds", MAE, (MAE,), "patients", (first, other))


def test_it_shows_every_model_with_its_intervals():
    words = Outline(page(STUDY, (table_of("first"),), 2)).words
    for expected in ("7.00–9.00", "0.93 (0.90–0.97)", "1.10", "better, p = 0.002 (40 patients)"):
        assert expected in words
    assert "These are 2 trainings on the same patients" in words


def test_a_name_is_never_read_as_html():
    document = page(STUDY, (table_of(ATTACK + "\x1b"),), 2)
    parsed, clean = Outline(document), Outline(page(STUDY, (table_of("first"),), 2))
    assert ATTACK + "\\x1b" in parsed.words
    assert parsed.tags == clean.tags
    assert parsed.handlers == parsed.addresses == []
    assert "default-src 'none'" in document
