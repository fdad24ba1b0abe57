"""The plot of the headline as blocks are dropped."""

from dataclasses import replace

import pytest
from report_pages import ATTACK, BARE, FULL, outline

from fedrx_common.errors import MisuseError
from fedrx_models.metrics.registry import Measure
from fedrx_server.report.data import BlockCurve
from fedrx_server.report.figures import block_figures
from fedrx_server.report.page import page, report_figures

CURVE = BlockCurve([0.0, 0.4], [8.0, 9.0], [7.5, 8.2], [8.5, 9.8])


def test_it_shows_shares_as_percent_and_both_ends_of_the_interval():
    ((_, caption, figure),) = block_figures(CURVE, FULL.headline)
    (line,) = figure.data
    assert list(line.x) == [0, 40]
    assert list(line.y) == [8.0, 9.0]
    assert list(line.error_y.array) == pytest.approx([0.5, 0.8])
    assert list(line.error_y.arrayminus) == pytest.approx([0.5, 0.8])
    assert caption.startswith("Lower is better.")
    ((_, caption, _),) = block_figures(CURVE, Measure("auc", "ROC AUC"))
    assert caption.startswith("Higher is better.")


def test_a_report_without_blocks_has_none_of_it():
    titles = [title for title, _, _ in report_figures(FULL)]
    assert "Blocks dropped" not in titles
    assert [title for title, _, _ in report_figures(replace(BARE, blocks=CURVE))] == [
        "Blocks dropped"
    ]
    assert "Blocks dropped" in page(replace(BARE, blocks=CURVE))


def test_a_units_text_cannot_leave_its_place():
    attacked = replace(FULL, blocks=CURVE, measures=(Measure("mae", ATTACK, ATTACK),))
    assert outline(attacked).tags.count("img") == 0


def test_a_curve_with_a_missing_end_is_refused():
    with pytest.raises(MisuseError, match="blocks dropped: all lists must be equally long"):
        BlockCurve([0.0], [1.0], [1.0], [])
