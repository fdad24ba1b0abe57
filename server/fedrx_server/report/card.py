"""The card that a finished run puts into its model's file."""

from datetime import UTC, datetime

from fedrx_models.card import Calibration, ModelCard
from fedrx_protocol.study.study import Study
from fedrx_server.report.data import PrivacyStatement


def model_card(
    study: Study,
    privacy: PrivacyStatement,
    sites: int,
    calibration: Calibration | None = None,
) -> ModelCard:
    """Make the card of a model that `sites` hospitals, or simulated ones, have trained today.

    Args:
        study: what they trained.
        privacy: what was spent.
        sites: how many they are.
        calibration: of the model's intervals, where the study asks for it.
    """
    return ModelCard(
        study=study.name,
        title=study.title,
        made=datetime.now(UTC).date(),
        privacy=study.privacy.mode,
        epsilon=privacy.epsilon if privacy.bounded else None,
        delta=privacy.delta if privacy.bounded else None,
        sites=sites,
        calibration=calibration,
    )
