"""What a federated model is held against: pooled data, each site alone, and simple rules.

The baselines see what no party of a real study could see, which is what a simulation is for. None
of them is private.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.cohort.encoding import encode, outcome_count
from fedrx_models.contract import PatientModel
from fedrx_models.fitting import fit, predict
from fedrx_models.heads import OutcomeHead
from fedrx_models.metrics.registry import Metrics, exact_metrics
from fedrx_models.personal import personalise
from fedrx_models.pharmacogenomic.published import fixed_dose, is_applicable, pharmacogenetic_dose
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import ForecastTarget
from fedrx_protocol.study.study import ModelSection

Vector = NDArray[np.float64]

__all__ = ["Baselines", "compute_baselines", "fit", "fixed_prediction", "personalised", "predict"]


@dataclass(frozen=True)
class Baselines:
    """Exact metrics on the held-out patients of all sites."""

    pooled: Metrics
    site_alone: Metrics
    fixed: Metrics
    published: Metrics | None

    def by_name(self) -> dict[str, Metrics]:
        """The baselines that there are."""
        named = {
            "pooled": self.pooled,
            "site_alone": self.site_alone,
            "fixed": self.fixed,
            "published": self.published,
        }
        return {name: metrics for name, metrics in named.items() if metrics is not None}


def compute_baselines(
    model: PatientModel,
    training: Mapping[str, Cohort],
    held_out: Mapping[str, Cohort],
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Baselines:
    """Train and judge every baseline.

    Args:
        model: The study's model with its start weights; it is not changed.
        training: Training patients by site.
        held_out: Held-out patients by site.
        seed: Fixes which patients steer the early stopping.
        tell: Called before each model is trained, with which one that is.
    """
    everyone = concatenate(list(held_out.values()))

    def judge(predicted: Vector) -> Metrics:
        return exact_metrics(everyone.schema.target, predicted, everyone.target)

    tell("comparing with pooled data")
    pooled = fit(model, concatenate(list(training.values())), seed)
    alone = []
    for i, (site, cohort) in enumerate(held_out.items(), start=1):
        tell(f"comparing with each site alone, {i} of {len(held_out)}")
        alone.append(predict(fit(model, training[site], seed), cohort))
    published = is_applicable(everyone.schema)
    return Baselines(
        pooled=judge(predict(pooled, everyone)),
        site_alone=judge(np.concatenate(alone)),
        fixed=judge(fixed_prediction(everyone)),
        published=judge(pharmacogenetic_dose(everyone)) if published else None,
    )


def personalised(
    model: PatientModel, training: Mapping[str, Cohort], held_out: Mapping[str, Cohort]
) -> Vector:
    """Predictions for all held-out patients, each by the private head of the patient's site.

    Args:
        model: The federated model; it is not changed.
        training: Training patients by site.
        held_out: Held-out patients by site.
    """
    found = []
    for site, cohort in held_out.items():
        personal = personalise(model, encode(training[site], model.schema))
        found.append(predict(personal, cohort))
    return np.concatenate(found)


def fixed_prediction(cohort: Cohort) -> Vector:
    """The same for everybody: warfarin's usual dose, else the public reference or last value."""
    target = cohort.schema.target
    if isinstance(target, ForecastTarget):
        section = ModelSection(name="last_value")
        return predict(build_model(section, cohort.schema, seed=0), cohort)
    if is_applicable(cohort.schema):
        return fixed_dose(cohort)
    return OutcomeHead(target).predict(torch.zeros(len(cohort), outcome_count(target))).mean
