"""The report: one offline file, everything escaped, absent parts left out, numbers in words."""

import math
import re
from dataclasses import replace

import pytest
from report_pages import ATTACK, BARE, FULL, PRIVACY, Outline, outline, row

from fedrx_common.errors import MisuseError, RunError
from fedrx_models.metrics.registry import Measure
from fedrx_server.report import promise, text
from fedrx_server.report.figures import (
    BLUE,
    GREY,
    MOST_POINTS,
    all_figures,
    error_by_group,
    learning_curve,
    predicted_against_actual,
)
from fedrx_server.report.page import page
from fedrx_server.report.write import (
    DoseGroups,
    EpsilonCurve,
    GroupErrors,
    LearningCurve,
    Predictions,
    PrivacyStatement,
    RunCost,
    write_report,
)

TITLES = ["Learning curve", "Predicted against actual", "Error by dose group", "Privacy spent"]


def test_a_metric_within_a_sentence_has_no_capital():
    assert text.measured(Measure("concordance", "Concordance"), 0.6382) == "concordance 0.638"
    assert text.measured(Measure("auc", "ROC AUC"), 0.5) == "ROC AUC 0.500"


def test_a_report_is_one_file_that_asks_nobody(tmp_path):
    path = write_report(tmp_path / "report.html", FULL)
    document = path.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    parsed = Outline(document)
    assert parsed.addresses == []
    assert "link" not in parsed.tags
    assert "default-src 'none'" in document
    assert "@import" not in document
    assert "url(" not in re.search(r"<style>.*?</style>", document, re.DOTALL).group()


def test_plotly_is_in_the_file_once():
    document = page(FULL)
    assert document.count("* plotly.js v") == 1
    assert page(BARE).count("plotly") < 5
    assert len(page(BARE)) < 20_000


def test_every_part_is_shown():
    words = outline(FULL).words
    for expected in (
        *TITLES,
        "Sites that fell out",
        "Results on held-out patients",
        "What is promised to a patient",
        "Colluding sites",
        "What the run took",
        "if at least 15 of 21 sites are honest and take part",
        "3.2 MB",
        "12.4 MB",
        "simulation on one machine",
        "Seed",
    ):
        assert expected in words, expected


def test_absent_parts_are_left_out():
    words = outline(BARE).words
    assert "Warfarin dose" in words
    for absent in (*TITLES, "Results", "promised", "Colluding", "What the run took", "simulation"):
        assert absent not in words, absent


@pytest.mark.parametrize(
    ("part", "title"),
    [
        ("curve", "Learning curve"),
        ("predictions", "Predicted against actual"),
        ("groups", "Error by dose group"),
        ("epsilon_curve", "Privacy spent"),
    ],
)
def test_each_plot_can_be_absent_alone(part, title):
    titles = [figure[0] for figure in all_figures(replace(FULL, **{part: None}))]
    assert titles == [other for other in TITLES if other != title]


def test_text_from_a_study_is_never_read_as_html():
    hostile = replace(
        FULL,
        title=ATTACK,
        study=ATTACK,
        description=ATTACK,
        run=ATTACK,
        finished=ATTACK,
        unit=ATTACK,
        target=ATTACK,
        study_digest=ATTACK,
        rows=[replace(row, label=ATTACK, detail=ATTACK) for row in FULL.rows],
        privacy=replace(PRIVACY, assumption=ATTACK),
        groups=DoseGroups([ATTACK, "b"], [GroupErrors(ATTACK, [6.0, 9.0], "other")], [300, 700]),
        details=[(ATTACK, ATTACK)],
    )
    parsed = outline(hostile)
    clean = outline(FULL)
    assert "alert(1)" in parsed.words  # shown as text
    assert parsed.tags.count("img") == clean.tags.count("img") == 0
    assert parsed.tags.count("script") == clean.tags.count("script")
    assert parsed.handlers == []
    assert "<script>alert" not in page(hostile)
    assert "<img src=x" not in page(hostile)


def test_text_from_a_study_is_neither_a_template_nor_a_control_character():
    hostile = "{{ 7 * 7 }}{% include '/etc/passwd' %}\x1b[2J\u202e"
    words = outline(replace(FULL, title=hostile, details=[(hostile, hostile)])).words
    shown = "{{ 7 * 7 }}{% include '/etc/passwd' %}\\x1b[2J\\u202e"
    assert words.count(shown) == 4  # the window's title, the heading and the detail's two ends


