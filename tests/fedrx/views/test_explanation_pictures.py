"""Pictures of explanations: real files, the same each time, with every number in them."""

import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib import image

from fedrx.views.explanation import draw_cohort, draw_explanation
from fedrx_models.explain.explanation import Explanation, Reason, summed_up
from fedrx_models.explain.outcome import Outcome
from fedrx_protocol.study.study import Study

DOSE = Outcome("dose_mg_per_week", "continuous", "mg/week")


def reason(name, value, effect):
    return Reason("feature", name, "", None, None, value, effect)


@pytest.fixture(scope="module")
def schema(pytestconfig):
    return Study.load(pytestconfig.rootpath / "examples/warfarin/study.toml").feature_schema


@pytest.fixture
def explanation():
    reasons = (
        reason("cyp2c9", "*3/*3", -9.0),
        reason("vkorc1", "A/A", -7.5),
        reason("weight_kg", "120 kg", 4.0),
        reason("smoker", "no", 0.0),
        reason("amiodarone", "yes", -1.0),
    )
    return Explanation("p1", "linear", "exact", DOSE, 29.0, 15.5, reasons)


def words(svg):
    return [text.text for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_an_svg_says_every_reason_and_its_effect(explanation, schema):
    found = words(draw_explanation(explanation, schema, most=2))
    for text in ("study's reference", "CYP2C9 *3/*3", "VKORC1 A/A", "2 other reasons"):
        assert text in found
    assert {"29", "15.5", "+3"} <= set(found)
    assert any(text.endswith("9") and len(text) == 2 for text in found)  # a real minus sign or "-"
    assert "the dose, mg/week" in found


def test_the_same_explanation_gives_the_same_bytes(explanation, schema):
    for picture in ("svg", "png"):
        first, again = (draw_explanation(explanation, schema, picture) for _ in range(2))
        assert first == again
        assert b"20" + b"26-" not in first


def test_a_png_is_a_picture_with_something_on_it(explanation, schema):
    pixels = image.imread(io.BytesIO(draw_explanation(explanation, schema, "png")))
    assert pixels.shape[1] == 1200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_a_cohort_is_drawn_by_mean_size(explanation):
    found = words(draw_cohort(summed_up([explanation, explanation])))
    assert found.index("cyp2c9") < found.index("weight_kg")
    assert "Mean size of effects, 2 patients" in found


def test_names_from_a_study_cannot_break_a_picture(schema):
    """A formula of matplotlib, markup, and a name that is too long."""
    names = ("a$b$c", "x<y&z", "n" * 300)
    reasons = tuple(reason(name, "$\\frac{1}", 1.0) for name in names)
    found = words(draw_explanation(Explanation("p", "m", "exact", DOSE, 1.0, 4.0, reasons), schema))
    assert any("x<y&z" in text for text in found)
    assert max(len(text) for text in found) < 80


def test_a_patient_like_the_reference_has_a_picture_too(schema):
    same = Explanation("p", "m", "exact", DOSE, 3.0, 3.0, (reason("smoker", "no", 0.0),))
    assert "this patient" in words(draw_explanation(same, schema))
