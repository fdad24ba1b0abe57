"""The messages of CDS Hooks 2.0, as far as this service reads and writes them.

Source: CDS Hooks 2.0, HL7 (2022), cds-hooks.hl7.org/2.0. A client may send more than is read here;
what is read is checked strictly.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

HOOKS = ("patient-view", "order-select", "order-sign")
HookName = Literal["patient-view", "order-select", "order-sign"]
MOST_CARDS = 100
LONGEST_SUMMARY = 140

_Text = Annotated[str, StringConstraints(max_length=2000)]
_Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Received(BaseModel):
    """A message from a client; fields that are not read are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class HookContext(_Received):
    """What the clinician is doing, and for whom.

    Attributes:
        userId: the clinician, as the record system names them.
        patientId: the patient's id on the FHIR server.
        encounterId: the encounter, if there is one.
        selections: ids of the orders just selected (`order-select`).
        draftOrders: a bundle of orders not signed yet (`order-select`, `order-sign`).
    """

    userId: _Id  # noqa: N815 - the specification's names
    patientId: _Id  # noqa: N815
    encounterId: _Id | None = None  # noqa: N815
    selections: tuple[_Id, ...] = ()
    draftOrders: dict[str, Any] | None = None  # noqa: N815


class HookRequest(_Received):
    """One question of a record system."""

    hook: HookName
    hookInstance: UUID  # noqa: N815
    context: HookContext
    prefetch: dict[str, Any] = Field(default={}, max_length=50)

    @model_validator(mode="after")
    def _complete(self) -> "HookRequest":
        if self.hook != "patient-view" and self.context.draftOrders is None:
            raise ValueError(f"context.draftOrders is missing; '{self.hook}' requires it")
        if self.hook == "order-select" and not self.context.selections:
            raise ValueError("context.selections is missing; 'order-select' requires it")
        return self


class ReasonCode(_Received):
    """A coded reason of an override."""

    code: _Id
    system: Annotated[str, StringConstraints(max_length=500)] = ""
    display: _Text = ""


class OverrideReason(_Received):
    """Why a clinician did otherwise; the comment is free text and is not kept."""

    reason: ReasonCode | None = None


class CardFeedback(_Received):
    """What became of one card."""

    card: UUID
    outcome: Literal["accepted", "overridden"]
    outcomeTimestamp: _Id  # noqa: N815
    overrideReason: OverrideReason | None = None  # noqa: N815
    acceptedSuggestions: tuple[dict[str, Any], ...] = Field(default=(), max_length=MOST_CARDS)  # noqa: N815


class FeedbackRequest(_Received):
    """What became of some cards."""

    feedback: tuple[CardFeedback, ...] = Field(min_length=1, max_length=MOST_CARDS)


OVERRIDE_REASONS = (
    ("patient-differs", "This patient differs in something that the model does not see"),
    ("guideline", "I follow the guideline"),
    ("other-data", "I have newer or better measurements"),
    ("other", "Another reason"),
)
"""Reasons that a card offers; `system` is that of this service."""
REASON_SYSTEM = "urn:fedrx:override-reason"
