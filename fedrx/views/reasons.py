"""Explanations in the terminal: words first, then the numbers behind them."""

from collections.abc import Sequence

from rich.table import Table

from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.explaining import STAYS, PatientWhy
from fedrx_client.clinic.predict import DECIDES
from fedrx_models.explain.explanation import CohortExplanation
from fedrx_models.explain.outcome import Outcome
from fedrx_models.explain.words import outcome_in_words, reason_in_words
from fedrx_models.files import ModelFile

_MOST_ROWS = 10


def show(whys: Sequence[PatientWhy], model: ModelFile) -> None:
    """Print why, one patient after another."""
    out, schema = PlainConsole(), model.model.schema
    for one in whys:
        found = one.explanation
        table = Table(title=f"Patient {found.patient}: {outcome_in_words(found.outcome)}")
        table.add_column("reason")
        table.add_column(f"effect ({_unit(found.outcome)})", justify="right", no_wrap=True)
        for reason in found.main(_MOST_ROWS):
            effect = _effect(reason.effect, found.outcome)
            table.add_row(reason_in_words(reason, schema), effect)
        out.print(table)
        out.print(one.words)
        out.print(f"Method: {found.method}. Effects add up to the difference from the reference.")
        if one.attention:
            shares = ", ".join(f"{part.name} {100 * part.value:.0f} %" for part in one.attention)
            out.print(f"Read most (attention, no cause): {shares}.")
        if one.edges:
            edges = ", ".join(
                f"{part.name} {_effect(part.value, found.outcome)}" for part in one.edges
            )
            out.print(f"With each edge of the network, against without it: {edges}.")
    if model.model.name == "pathway_gnn":
        out.print("Which markers follow when one moves: `fedrx model ripple`.")
    _foot(out, model)


def show_cohort(found: CohortExplanation, model: ModelFile) -> None:
    """Print mean effects over a cohort, and that they stay at the site."""
    out, unit = PlainConsole(), _unit(found.outcome)
    title = f"{found.patients} patients: {outcome_in_words(found.outcome)}, {unit}"
    table = Table(title=title)
    table.add_column("reason")
    table.add_column("mean size", justify="right", no_wrap=True)
    table.add_column("mean effect", justify="right", no_wrap=True)
    for reason in found.reasons[:_MOST_ROWS]:
        size = _effect(reason.mean_absolute, found.outcome).removeprefix("+")
        table.add_row(reason.key, size, _effect(reason.mean, found.outcome))
    out.print(table)
    out.print(STAYS)
    _foot(out, model)


def _foot(out: PlainConsole, model: ModelFile) -> None:
    promise = f"; {model.card.promise}" if model.card else ""
    out.print(f"Model {model.name}{promise}. What the model does, not what causes what.")
    out.print(model.card.intended_use if model.card else DECIDES)


def _effect(effect: float, outcome: Outcome) -> str:
    return f"{effect * (100 if outcome.kind == 'binary' else 1):+.3g}"


def _unit(outcome: Outcome) -> str:
    return "percentage points" if outcome.kind == "binary" else outcome.unit
