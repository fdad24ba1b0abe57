"""What a hospital serves: models, each with how a record becomes its features, and the answers."""

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedrx_client.clinic.predict import PatientPrediction, predict
from fedrx_client.clinic.service.cards import prediction_card, refusal_card
from fedrx_client.clinic.service.hooks import FeedbackRequest, HookName, HookRequest
from fedrx_client.records.audit_log import AuditKind
from fedrx_common.errors import DataError, FedRxError, MisuseError
from fedrx_models.card import ModelUnusable
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.contract import ModelFileInvalid
from fedrx_models.files import ModelFile, load_model

Read = Callable[[Sequence[Mapping[str, Any]], str], Cohort]
"""From FHIR resources, and the id of the patient meant, to that one patient."""
Reasons = Callable[[ModelFile, Cohort], Sequence[str]]
"""From a model and one patient to sentences, the weightiest first."""
Guideline = Callable[[ModelFile, Cohort, PatientPrediction], tuple[Sequence[str], str]]
"""To the guideline's sentences, and one on how far the model differs, or an empty one."""

Keep = Callable[[ModelFile, PatientPrediction], None]
"""Keeps a prediction under a pseudonym."""


class AuditWriter(Protocol):
    """Where every card and every answer is recorded, before it leaves."""

    def __call__(self, kind: AuditKind, reason: str, study: str) -> None:
        """Record one line: no value and no name of a patient."""


class PrefetchIncomplete(FedRxError):
    """A question came without the resources that the service asks for."""


class WatchedModel:
    """A model in memory whose file is looked at before each answer: its card may be changed there.

    Args:
        model: as it was read.
    """

    def __init__(self, model: ModelFile) -> None:
        self._model, self._seen = model, _state(model.path)
        self._lock = threading.Lock()

    @property
    def model(self) -> ModelFile:
        """The model as it was when last looked at."""
        return self._model

    def current(self) -> ModelFile:
        """Return the model with the card that its file has now.

        Raises:
            ModelUnusable: the file is gone, cannot be read, or holds another model.
        """
        if _state(self._model.path) == self._seen:  # one call of the file system
            return self._model
        with self._lock:
            state, name = _state(self._model.path), self._model.name
            if state != self._seen:
                try:
                    found = load_model(self._model.path)
                except ModelFileInvalid as error:
                    raise ModelUnusable(
                        f"{name}: its file cannot be read any more ({error}); put it back."
                    ) from None
                if found.digest != self._model.digest:
                    raise ModelUnusable(
                        f"{name}: its file holds another model now; restart the server to use it."
                    )
                self._model, self._seen = found, state
            return self._model


