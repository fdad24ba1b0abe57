"""A study's plan: sizes of its model and metrics, and the numbers of secure aggregation.

Coordinator and site each compute it; neither accepts it from the other.
"""

from functools import lru_cache

from fedrx_models.evaluation import evaluation_plan
from fedrx_models.transfer import study_model, trained_positions
from fedrx_protocol.plan import MetricShape, StudyPlan
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.study.study import Study


def make_plan(study: Study, sites: int) -> StudyPlan:
    """Build the study's plan for a number of sites.

    Raises:
        StudyError: The model or the secure aggregation cannot be built as the study asks.
    """
    section = study.secure_aggregation
    parameters = SecAggParameters.for_roster(
        sites,
        threshold=section.threshold,
        max_colluding=section.max_colluding_sites,
        min_honest=section.min_honest_sites,
    )
    model = study_model(study, seed=0)
    between, final = (evaluation_plan(study, final=last) for last in (False, True))
    return StudyPlan(
        study=study,
        parameters=parameters,
        dimension=int(trained_positions(model).sum()),
        between=MetricShape(between.size, between.sensitivity),
        final=MetricShape(final.size, final.sensitivity),
    )


@lru_cache(maxsize=8)
def plan_for(study: Study, sites: int) -> StudyPlan:
    """Return the study's plan for a number of sites, cached for the next call."""
    return make_plan(study, sites)
