"""A what-if for people: both answers side by side in the terminal, and as a figure."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.predict import DECIDES, Point
from fedrx_client.clinic.whatif import LEARNED, WhatIf
from fedrx_common.errors import MisuseError
from fedrx_common.files import write_file
from fedrx_models.files import ModelFile
from fedrx_models.twin.inr import INR, SOURCE, TwinForecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
# Colours that differ in print and for the colour-blind (Okabe and Ito 2008).
_NOW, _THEN, _SEEN = "#0072B2", "#D55E00", "#444444"
_COLUMNS = ("now", "what if", "difference")


def require_drawable(path: Path) -> None:
    """Refuse a figure's name of another format, or of a file that is there.

    Raises:
        MisuseError: naming the file.
    """
    if path.suffix.lower() not in FORMATS:
        raise MisuseError(f"{path}: a figure is {' or '.join(FORMATS)}; name it so.")
    if path.exists():
        raise MisuseError(f"{path}: is already there; name a new file, or remove it.")
    if not path.absolute().parent.is_dir():
        raise MisuseError(f"{path}: its folder does not exist; make it first.")


def show(answer: WhatIf, model: ModelFile) -> None:
    """Print both answers, the support of the question, and the twin."""
    out = PlainConsole()
    for line in answer.asked:
        out.print(f"Asked: {line}.")
    level = "" if answer.now.level is None else f", {100 * answer.now.level:.0f} % intervals"
    table = Table(title=f"Patient {answer.now.patient}{level}")
    table.add_column("predicted", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for now, then in zip(answer.now.points, answer.then.points, strict=True):
        _add(table, now, then, now.of)
    if answer.twins is not None:
        for now, then in zip(*(_points(one) for one in answer.twins), strict=True):
            _add(table, now, then, f"{now.of}, published")
    out.print(table)
    out.print(f"Support: {answer.support.sentence}.")
    if answer.twins is not None:
        notes = " ".join(answer.twins[0].notes)
        out.print(f"Published: {SOURCE}, {100 * answer.twins[0].level:.0f} % band. {notes}".strip())
    if answer.no_twin:
        out.print(f"No published model beside it: {answer.no_twin}")
    for filled in answer.then.filled:
        out.print(f"Missing: {filled.feature}; used {filled.how}.")
    for warning in answer.then.warnings:
        out.print(f"Note: {warning}")
    out.print(LEARNED)
    promise = f"; {model.card.promise}" if model.card else ""
    out.print(f"Model {model.name}{promise}.")
    out.print(model.card.intended_use if model.card else DECIDES)


def _add(table: Table, now: Point, then: Point, name: str) -> None:
    ahead = "" if now.at is None else f" at {now.at:g}"
    apart = None if now.value is None or then.value is None else then.value - now.value
    change = "–" if apart is None else f"{apart:+.2g}"
    table.add_row(f"{name}{ahead} ({now.unit})", _told(now), _told(then), change)


def _told(point: Point) -> str:
    if point.value is None:
        return "–"
    if point.low is None or point.high is None:
        return f"{point.value:.3g}"
    return f"{point.value:.3g} ({point.low:.3g} to {point.high:.3g})"


def _points(twin: TwinForecast) -> list[Point]:
    parts = zip(twin.at, twin.value, twin.low, twin.high, strict=True)
    return [Point(INR, float(v), "ratio", float(lo), float(hi), at) for at, v, lo, hi in parts]


def draw(answer: WhatIf, model: ModelFile, path: Path) -> None:
    """Draw both answers into a new PNG or SVG file.

    Raises:
        MisuseError: see `require_drawable`.
    """
    require_drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.of for point in answer.now.points))
    course = bool(answer.visits)
    panels = names if course else [""]
    with rc_context({"svg.hashsalt": "fedrx", "svg.fonttype": "none"}):
        height = 2.6 * len(panels) if course else max(2.6, 0.3 * len(names))
        figure = Figure(figsize=(7, 1.4 + height), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=course)[:, 0]
        for ax, name in zip(axes, panels, strict=True):
            if course:
                _draw_course(ax, answer, name)
            else:
                _draw_values(ax, answer)
        if model.model.schema.visits is not None:
            axes[-1].set_xlabel(f"time ({model.model.schema.visits.time_unit}s)")
        axes[0].legend(loc="best", fontsize=8, frameon=False)
        title = "\n".join((f"Patient {answer.now.patient}", *answer.asked))
        figure.suptitle(title.replace("$", r"\$"), fontsize=10)
        figure.supxlabel(f"{model.name}. {DECIDES}".replace("$", r"\$"), fontsize=7)
        drawn, kind = io.BytesIO(), path.suffix.lower()[1:]
        figure.savefig(
            drawn, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {}
        )
    write_file(path, drawn.getvalue())


def _draw_course(ax: "Axes", answer: WhatIf, name: str) -> None:
    """Measured values, then both forecasts with their bands, and the published model's."""
    last = answer.visits[-1]
    begun = float(last["time"])
    seen = [
        (visit["time"], visit[name])
        for visit in answer.visits
        if visit["episode"] == last["episode"] and name in visit
    ]
    if seen:
        ax.plot(*zip(*seen, strict=True), "o-", color=_SEEN, markersize=3, label="measured")
    ax.axvline(begun, color=_SEEN, linewidth=0.5, linestyle=":")
    arms = ((answer.now.points, _NOW, "now"), (answer.then.points, _THEN, "what if"))
    for points, colour, label in arms:
        _band(ax, [one for one in points if one.of == name], begun, colour, label)
    if answer.twins is not None and name == INR:
        for twin, colour, label in zip(
            answer.twins, (_NOW, _THEN), ("now", "what if"), strict=True
        ):
            at = [begun + one for one in twin.at]
            ax.plot(at, twin.value, "--", color=colour, label=f"{label}, published")
            for edge in (twin.low, twin.high):
                ax.plot(at, edge, ":", color=colour, linewidth=0.8)
    unit = next(point.unit for point in answer.now.points if point.of == name)
    ax.set_ylabel(f"{name} ({unit})")


def _band(ax: "Axes", points: Sequence[Point], start: float, colour: str, label: str) -> None:
    known = [one for one in points if one.value is not None and one.at is not None]
    at = [start + one.at for one in known if one.at is not None]
    values = [one.value for one in known if one.value is not None]
    ax.plot(at, values, "s-", color=colour, markersize=4, label=label)
    low = [one.low for one in known if one.low is not None]
    high = [one.high for one in known if one.high is not None]
    if len(low) == len(at) == len(high):
        ax.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_values(ax: "Axes", answer: WhatIf) -> None:
    """Each predicted number as two points with their intervals."""
    count = len(answer.now.points)
    arms = ((answer.now.points, _NOW, "now", 0.12), (answer.then.points, _THEN, "what if", -0.12))
    for points, colour, label, shift in arms:
        for row, point in enumerate(points):
            if point.value is None:
                continue
            place, name = count - row + shift, label if row == 0 else None
            ax.plot([point.value], [place], "s", color=colour, label=name)
            if point.low is not None and point.high is not None:
                ax.plot([point.low, point.high], [place, place], "-", color=colour)
    ax.set_yticks([count - row for row in range(count)], [point.of for point in answer.now.points])
    ax.set_ylim(0.4, count + 0.6)
    ax.set_xlabel(answer.now.points[0].unit)