def _state(path: Path) -> tuple[int, int, int] | None:
    """Tell one state of a file from another; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True)
class ServedModel:
    """One CDS service.

    Attributes:
        id: the last part of its address.
        hook: when a record system asks.
        watched: what answers.
        read: how a record becomes the model's features.
        prefetch: FHIR queries by name, as the discovery names them.
        concerns: whether a bundle of draft orders is about this model's drug; it is not asked for
            `patient-view`.
        reasons: why the model says so.
        guideline: what the guideline says.
        follow_up: whether its predictions are kept, to be compared with what happens.
    """

    id: str
    hook: HookName
    watched: WatchedModel
    read: Read
    prefetch: Mapping[str, str]
    concerns: Callable[[Mapping[str, Any]], bool] = lambda _orders: True
    reasons: Reasons = lambda _model, _patient: ()
    guideline: Guideline = lambda _model, _patient, _found: ((), "")
    follow_up: bool = False

    @property
    def model(self) -> ModelFile:
        """What answers, as it was when last looked at."""
        return self.watched.model

    @property
    def title(self) -> str:
        """What people call it."""
        card = self.model.card
        return (card.title or card.study) if card else self.model.name

    def describe(self) -> dict[str, Any]:
        """Describe it as discovery does."""
        card, title = self.model.card, self.title
        use = card.intended_use if card else "Research software, no medical device."
        return {
            "hook": self.hook,
            "id": self.id,
            "title": title,
            "description": f"{title}: value, interval, reasons. {use}",
            "prefetch": dict(self.prefetch),
        }


@dataclass(frozen=True)
class Desk:
    """The services of one hospital.

    Attributes:
        services: by id.
        audit: where cards and answers are recorded.
        page: keeps a patient for the page, and returns the address for a card's link; it is given
            the card's name, which is all that the address holds.
        keep: keeps a prediction of a service that is followed up.
    """

    services: Mapping[str, ServedModel]
    audit: AuditWriter
    page: Callable[[uuid.UUID, ServedModel, Cohort], str] | None = None
    keep: Keep = lambda _model, _found: None

    def service(self, name: str) -> ServedModel:
        """Find a service.

        Raises:
            MisuseError: there is none of that name.
        """
        if name not in self.services:
            raise MisuseError(f"there is no CDS service '{name[:80]}'.")
        return self.services[name]

    def answer(
        self, service: ServedModel, request: HookRequest, client: str
    ) -> list[dict[str, Any]]:
        """Answer one question with cards; each is in the audit log before it is returned.

        Args:
            service: who is asked.
            request: the question.
            client: who asks.

        Raises:
            MisuseError: the question is for another hook.
            PrefetchIncomplete: it came without the resources that the service asks for.
            ModelUnusable: the model is withdrawn or expired.
        """
        if request.hook != service.hook:
            raise MisuseError(f"service '{service.id}' answers '{service.hook}' only.")
        orders = request.context.draftOrders
        if orders is not None and service.hook != "patient-view" and not service.concerns(orders):
            return []
        resources = _resources(service, request)
        name, model, kept = uuid.uuid4(), service.model, None
        try:
            model = service.watched.current()
            patient = service.read(resources, request.context.patientId)
            (found,) = predict(model, patient)
            guideline, disagrees = service.guideline(model, patient, found)
            card = prediction_card(
                found,
                model,
                uuid=name,
                reasons=service.reasons(model, patient),
                guideline=guideline,
                disagrees=disagrees,
                link=None if self.page is None else self.page(name, service, patient),
            )
            kept = found if service.follow_up else None
        except DataError as error:
            card = refusal_card(str(error), model, uuid=name)
        except ModelUnusable:
            self.audit("refusal", f"no card to {client}: model {model.name} may not be used", "")
            raise
        self.audit(
            "card",
            f"card {name} ({card['indicator']}) of model {model.name} to {client} for "
            f"{service.hook}{'' if 'overrideReasons' in card else ', without a prediction'}",
            model.study_digest,
        )
        if kept is not None:
            self.keep(model, kept)
        return [card]

    def feedback(self, service: ServedModel, request: FeedbackRequest, client: str) -> None:
        """Record what became of cards, with the coded reason; a comment is not kept."""
        for one in request.feedback:
            reason = one.overrideReason.reason if one.overrideReason else None
            why = f", reason {reason.code[:80]!r}" if reason else ""
            self.audit(
                "feedback",
                f"card {one.card} of model {service.model.name} was {one.outcome} at {client}{why}",
                service.model.study_digest,
            )


def _resources(service: ServedModel, request: HookRequest) -> list[Mapping[str, Any]]:
    """List the resources of a question's prefetch.

    Draft orders are not among them: a drug that is only planned is not one that is taken.

    Raises:
        PrefetchIncomplete: a part that the service asks for is not there.
    """
    found: list[Mapping[str, Any]] = []
    for name in service.prefetch:
        if name not in request.prefetch:
            raise PrefetchIncomplete(
                f"prefetch '{name}' is missing; send the result of its query with the question."
            )
        part = request.prefetch[name]
        if part is None:  # the client looked, and there is nothing
            continue
        if not isinstance(part, Mapping):
            raise PrefetchIncomplete(f"prefetch '{name}' is not a FHIR resource.")
        found += _listed(part)
    return found


def _listed(resource: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List a bundle's resources; another resource is itself."""
    if not resource:
        return []
    if resource.get("resourceType") != "Bundle":
        return [resource]
    entries = resource.get("entry")
    parts = [one.get("resource") for one in entries or () if isinstance(one, Mapping)]
    return [one for one in parts if isinstance(one, Mapping)]
