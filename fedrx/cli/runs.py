"""`fedrx coordinator start`, and the commands of a run: run, status, stop, resume, report.

Only `start` serves. The other commands write the desired state or read files, so they work
whether or not a coordinator runs.
"""

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrx.cli.options import study_there
from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError, RunError
from fedrx_common.text import command

if TYPE_CHECKING:
    from fedrx_server.consortium.consortium import Consortium
    from fedrx_server.runs.registry import Runs
    from fedrx_server.service.superlink import Ports

_LOG_BYTES, _LOG_FILES = 1_000_000, 5
_STOP_PATIENCE_S = 30.0
EXPIRY_WARNING_S = 30 * 86_400

Folder = Annotated[Path, typer.Argument(help="The consortium folder.")]
RunName = Annotated[str, typer.Argument(help="Name of the run, e.g. warfarin_dose-1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `fedrx coordinator`."""
    examples: dict[Callable[..., None], str] = {
        start: "fedrx coordinator start consortium --port 8443",
        run: "fedrx coordinator run consortium study.toml",
        status: "fedrx coordinator status consortium warfarin_dose-1",
        stop: "fedrx coordinator stop consortium warfarin_dose-1",
        resume: "fedrx coordinator resume consortium warfarin_dose-1",
        report: "fedrx coordinator report consortium warfarin_dose-1 --output report.html",
        witness: "fedrx coordinator witness consortium",
    }
    for act, example in examples.items():
        app.command(epilog=f"Example: {example}")(act)


def start(
    folder: Folder,
    *,
    port: Annotated[
        int, typer.Option(help="Where sites connect.", rich_help_panel="What sites see")
    ] = 8443,
    inner_port: Annotated[
        int,
        typer.Option(
            help="Flower's SuperLink, on loopback only.", rich_help_panel="On loopback only"
        ),
    ] = 9443,
    health_port: Annotated[
        int,
        typer.Option(
            help="Health probes (grpc.health.v1), on loopback only.",
            rich_help_panel="On loopback only",
        ),
    ] = 9444,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; all of IPv4 by default, :: for all of IPv6.",
            rich_help_panel="What sites see",
        ),
    ] = "0.0.0.0",  # noqa: S104 - sites come from outside; the proxy is what they meet
) -> None:
    """Open the door for sites and drive the runs, until interrupted; for a service manager."""
    from fedrx_common.address import bare_host
    from fedrx_common.logs import log_to
    from fedrx_common.signals import on_ending
    from fedrx_server.consortium.consortium import Consortium
    from fedrx_server.service.coordinator import Coordinator
    from fedrx_server.service.superlink import Ports

    consortium = Consortium(folder)
    ports = Ports(port, inner_port, health_port, bare_host(host))
    log_to(folder / "service.log", most_bytes=_LOG_BYTES, older_files=_LOG_FILES)
    over = threading.Event()
    on_ending(over.set)
    warn_certificate(consortium)
    say("Starting; this takes some seconds.")
    Coordinator(consortium, ports).serve(over, lambda: _tell_ready(consortium, ports))
    say("Stopped: runs, proxy and SuperLink have ended.")


