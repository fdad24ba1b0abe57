"""A study made concrete: sizes of its model and metrics, and the numbers of secure aggregation.

Coordinator and site each compute this for themselves; neither takes it from the other.
"""

from fedrx_models.build import build_model
from fedrx_models.contract import get_vector
from fedrx_models.metrics import MetricPlan
from fedrx_protocol.plan import MetricShape, StudyPlan
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.study import Study


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
    model = build_model(study.model, study.feature_schema, seed=0)
    between, final = (MetricPlan.for_study(study, final=last) for last in (False, True))
    return StudyPlan(
        study=study,
        parameters=parameters,
        dimension=len(get_vector(model)),
        between=MetricShape(between.size, between.sensitivity),
        final=MetricShape(final.size, final.sensitivity),
    )
