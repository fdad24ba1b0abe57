"""A monitor in the terminal: stay or pivot, the evidence, and who decides."""

from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.monitor import WatchedCourse
from fedrx_client.clinic.predict import DECIDES
from fedrx_models.files import ModelFile


def show(course: WatchedCourse, model: ModelFile) -> None:
    """Print what a monitor says of a course."""
    out = PlainConsole()
    out.print(f"Patient {course.patient}: {course.decision.upper()}")
    for marker in course.markers:
        out.print(marker.sentence)
    for sentence in course.crossed:
        out.print(sentence)
    out.print(f"Asked for: {course.rate:g} false alarms a patient-month. {course.basis}")
    promise = f"; {model.card.promise}" if model.card else ""
    out.print(f"Model {model.name}{promise}.")
    out.print(model.card.intended_use if model.card else DECIDES)
