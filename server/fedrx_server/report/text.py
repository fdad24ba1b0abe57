"""A report's sentences: numbers turned into words that a hospital board can read.

Plain text only; the page escapes it.
"""

import math

from fedrx_models.metrics.registry import Measure
from fedrx_protocol.privacy.figures import HIDDEN
from fedrx_server.report.data import PrivacyStatement, ReportData, RowKey, RunCost

_MODES = {
    "distributed": (
        "Every site adds a share of the noise; the sum over all sites carries the whole noise "
        "before anyone can read it."
    ),
    "local": "Every site adds the whole noise itself, so its update is private whoever colludes.",
    "none": (
        "No noise was added: secure aggregation alone protects the patients, and no bound on "
        "what the model reveals about one of them can be given."
    ),
}

_COMPARED: dict[RowKey, str] = {"pooled": "all records pooled", "site_alone": "sites alone"}
DISCLAIMER = (
    "FedRx is research software and not a medical device: no patient may be treated by what is "
    "reported here."
)
WHAT_HELPS = "more held-out patients, fewer evaluations, or a larger ε would show it"
_LARGEST_EXPONENT = 700.0  # beyond it a float overflows, and the factor says nothing any more


def outcome(data: ReportData) -> str:
    """One paragraph: how well the federated model does, beside the others, and at what price."""
    if data.outcome:
        return data.outcome
    sentences = [*_accuracy(data), *_price(data)]
    return " ".join(sentences) or "This run has finished; no results were given to this report."


def _accuracy(data: ReportData) -> list[str]:
    row = data.row("federated") or data.reported
    if row is None:
        return []
    figure = row.figure(data.headline)
    where = f"Trained across {data.cost.sites} sites" if data.cost else "Trained across the sites"
    trained = f"{where} without a patient's record leaving its site, the federated model"
    if figure.hidden:
        name = in_sentence(data.headline.name)
        return [f"{trained} has a {name} that is {HIDDEN}: {WHAT_HELPS}."]
    if figure.value is None:
        return []
    told = _reached(data, figure.value)
    interval = figure.interval_words(data.headline.digits)
    told += f" ({interval})" if interval else ""
    return [f"{trained} {told}.", *(_beside_others(data, figure.value) if figure.value > 0 else [])]


def _reached(data: ReportData, federated: float) -> str:
    """How good it is, in words."""
    target = target_in_words(data.target, data.unit)
    if data.headline.key == "mae":
        return f"misses the actual {target} by {federated:.2f} {data.unit} on average"
    if data.headline.key == "ratio":
        return f"forecasts the {target} with {federated:.3f} times the error of the last value"
    return f"predicts {target} with {measured(data.headline, federated)}"


def in_sentence(name: str) -> str:
    """A metric's name within a sentence: "Mean error" is "mean error", but "ROC AUC" stays."""
    return name if name[:2].isupper() else name[:1].lower() + name[1:]


def measured(measure: Measure, value: float) -> str:
    """A metric with its name, within a sentence, e.g. "ROC AUC 0.781"."""
    return f"{in_sentence(measure.name)} {value:.{measure.digits}f}"


def _beside_others(data: ReportData, federated: float) -> list[str]:
    """Pooled data and sites alone, where they are known."""
    found = {key: data.row(key) for key in _COMPARED}
    known = {key: row.value(data.headline) for key, row in found.items() if row is not None}
    if data.headline.key != "mae":
        told = [
            f"{_COMPARED[key]} {value:.{data.headline.digits}f}"
            for key, value in known.items()
            if value is not None
        ]
        return [f"For comparison: {', '.join(told)}."] if told else []
    sentences = []
    if (pooled := known.get("pooled")) is not None:
        sentences.append(_beside_pooled(federated, pooled, data.unit))
    if (alone := known.get("site_alone")) is not None:
        sentences.append(_beside(federated, alone, "Sites that train alone miss by", data.unit))
    return sentences


def target_in_words(target: str, unit: str) -> str:
    """`dose_mg_per_week`, in mg/week, is the "dose": a column's name without its unit."""
    return target.removesuffix("_" + unit.replace("/", "_per_")).replace("_", " ")


def _beside_pooled(federated: float, pooled: float, unit: str) -> str:
    change = 100 * (pooled / federated - 1)
    if abs(change) < 0.05:
        told = "the same"
    else:
        told = f"{abs(change):.1f} % {'lower' if change < 0 else 'higher'}"
    return f"Pooling all records in one place would give {pooled:.2f} {unit}, {told}."


def _beside(federated: float, other: float, opening: str, unit: str) -> str:
    change = 100 * (other / federated - 1)
    return f"{opening} {other:.2f} {unit}, {abs(change):.0f} % {_more(change)}."


def _more(change: float) -> str:
    return "more" if change >= 0 else "less"


def _price(data: ReportData) -> list[str]:
    privacy = data.privacy
    if privacy is None:
        return []
    if not privacy.bounded:
        return ["The model itself gives no privacy guarantee: this study added no noise."]
    assumption = f", {privacy.assumption}" if privacy.assumption else ""
    spent = f"ε = {number(privacy.epsilon)} of privacy (δ = {scientific(privacy.delta)})"
    return [f"The whole study spent {spent} for each patient{assumption}."]


def privacy_in_words(privacy: PrivacyStatement) -> list[str]:
    """What the promise means, paragraph by paragraph."""
    paragraphs = [_MODES[privacy.mode]]
    if privacy.bounded:
        paragraphs.append(_meaning(privacy))
        paragraphs.append(_metrics(privacy))
    return [paragraph for paragraph in paragraphs if paragraph]


def _meaning(privacy: PrivacyStatement) -> str:
    factor = math.exp(min(privacy.epsilon, _LARGEST_EXPONENT))
    assumption = f" This holds {privacy.assumption}." if privacy.assumption else ""
    return (
        "Whether one patient, with all their records, is in the study or not changes the chance of "
        f"anything that could be concluded from it by a factor of at most {number(factor)} "
        f"(e to the power ε = {number(privacy.epsilon)}), except with a probability of about "
        f"{scientific(privacy.delta)}.{assumption}"
    )


def _metrics(privacy: PrivacyStatement) -> str:
    if privacy.metrics_epsilon is None:
        return (
            "The reported metrics are exact sums over the held-out patients, and lie outside "
            "this guarantee."
        )
    training = number(privacy.training_epsilon)
    return (
        f"Patients in the training part spent ε = {training}, held-out patients, whose errors are "
        f"reported, ε = {number(privacy.metrics_epsilon)}. No patient is in both parts, so the "
        "larger of the two counts."
    )


def courses_in_words(*, invented: bool) -> str:
    """Which patients are drawn, and who may see them."""
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
    """How many sites fell out, and what that did."""
    lost = sum(cost.dropped_by_round)
    if not lost:
        told = "No site fell out in any round."
    else:
        rounds = sum(1 for dropped in cost.dropped_by_round if dropped)
        told = (
            f"Sites fell out {lost} {_times(lost)}, in {rounds} of "
            f"{len(cost.dropped_by_round)} rounds; their patients are missing from these sums only."
        )
    if cost.repeated_attempts:
        again = cost.repeated_attempts
        told += f" {again} {'round' if again == 1 else 'rounds'} had to be tried again."
    return told


def _times(count: int) -> str:
    return "time" if count == 1 else "times"


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
