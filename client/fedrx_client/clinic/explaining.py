"""Why a model says so, of patients at a site: reasons, what it read, and what its graph carries.

An explanation is about a patient and stays at the site.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedrx_client.clinic.predict import describe
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.explain.attribution import Method
from fedrx_models.explain.explanation import (
    MAIN_REASONS,
    CohortExplanation,
    Explanation,
    explain,
    summed_up,
)
from fedrx_models.explain.outcome import Question
from fedrx_models.explain.structure import attention_of, edges_of, has_attention, has_graph
from fedrx_models.explain.words import in_words
from fedrx_models.files import ModelFile

STAYS = (
    "Effects over a cohort speak of its patients: they stay at this site. Only a study may release "
    "them, bounded, noised and charged in the ledger."
)
_MOST_SHOWN = 10


@dataclass(frozen=True)
class Share:
    """A part of what a transformer reads, or an edge of a graph, with a number.

    Attributes:
        name: of the token, the visit or the two ends of the edge.
        value: share of the attention, mean over layers; or what the edge adds to the prediction.
    """

    name: str
    value: float


@dataclass(frozen=True)
class PatientWhy:
    """Why a model predicts what it does for one patient.

    Attributes:
        explanation: every reason.
        words: a paragraph that a clinician reads.
        attention: what a transformer reads most; empty for other models.
        edges: what the edges around the main reasons carry; empty for models without a graph.
    """

    explanation: Explanation
    words: str
    attention: tuple[Share, ...] = ()
    edges: tuple[Share, ...] = ()

    def to_json(self, model: ModelFile) -> dict[str, Any]:
        """Describe it as a JSON object, with the model's card."""
        found = self.explanation
        return {
            **found.to_dict(),
            "words": self.words,
            "attention": [{"of": one.name, "share": one.value} for one in self.attention],
            "edges": [{"edge": one.name, "effect": one.value} for one in self.edges],
            "model": describe(model),
        }


def explain_patients(
    model: ModelFile, cohort: Cohort, *, method: Method = "auto", question: Question | None = None
) -> tuple[PatientWhy, ...]:
    """Explain a model's prediction for each patient.

    Args:
        model: a model of the study that the cohort was read for.
        cohort: patients; their outcomes are not looked at.
        method: see `fedrx_models.explain.attribution.attribute`.
        question: which drug, or marker and horizon; None takes the first and the longest.

    Raises:
        ModelUnusable: the model is withdrawn or expired.
        DataError: the cohort was read for another study.
        MisuseError: the question or the method does not fit the model.
    """
    model.require_usable()
    found = explain(model.model, cohort, method=method, question=question)
    attention, edges = _attention(model, cohort), _edges(model, cohort, found, question)
    return tuple(
        PatientWhy(one, in_words(one, model.model.schema), attention[i], edges[i])
        for i, one in enumerate(found)
    )


def explain_cohort(whys: Sequence[PatientWhy]) -> CohortExplanation:
    """Average the effects of several patients; the result stays at the site.

    Raises:
        MisuseError: there are no patients.
    """
    return summed_up([one.explanation for one in whys])


def _attention(model: ModelFile, cohort: Cohort) -> list[tuple[Share, ...]]:
    """What a transformer reads most for each patient."""
    if not has_attention(model.model):
        return [()] * len(cohort)
    seen = attention_of(model.model, encode(cohort, model.model.schema))
    by_patient = seen.shares.mean(axis=1)
    return [_largest(zip(seen.names, row.tolist(), strict=True)) for row in by_patient]


def _edges(
    model: ModelFile,
    cohort: Cohort,
    found: Sequence[Explanation],
    question: Question | None,
) -> list[tuple[Share, ...]]:
    """What the edges that touch a main reason carry for each patient."""
    if not has_graph(model.model):
        return [()] * len(cohort)
    among = sorted({reason.name for one in found for reason in one.main(MAIN_REASONS)})
    edges = edges_of(model.model, encode(cohort, model.model.schema), question, among)
    names = [f"{first} – {second}" for first, second in (one.edge for one in edges)]
    return [
        _largest(zip(names, (float(one.effects[i]) for one in edges), strict=True))
        for i in range(len(cohort))
    ]


def _largest(pairs: Iterable[tuple[str, float]]) -> tuple[Share, ...]:
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1]))[:_MOST_SHOWN]
    return tuple(Share(name, value) for name, value in ranked if value)
