"""What a patient is promised, in words: a line before a study, a sentence after it, paragraphs.

Plain text only; a page or a terminal escapes it.
"""

import math

from fedrx_protocol.plan import StudyPlan
from fedrx_server.report.data import PrivacyStatement
from fedrx_server.report.text import number, scientific

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
_LARGEST_EXPONENT = 700.0  # beyond it a float overflows, and the factor says nothing any more


def assumption_in_words(plan: StudyPlan, *, exact_metrics: bool) -> str:
    """Say what must hold for the promise, as a privacy statement and its sentences say it."""
    words = {
        "none": "no noise was added: secure aggregation alone protects each site's sum",
        "local": "whoever else colludes: each site adds the whole noise itself",
        "distributed": _if_enough_are_honest(plan),
    }[plan.study.privacy.mode]
    return words + ("; the metrics are exact sums outside this guarantee" if exact_metrics else "")


def _if_enough_are_honest(plan: StudyPlan) -> str:
    parameters = plan.parameters
    return f"if at least {parameters.min_honest} of {parameters.n} sites are honest and take part"


def in_a_line(plan: StudyPlan) -> str:
    """Say what a study would promise, with its assumption, before a site approves it."""
    privacy = plan.study.privacy
    if privacy.mode == "none":
        return "mode 'none': no differential privacy; secure aggregation alone covers this site."
    local = privacy.mode == "local"
    held = "whatever the other sites do" if local else _if_enough_are_honest(plan)
    exact = "" if plan.study.metrics_are_private else "; the metrics lie outside this promise"
    promised = f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    return f"mode '{privacy.mode}', {promised}, {held}{exact}."


def in_a_sentence(privacy: PrivacyStatement) -> str:
    """Say what was spent, with its assumption, after a run."""
    if not math.isfinite(privacy.epsilon):
        return f"Privacy: no differential privacy ({privacy.assumption})."
    return (
        f"Privacy: ε = {privacy.epsilon:.2f} at δ = {privacy.delta:g} for every patient, with all "
        f"their records, {privacy.assumption}."
    )


def in_paragraphs(privacy: PrivacyStatement) -> list[str]:
    """Explain what the promise means, for a reader who does not know the field."""
    paragraphs = [_MODES[privacy.mode]]
    if not privacy.bounded:
        return paragraphs
    factor = math.exp(min(privacy.epsilon, _LARGEST_EXPONENT))
    assumption = f" This holds {privacy.assumption}." if privacy.assumption else ""
    paragraphs.append(
        "Whether one patient, with all their records, is in the study or not changes the chance of "
        f"anything that could be concluded from it by a factor of at most {number(factor)} "
        f"(e to the power ε = {number(privacy.epsilon)}), except with a probability of about "
        f"{scientific(privacy.delta)}.{assumption}"
    )
    if privacy.metrics_epsilon is None:
        paragraphs.append(
            "The reported metrics are exact sums over the held-out patients, and lie outside "
            "this guarantee."
        )
    else:
        training, metrics = number(privacy.training_epsilon), number(privacy.metrics_epsilon)
        paragraphs.append(
            f"Patients in the training part spent ε = {training}, held-out patients, whose errors "
            f"are reported, ε = {metrics}. No patient is in both parts, so the larger of the two "
            "counts."
        )
    return paragraphs