def run(
    folder: Folder,
    study: Annotated[Path, typer.Argument(help="Study file.", callback=study_there)],
    *,
    start_from: Annotated[
        Path | None, typer.Option(help=r"Model file of the study that \[transfer] names.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Site of the roster that takes no part; may be given several times."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not follow the run; say its name and return.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Begin a run of a study and follow it; Ctrl-C leaves it to the coordinator."""
    from fedrx.api import read_study
    from fedrx_server.consortium.consortium import Consortium
    from fedrx_server.runs.registry import Runs, runs_folder
    from fedrx_server.service.instance import is_serving

    agreed, text = read_study(study)
    signed = Consortium(folder).roster
    if not signed.roster.sites:
        raise MisuseError(f"{folder}: no site is enrolled; `fedrx coordinator enroll` does that.")
    absent = frozenset(without or ())
    runs = Runs(runs_folder(folder))
    path = runs.create(agreed, signed, text, start_from, without=absent)
    serving = is_serving(folder)
    if not as_json:
        sites = ", ".join(site for site in signed.roster.ids if site not in absent)
        say(f"Run {path.name} of study {agreed.name} ({agreed.digest[:16]}…), for {sites}.")
        if agreed.opens_one_list(live=True):
            say(
                "All of them must take part in every round (secure_aggregation.stable_lists): the "
                "run waits for each one that is missing."
            )
    if not serving:
        say(f"It begins when `{_coordinator('start', folder)}` is running.", err=True)
    if detach:
        if as_json:
            _print({"run": path.name, "folder": str(path), "serving": serving})
        return
    _follow(folder, path, as_json=as_json)


def status(
    folder: Folder,
    name: Annotated[str | None, typer.Argument(help="Name of a run; all if left out.")] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the run live until it ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the runs: round, who is in, who is not and why, error, privacy, time left."""
    from fedrx.views import run as run_view
    from fedrx_server.rounds.witness import Witness
    from fedrx_server.service.instance import serving_of

    runs = _runs(folder)
    names = runs.names() if name is None else (runs.path(name).name,)
    if follow:
        if name is None:
            raise MisuseError("--follow shows one run: give its name too.")
        _follow(folder, runs.path(name), as_json=as_json)
        return
    serving = serving_of(folder)
    if as_json:
        described = [_described(runs.folder / one) for one in names]
        about = asdict(serving) if serving else {"processes": {}, "online": {}}
        _print(
            described[0] if name else {"serving": serving is not None, **about, "runs": described}
        )
        return
    lines = run_view.serving_lines(serving) if name is None else []
    for one in names:
        lines += run_view.status_lines(runs.folder / one, serving=serving is not None)
    if not names:
        lines.append("There is no run yet; `fedrx coordinator run` begins one.")
    lines += [one.sentence for one in Witness(folder).all() if one.contradiction]
    say("\n".join(lines))


def stop(folder: Folder, name: RunName) -> None:
    """Stop a run after what it has finished; `resume` goes on from there."""
    from fedrx_server.runs.files import RunInUse
    from fedrx_server.runs.folder import RunFolder
    from fedrx_server.runs.registry import DesiredState, read_wanted, write_wanted
    from fedrx_server.service.instance import is_serving

    path = _runs(folder).path(name)
    goal = read_wanted(path).goal
    if goal != "running":
        raise MisuseError(f"Run {name} is {goal} already; nothing is to be stopped.")
    write_wanted(path, DesiredState("stopped", "stopped by the coordinator; it can be resumed."))
    end = time.monotonic() + _STOP_PATIENCE_S
    while is_serving(folder):
        with suppress(RunInUse):
            RunFolder.open(path).close()
            break
        if time.monotonic() > end:
            raise RunError(f"{path}: its process has not ended yet; see {path / 'worker.log'}.")
        time.sleep(0.1)
    say(f"{name} is stopped. `{_coordinator('resume', folder, name)}` goes on.")


def resume(
    folder: Folder,
    name: RunName,
    *,
    new_roster: Annotated[
        bool,
        typer.Option(
            "--new-roster", help="Go on with the roster in force; the run must be stopped."
        ),
    ] = False,
    readmit: Annotated[
        list[str] | None,
        typer.Option(help="Site to take back that was left out for good; may be given again."),
    ] = None,
) -> None:
    """Go on with a run that stopped or failed, from its last finished round."""
    from fedrx_server.consortium.consortium import Consortium
    from fedrx_server.runs.registry import DesiredState, read_wanted, write_wanted
    from fedrx_server.service.instance import is_serving

    path = _runs(folder).path(name)
    goal = read_wanted(path).goal
    if goal == "finished":
        raise MisuseError(f"Run {name} is finished; its report is {path / 'report.html'}.")
    gone: list[str] = []
    if new_roster:
        gone = _change_roster(path, Consortium(folder))
    elif goal == "running":
        raise MisuseError(f"Run {name} is running already.")
    _forgive(path, readmit or [], gone)
    write_wanted(path, DesiredState("running"))
    say(f"{name} goes on.")
    if not is_serving(folder):
        say(f"It does when `{_coordinator('start', folder)}` is running.", err=True)


def report(
    folder: Folder,
    name: RunName,
    *,
    output: Annotated[
        Path | None, typer.Option(help="File to write; report.html in the run's folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report of what is finished, at any time."""
    from fedrx_server.report.from_run import run_privacy, run_report, run_result
    from fedrx_server.report.write import write_report
    from fedrx_server.runs.registry import RunView

    view = RunView.read(_runs(folder).path(name))
    privacy = run_privacy(view)
    written = write_report(output or view.path / "report.html", run_report(view, privacy))
    if as_json:
        _print({**run_result(view, privacy), "report": str(written)})
    else:
        say(f"{written}: {len(view.rounds)} of {view.study.final_round} rounds.")


def witness(
    folder: Folder,
    *,
    forget: Annotated[
        str | None,
        typer.Option(help="Forget a site that restored a backup by the rule for it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest head of each site's audit log that the site signed, for it to compare."""
    from fedrx_server.rounds.witness import Witness

    _runs(folder)  # it is a consortium folder
    kept = Witness(folder)
    if forget is not None:
        kept.forget(forget)
        say(f"What was kept of '{forget}' is forgotten; its next answer begins anew.")
        return
    found = kept.all()
    if as_json:
        sites = [
            {
                "site": one.newest.site,
                "head": str(one.newest.head),
                "time": one.time,
                "contradiction": one.sentence,
            }
            for one in found
        ]
        _print({"sites": sites})
        return
    for one in found:
        at = datetime.fromtimestamp(one.time, UTC)
        say(f"{one.newest.site}  {one.newest.head}  {at:%Y-%m-%d %H:%M:%SZ}")
        if one.contradiction:
            say(f"  {one.sentence}")
    if not found:
        say("No site has answered yet.")


def _follow(folder: Path, path: Path, *, as_json: bool) -> None:
    from fedrx.views import run as run_view

    try:
        word, sentence = run_view.follow(path)
    except KeyboardInterrupt:
        say(
            f"The run goes on without you; `{_coordinator('status', folder, path.name)}` "
            "says how it stands.",
            err=True,
        )
        return
    if word != "finished":
        from fedrx_server.rounds.retry import StudyStopped

        raise StudyStopped(f"run {path.name} {word}: {sentence}")
    if as_json:
        sys.stdout.write(json.dumps(json.loads((path / "result.json").read_bytes())) + "\n")
        return
    say("\n".join(run_view.status_lines(path, serving=True)))
    say(f"Model: {path / 'model.safetensors'}")
    say(f"Report: {path / 'report.html'}")


def _change_roster(path: Path, consortium: "Consortium") -> list[str]:
    """Put the roster in force into a stopped run, and name the sites that are gone."""
    from fedrx_protocol.trust.roster import SignedRoster
    from fedrx_server.runs.folder import RunFolder
    from fedrx_server.runs.registry import require_list, require_plan

    signed = consortium.roster
    with RunFolder.open(path) as opened:
        before = SignedRoster.from_json(opened.roster_json.encode())
        if before.roster.digest == signed.roster.digest:
            raise MisuseError(
                f"{path}: has the roster in force already; resume without --new-roster."
            )
        plan = require_plan(opened.study, signed)
        threshold = plan.parameters.threshold
        require_list(opened, before.roster, signed.roster, threshold)
        opened.replace_roster(signed.to_json().decode(), len(before.roster.sites))
    gone = sorted(set(before.roster.ids) - set(signed.roster.ids))
    new = sorted(set(signed.roster.ids) - set(before.roster.ids))
    for what, sites in (("Out", gone), ("New", new)):
        if sites:
            say(f"{what}: {', '.join(sites)}")
    return gone


def _forgive(path: Path, readmitted: list[str], gone: list[str]) -> None:
    """Forget what spoiled attempts, after a person looked at it; proofs against others stay."""
    from fedrx_server.runs.blame import read_blame
    from fedrx_server.runs.folder import RunFolder

    blame = read_blame(path)
    known = {site for fault in blame.faults for site in fault.sites}
    for site in readmitted:
        if site not in known:
            raise MisuseError(
                f"'{site}' cannot be readmitted, because run {path.name} does not leave it out; "
                f"sites that spoiled attempts: {', '.join(sorted(known)) or 'none'}."
            )
    if blame.faults:
        with RunFolder.open(path) as run:
            run.save_blame(run.blame.forgiven([*readmitted, *gone]))


def _described(path: Path) -> dict[str, Any]:
    from fedrx.views import run as run_view
    from fedrx_server.runs.registry import read_left_out

    word, live, wanted = run_view.state_of(path)
    return {
        "run": path.name,
        "state": word,
        "wanted": wanted.goal,
        "sentence": wanted.sentence or (live.sentence if live is not None else ""),
        "live": None
        if live is None
        else {**asdict(live), "metrics": run_view.readable_metrics(live)},
        "left_out": {site: asdict(why) for site, why in read_left_out(path).items()},
    }


def _coordinator(verb: str, *words: str | Path) -> str:
    """Write a command of this module, to be pasted."""
    return command("fedrx", "coordinator", verb, *words)


def _runs(folder: Path) -> "Runs":
    from fedrx_server.runs.registry import Runs, runs_folder

    if not (folder / "consortium.json").is_file():
        raise MisuseError(f"{folder}: is no consortium folder; `fedrx coordinator init` makes one.")
    return Runs(runs_folder(folder))


def _tell_ready(consortium: "Consortium", ports: "Ports") -> None:
    from fedrx_common.address import Address

    for name in consortium.hosts or (ports.door.host,):
        place = Address(name, ports.public)
        address = shlex.quote(str(place))
        say(f"Ready: sites reach {place} (`fedrx site start FOLDER --coordinator {address}`).")
    say(f"Fingerprint of the consortium: {consortium.fingerprint}")
    sys.stdout.flush()


def warn_certificate(consortium: "Consortium") -> None:
    """Say a month ahead that the certificate ends, after which no site can connect."""
    certificate = consortium.certificate.not_valid_after_utc
    if certificate.timestamp() < time.time() + EXPIRY_WARNING_S:
        say(
            f"The TLS certificate ends {certificate:%Y-%m-%d}: run `fedrx coordinator renew`.",
            err=True,
        )


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
