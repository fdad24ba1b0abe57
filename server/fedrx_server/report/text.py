"""A report's sentences: numbers turned into words that a hospital board can read.

Plain text only; the page escapes it.
"""

import math

from fedrx_models.metrics.registry import Measure
from fedrx_protocol.privacy.figures import HIDDEN, Figure
from fedrx_server.report.data import ReportData, RowKey, RunCost

_COMPARED: dict[RowKey, str] = {"pooled": "all records pooled", "site_alone": "sites alone"}
DISCLAIMER = (
    "FedRx is research software and not a medical device: no patient may be treated by what is "
    "reported here."
)
WHAT_HELPS = "more held-out patients, fewer evaluations, or a larger ε would show it"


def outcome(data: ReportData) -> str:
    """Say how well the federated model does, beside the others, and at what price."""
    if data.outcome:
        return data.outcome
    sentences, privacy = _accuracy(data), data.privacy
    if privacy is not None and not privacy.bounded:
        sentences.append("The model itself gives no privacy guarantee: this study added no noise.")
    elif privacy is not None:
        assumption = f", {privacy.assumption}" if privacy.assumption else ""
        spent = f"ε = {number(privacy.epsilon)} of privacy (δ = {scientific(privacy.delta)})"
        sentences.append(f"The whole study spent {spent} for each patient{assumption}.")
    return " ".join(sentences) or "This run has finished; no results were given to this report."


def _accuracy(data: ReportData) -> list[str]:
    """Say how good the federated model is, and how it compares."""
    row, measure = data.row("federated") or data.reported, data.headline
    if row is None:
        return []
    figure = row.figure(measure)
    where = f"Trained across {data.cost.sites} sites" if data.cost else "Trained across the sites"
    trained = f"{where} without a patient's record leaving its site, the federated model"
    if figure.hidden:
        return [f"{trained} has a {in_sentence(measure.name)} that is {HIDDEN}: {WHAT_HELPS}."]
    if figure.value is None:
        return []
    target = target_in_words(data.target, data.unit)
    if measure.key == "mae":
        told = f"misses the actual {target} by {figure.value:.2f} {data.unit} on average"
    elif measure.key == "ratio":
        told = f"forecasts the {target} with {figure.value:.3f} times the error of the last value"
    else:
        told = f"predicts {target} with {measured(measure, figure.value)}"
    interval = figure.interval_words(measure.digits)
    told += f" ({interval})" if interval else ""
    return [f"{trained} {told}.", *(_beside_others(data, figure.value) if figure.value > 0 else [])]


def in_sentence(name: str) -> str:
    """A metric's name within a sentence: "Mean error" is "mean error", but "ROC AUC" stays."""
    return name if name[:2].isupper() else name[:1].lower() + name[1:]


def measured(measure: Measure, value: float) -> str:
    """A metric with its name, within a sentence, e.g. "ROC AUC 0.781"."""
    return f"{in_sentence(measure.name)} {value:.{measure.digits}f}"


def seen_in_words(saw: str, measure: Measure, figure: Figure, more: str = "") -> str:
    """Say what a coordinator sees of the headline.

    Args:
        saw: how the sentence begins, e.g. "The coordinator saw".
        measure: the headline.
        figure: its value, as reported.
        more: what follows a value.
    """
    name = in_sentence(measure.name)
    if figure.hidden:
        return f"{saw} a {name} that is {HIDDEN}: {WHAT_HELPS}."
    if figure.value is None:
        return f"{saw} no {name}: the noise left nothing to compute."
    return f"{saw} a {name} of {figure.words(measure.digits, measure.unit)}{more}."


def _beside_others(data: ReportData, federated: float) -> list[str]:
    """Compare with pooled data and with sites alone, where they are known."""
    found = {key: data.row(key) for key in _COMPARED}
    values = {key: row.value(data.headline) for key, row in found.items() if row is not None}
    known = {key: value for key, value in values.items() if value is not None}
    if data.headline.key != "mae":
        others = [f"{_COMPARED[key]} {v:.{data.headline.digits}f}" for key, v in known.items()]
        return [f"For comparison: {', '.join(others)}."] if others else []
    sentences = []
    if (pooled := known.get("pooled")) is not None:
        change = 100 * (pooled / federated - 1)
        told = f"{abs(change):.1f} % {'lower' if change < 0 else 'higher'}"
        told = "the same" if abs(change) < 0.05 else told
        giving = f"Pooling all records in one place would give {pooled:.2f} {data.unit}"
        sentences.append(f"{giving}, {told}.")
    if (alone := known.get("site_alone")) is not None:
        change = 100 * (alone / federated - 1)
        told = f"{abs(change):.0f} % {'more' if change >= 0 else 'less'}"
        sentences.append(f"Sites that train alone miss by {alone:.2f} {data.unit}, {told}.")
    return sentences


def target_in_words(target: str, unit: str) -> str:
    """`dose_mg_per_week`, in mg/week, is the "dose": a column's name without its unit."""
    return target.removesuffix("_" + unit.replace("/", "_per_")).replace("_", " ")


def courses_in_words(*, invented: bool) -> str:
    """Say which patients are drawn, and who may see them."""
    chosen = (
        "Held-out patients, chosen by the forecast's error over their whole course, among the "
        "quarter of whom most was measured later."
    )
    if invented:
        return f"{chosen} They are synthetic."
    return (
        f"{chosen} These are the data of single patients: keep this file where their table is "
        "kept, and do not pass it on. The report of a live study has no such pictures."
    )


def dropouts_in_words(cost: RunCost) -> str:
    """Say how many sites fell out, and what that did."""
    lost = sum(cost.dropped_by_round)
    told = "No site fell out in any round."
    if lost:
        rounds = sum(1 for dropped in cost.dropped_by_round if dropped)
        told = (
            f"Sites fell out {lost} {'time' if lost == 1 else 'times'}, in {rounds} of "
            f"{len(cost.dropped_by_round)} rounds; their patients are missing from these sums only."
        )
    if again := cost.repeated_attempts:
        told += f" {again} {'round' if again == 1 else 'rounds'} had to be tried again."
    return told


def number(value: float | None) -> str:
    """Three significant digits, at least two decimals below 10; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "unlimited"
    if abs(value) >= 10000:
        return scientific(value)
    return (
        f"{value:.2f}"
        if abs(value) < 10
        else f"{value:.1f}"
        if abs(value) < 100
        else f"{value:.0f}"
    )


def scientific(value: float) -> str:
    """A power of ten where that is shorter: 1e-05 is written 10⁻⁵."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    lead = mantissa.removesuffix(".0")
    return f"10{power}" if lead == "1" else f"{lead} × 10{power}"


def size(count: int) -> str:
    """Bytes, in the unit that leaves one to three digits before the point."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