def test_plot_labels_are_escaped_for_plotlys_own_html():
    hostile = replace(FULL, groups=DoseGroups(["a"], [GroupErrors("<b>x</b>", [1.0], "other")]))
    figure = next(plot for title, _, plot in all_figures(hostile) if title == TITLES[2])
    assert figure.data[0].name == "&lt;b&gt;x&lt;/b&gt;"


def test_the_outcome_compares_with_pooling_and_with_sites_alone():
    told = text.outcome(replace(FULL, target="weekly_dose"))
    assert "Trained across 21 sites" in told
    assert "misses the actual weekly dose by 8.34 mg/week on average" in told
    assert "would give 8.22 mg/week, 1.4 % lower" in told
    assert "Sites that train alone miss by 9.61 mg/week, 15 % more" in told
    assert "spent ε = 1.00 of privacy (δ = 10⁻⁵)" in told
    assert "if at least 15 of 21 sites are honest and take part" in told


@pytest.mark.parametrize(
    ("pooled", "expected"), [(8.34, "the same"), (8.3401, "the same"), (8.5, "1.9 % higher")]
)
def test_the_outcome_says_which_is_better(pooled, expected):
    data = replace(BARE, rows=(row("federated", "F", 8.34), row("pooled", "P", pooled)))
    assert f"{expected}." in text.outcome(data)


def test_a_perfect_model_is_compared_with_nobody():
    told = text.outcome(replace(FULL, rows=[row(one.key, "r", 0.0) for one in FULL.rows]))
    assert "by 0.00 mg/week on average" in told
    assert "Pooling" not in told


@pytest.mark.parametrize(
    ("target", "expected"), [("dose_mg_per_week", "dose"), ("weekly_dose", "weekly dose")]
)
def test_a_column_is_named_without_its_unit(target, expected):
    assert text.target_in_words(target, "mg/week") == expected


def test_dose_groups_are_typeset_and_the_federated_model_stands_out():
    models = [
        GroupErrors("Pooled", [1.0, 2.0], "pooled"),
        GroupErrors("F", [1.0, 2.0], "federated"),
    ]
    figure = error_by_group(DoseGroups(["<=21", "21-49"], models), "mg")
    assert list(figure.data[0].x) == ["≤ 21", "21–49"]
    assert [bar.marker.color for bar in figure.data] == [GREY, BLUE]


def test_a_given_outcome_is_used_as_it_is():
    assert text.outcome(replace(FULL, outcome="It works.")) == "It works."
    assert "no results" in text.outcome(BARE)


def test_a_real_coordinator_sees_reported_metrics_only():
    live = replace(FULL, simulation=False, rows=(), predictions=None)
    words = outline(live).words
    assert "saw a mean absolute error of 8.51 mg/week (7.99 to 9.03 by its noise)" in words
    assert "(R² 0.42, 45.1 % within 20 %)" in words
    assert "exact" not in words
    assert "misses the actual dose by 8.51" in words


def test_an_interval_that_ends_at_the_metrics_range_is_told_and_drawn_with_both_ends():
    reported = row("federated", "As reported", 1.51, mae_low=0.0, mae_high=4.62)
    words = outline(replace(FULL, reported=reported)).words
    assert "1.51 mg/week (0.00 to 4.62 by its noise)" in words
    curve = LearningCurve([0, 4], [0.0, 50.0], [(0.0, 31.6), (20.0, 60.0)])
    (drawn,) = learning_curve(curve, FULL.headline).data
    assert [list(drawn.error_y.array), list(drawn.error_y.arrayminus)] == [[31.6, 10], [0, 30]]


HEARD = replace(FULL.headline, tells=6.0)
"""The headline with what it could tell, as `measures_of` gives it."""


def test_a_live_headline_that_noise_hides_is_nowhere_a_number():
    hidden = row("other", "As reported", 0.0, mae_low=0.0, mae_high=17.15)
    live = replace(FULL, simulation=False, rows=(), predictions=None, reported=hidden, curve=None)
    words = outline(replace(live, groups=None, measures=[HEARD, *FULL.measures[1:]])).words
    assert "a mean absolute error that is hidden by noise: more held-out patients" in words
    assert "– hidden by noise" in words  # the tile
    assert "0.00" not in words
    assert "17.15" not in words
    assert "on average" not in words


