"""What a person sees of a live run: sites in and out and why, the metrics, the privacy spent.

Of a single site it shows only whether it takes part; the coordinator knows no more.
"""

import time
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedrx.views.terminal import PlainConsole
from fedrx_common.text import escaped
from fedrx_protocol.messages.refusal import SENTENCES, Refusal
from fedrx_protocol.privacy.figures import HIDDEN, Figure, readable
from fedrx_server.report.text import duration, size
from fedrx_server.runs.registry import DesiredState, read_left_out, read_wanted
from fedrx_server.service.instance import Serving
from fedrx_server.service.status import LiveState, read_live

LOOK_EVERY_S: Final = 0.5
# Name, decimals and what it could tell (see `figures.hides`) of each kind of outcome's headline.
# Repeated from fedrx_models.metrics.registry, whose import would make a look at a run wait for
# torch.
# What an MAE could tell depends on the study: `LiveState.tells`.
_HEADLINES: Final = {
    "mae": ("MAE", 2, inf),
    "auc": ("ROC AUC", 3, 0.25),
    "concordance": ("concordance", 3, 0.25),
    "ratio": ("relative error", 3, 0.5),
}


def state_of(folder: Path) -> tuple[str, LiveState | None, DesiredState]:
    """The state of a run: one word, what its process last said, and what is wanted of it."""
    wanted, live = read_wanted(folder), read_live(folder)
    if wanted.goal != "running":
        return wanted.goal, live, wanted
    return ("waiting" if live is None or live.pid == 0 else live.state), live, wanted


def serving_lines(serving: Serving | None) -> list[str]:
    """Whether a coordinator serves, and which sites are there."""
    if serving is None:
        return ["No coordinator is running: `fedrx coordinator start` opens the door for sites."]
    online = sorted(site for site, there in serving.online.items() if there)
    away = sorted(serving.online.keys() - set(online))
    lines = [f"Sites online: {', '.join(online) or 'none'}"]
    return [*lines, f"Sites away: {', '.join(away)}"] if away else lines


def status_lines(folder: Path, *, serving: bool) -> list[str]:
    """One run in words."""
    word, live, wanted = state_of(folder)
    where = "" if live is None else f", round {live.round} of {live.of}"
    lines = [f"{folder.name}: {word}{where}"]
    sentence = wanted.sentence or (live.sentence if live is not None else "")
    if sentence:
        lines.append(f"  {sentence}")
    if wanted.goal == "running" and not serving:
        lines.append(
            "  No coordinator is running: `fedrx coordinator start` goes on with this run."
        )
    if live is not None:
        lines += [f"  {line}" for line in _people(live, ended=wanted.goal != "running")]
    lines += [f"  {line}" for line in _left_out(folder)]
    if live is not None:
        lines += [f"  {line}" for line in figures(live)]
    return lines


def figures(live: LiveState) -> list[str]:
    """Metric, privacy, bytes and time, as far as they are known."""
    lines = []
    if live.metrics is not None:
        lines.append(f"after round {live.metrics_round}: {_metric(live)}")
    if live.epsilon_promised is not None:
        spent = "unknown" if live.epsilon_spent is None else f"{live.epsilon_spent:.3g}"
        lines.append(
            f"privacy: ε {spent} spent of {live.epsilon_promised:g} promised at δ {live.delta:g}"
        )
    else:
        lines.append("privacy: none promised; secure aggregation alone")
    lines.append(f"sent: {size(live.bytes_up)} up, {size(live.bytes_down)} down")
    if live.seconds_per_round is not None and live.seconds_left:
        left = duration(live.seconds_left)
        lines.append(f"pace: {live.seconds_per_round:.1f} s a round, about {left} left")
    return lines


