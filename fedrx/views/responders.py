"""Whom a trial should enrol: in the terminal, and the net-benefit curve as a picture."""

import io
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.predict import DECIDES
from fedrx_client.clinic.responders import ResponderPlan
from fedrx_models.explain.words import label
from fedrx_models.files import ModelFile

# Text stays text in SVG, which a screen reader can read; ids do not depend on chance.
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "fedrx", "font.size": 10}


def show(plan: ResponderPlan, model: ModelFile) -> None:
    """Print whom the threshold enrols and where the model is of use."""
    out, chosen = PlainConsole(), plan.chosen
    name = label(plan.outcome)
    out.print(
        f"From a calibrated probability of {chosen.threshold:.2f} on, {chosen.enrolled} of "
        f"{len(plan.patients)} candidates are enrolled; {chosen.expected:.1f} of them are expected "
        f"to have {name} (95 %: {chosen.low:.1f} to {chosen.high:.1f}), and {chosen.missed:.1f} of "
        "those left out."
    )
    out.print(
        f"Calibrated on {plan.judged} patients, {100 * plan.rate:.0f} % with {name}: Brier score "
        f"{plan.brier:.3f} (the model's own {plan.brier_before:.3f})."
    )
    useful = ", ".join(f"{low:.2f} to {high:.2f}" for low, high in plan.curve.useful)
    out.print(
        f"Better than enrolling all and than none at thresholds {useful}."
        if useful
        else "At no threshold better than enrolling all or none."
    )
    promise = f"; {model.card.promise}" if model.card else ""
    out.print(f"Model {model.name}{promise}. Candidates' probabilities are for this site alone.")
    out.print(model.card.intended_use if model.card else DECIDES)


def draw_net_benefit(plan: ResponderPlan, picture: Literal["png", "svg"] = "svg") -> bytes:
    """Draw net benefit by threshold: by the model, of all, of none, and the chosen threshold.

    Args:
        plan: what was planned.
        picture: "png" or "svg".

    Returns:
        The file's bytes.
    """
    curve = plan.curve
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(8.0, 5.0), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(curve.thresholds, curve.model, color="#2166ac", label="by the model")
        axes.plot(curve.thresholds, curve.everybody, "--", color="#b2182b", label="everybody")
        axes.axhline(0.0, color="#666666", linewidth=1, label="nobody")
        axes.axvline(plan.chosen.threshold, color="#666666", linestyle=":", label="chosen")
        top = max(plan.rate, float(curve.model.max()))
        axes.set_ylim(-0.25 * top - 0.01, 1.1 * top + 0.01)
        axes.set_xlabel("threshold of the calibrated probability")
        axes.set_ylabel("net benefit per patient")
        title = f"Enrolling by {label(plan.outcome)}, {plan.judged} patients"
        axes.set_title(title.replace("$", r"\$"), loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        file = io.BytesIO()
        undated = {"Date": None} if picture == "svg" else {"Software": None}
        figure.savefig(file, format=picture, metadata=undated)
    return file.getvalue()