def test_headlines_carry_their_interval():
    """Of patients and noise together in a live run; of patients in a simulation."""
    ends = {"mae_ci_low": 7.51, "mae_ci_high": 9.51, "mae_low": 7.99, "mae_high": 9.03}
    live = row("federated", "Federated", 8.51, **ends)
    words = outline(replace(BARE, rows=[live], reported=live, measures=[HEARD])).words
    assert "by 8.51 mg/week on average (95 %: 7.51 to 9.51; by its noise ±0.52)" in words
    assert "8.51 mg/week 95 %: 7.51 to 9.51; by its noise ±0.52" in words  # the tile
    exact = row("federated", "Federated", 8.34, mae_ci_low=7.9, mae_ci_high=8.78)
    words = outline(replace(BARE, simulation=True, rows=[exact], measures=[HEARD])).words
    assert "by 8.34 mg/week on average (95 %: 7.90 to 8.78)" in words
    assert "8.34 95 %: 7.90 to 8.78" in words  # the table


def test_every_report_says_what_fedrx_is_not_and_names_the_consortium():
    data = replace(BARE, consortium=[("north", "Northern hospital"), ("south", ATTACK)])
    parsed = outline(data)
    assert "research software and not a medical device" in parsed.words
    assert "The consortium north Northern hospital south" in parsed.words
    assert parsed.handlers == []
    assert "The consortium" not in outline(BARE).words


@pytest.mark.parametrize("epsilon", [0.0, math.inf])
def test_without_noise_the_report_says_so_loudly(epsilon):
    none = PrivacyStatement(mode="none", epsilon=epsilon, delta=1e-5)
    parsed = outline(replace(FULL, privacy=none))
    assert "gives no privacy guarantee" in parsed.words
    assert "No noise was added" in parsed.words
    assert "no bound" in parsed.words
    assert 'class="warn">privacy mode: none' in page(replace(FULL, privacy=none))


def test_metrics_outside_the_guarantee_are_said_to_be():
    words = promise.in_paragraphs(replace(PRIVACY, metrics_epsilon=None))
    assert any("lie outside this guarantee" in line for line in words)


def test_the_promise_is_a_factor_in_words():
    words = " ".join(promise.in_paragraphs(replace(PRIVACY, epsilon=math.log(2))))
    assert "factor of at most 2.00" in words
    assert promise.in_paragraphs(replace(PRIVACY, epsilon=1000.0))


def test_dropouts_in_words():
    cost = RunCost(3, 21, 1.0, 1, 1, [0, 0, 0])
    assert text.dropouts_in_words(cost) == "No site fell out in any round."
    told = text.dropouts_in_words(replace(cost, dropped_by_round=[0, 1, 0], repeated_attempts=1))
    assert "fell out 1 time, in 1 of 3 rounds" in told
    assert "1 round had to be tried again" in told
    assert "Sites that fell out" not in outline(replace(FULL, cost=cost)).words


def test_many_patients_are_thinned_out():
    values = [float(value) for value in range(10_001)]
    figure = predicted_against_actual(Predictions(values, values), "mg")
    assert 1000 < len(figure.data[2].x) <= MOST_POINTS


def test_an_extreme_dose_does_not_stretch_the_plot():
    values = [*map(float, range(1, 1000)), 100_000.0]
    figure = predicted_against_actual(Predictions(values, values), "mg")
    assert figure.layout.xaxis.range[1] < 1100


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: LearningCurve([1, 2], [1.0]), "learning curve"),
        (lambda: LearningCurve([1], [1.0], [(0.9, 1.1), (0.8, 1.2)]), "learning curve"),
        (lambda: LearningCurve([1], [1.0], (), [1], ()), "learning curve"),
        (lambda: Predictions([1.0], []), "predictions"),
        (lambda: DoseGroups(["a"], [GroupErrors("m", [1.0, 2.0], "other")]), "dose groups"),
        (lambda: DoseGroups(["a"], [], [1, 2]), "dose groups"),
        (lambda: EpsilonCurve([1], []), "epsilon curve"),
    ],
)
def test_lists_of_unequal_length_are_refused(make, part):
    with pytest.raises(MisuseError, match=f"{part}: all lists must be equally long"):
        make()


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RunError, match="report cannot be written"):
        write_report(tmp_path / "missing" / "report.html", BARE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.998, "1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (25_000.0, "2.5 × 10⁴"),
        (math.inf, "unlimited"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_numbers(value, expected):
    assert text.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1e-5, "10⁻⁵"), (2.5e-6, "2.5 × 10⁻⁶"), (1e12, "10¹²")]
)
def test_powers_of_ten(value, expected):
    assert text.scientific(value) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (5 * 10**13, "50.0 TB")],
)
def test_sizes(count, expected):
    assert text.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1.25, "1.2 s"), (14.2, "14 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")],
)
def test_durations(seconds, expected):
    assert text.duration(seconds) == expected