def follow(folder: Path) -> tuple[str, str]:
    """Show a run until it ends; gives how it ended, and why."""
    console = PlainConsole(err=True)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as screen:
            for moment in _moments(folder):
                screen.update(_panel(folder, moment[0], moment[1]), refresh=True)
        return moment[0], moment[2].sentence
    before = ""
    for moment in _moments(folder):
        line, live = moment[0], moment[1]
        if live is not None and line in {"waiting", "failed", "stopped"}:
            missing = ", ".join(f"{site} ({why})" for site, why in live.absent.items())
            line += f": {live.sentence}" + (f"; not there: {missing}" if missing else "")
        elif live is not None:
            line = f"round {live.round}/{live.of}, {len(live.present)} sites"
            line += f", {_metric(live)}" if live.metrics is not None else ""
        if line != before:  # only where something has changed
            console.print(f"{folder.name}: {line}", soft_wrap=True)
        before = line
    return moment[0], moment[2].sentence


def _moments(folder: Path) -> Iterator[tuple[str, LiveState | None, DesiredState]]:
    """The states of the run, again and again; the last one is its end."""
    while True:
        moment = state_of(folder)
        yield moment
        if moment[2].goal != "running":
            return
        time.sleep(LOOK_EVERY_S)


def _panel(folder: Path, word: str, live: LiveState | None) -> Group:
    name = folder.name
    if live is None:
        return Group(Text(escaped(f"{name}: {word}")))
    completed = live.of if live.state == "finished" else max(0, live.round - 1)
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(escaped(f"{name}: {word}"), style="bold"),
        ProgressBar(total=live.of, completed=completed, width=40),
        Text(f"round {live.round}/{live.of}"),
    )
    rows = [*_people(live, ended=False), *_left_out(folder), *figures(live)]
    sentence = [Text(escaped(live.sentence), style="yellow")] if live.sentence else []
    note = Text("Ctrl-C leaves the run to the coordinator.", style="dim")
    return Group(head, *sentence, *(Text(escaped(row)) for row in rows), note)


def _people(live: LiveState, *, ended: bool) -> list[str]:
    lines = []
    if live.present and not ended:
        lines.append(f"in: {', '.join(live.present)}")
    if live.asked and not ended:
        lines.append(f"asked, not answered yet: {', '.join(live.asked)}")
    for site, why in live.absent.items() if not ended else ():
        if why == Refusal.LEFT_OUT:
            continue  # has a line of its own, which says for what
        version = live.versions.get(site)
        told = f" ({version}, here {live.version})" if version else ""
        words = SENTENCES.get(why)
        lines.append(f"not in: {site}: {why}{f', {words}' if words else ''}{told}")
    return lines


def _left_out(folder: Path) -> list[str]:
    """Sites that the run leaves out because they spoiled attempts, and what readmits them."""
    lines = []
    for site, why in read_left_out(folder).items():
        words = SENTENCES.get(why.reason)
        told = f"left out: {site}: {why}{f' ({words})' if words else ''}"
        lines.append(
            f"{told}; stop the run, then `resume --readmit {site}`" if why.for_good else told
        )
    return lines


def _metric(live: LiveState) -> str:
    """The headline of the study's kind of outcome; noise may have left none to compute."""
    missing = "unknown" if live.epsilon_promised is None else HIDDEN
    return headline(live.metrics or {}, live.unit, live.tells) or missing


def headline(metrics: Mapping[str, float], unit: str = "", tells: float | None = None) -> str:
    """The first metric of a kind of outcome, with its interval; "" where none is left.

    Args:
        metrics: as a round reported them.
        unit: of the outcome, for a metric that has it.
        tells: what it could tell; by default what such a metric always could.
    """
    key = _headline_key(metrics)
    if key is None:
        return ""
    name, digits, usual = _HEADLINES[key]
    figure = Figure.of(metrics, key, usual if tells is None else tells)
    text = f"{name} {figure.words(digits)}"
    return f"{text} {unit}" if unit and key == "mae" and not figure.hidden else text


def readable_metrics(live: LiveState) -> dict[str, float | None] | None:
    """A run's last metrics as JSON shows them; null for none so far."""
    metrics = live.metrics
    key = None if metrics is None else _headline_key(metrics)
    if metrics is None or key is None:
        return None if metrics is None else dict(metrics)
    return readable(metrics, key, _HEADLINES[key][2] if live.tells is None else live.tells)


def _headline_key(metrics: Mapping[str, float]) -> str | None:
    return next((key for key in _HEADLINES if key in metrics), None)
