"""`fedrx site`: a hospital's keys, its consortium, and its audit log.

Private keys are made here and stay here; no command prints one.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrx.cli import site_agent, site_follow_up, site_model, site_serve, site_study
from fedrx.cli.passphrase import new_passphrase, passphrase_for
from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_client.records.audit_log import AuditLog

DAY_S = 86_400

app = typer.Typer(
    help="A site's keys, its consortium, its approvals, its ledger and its audit log.",
    no_args_is_help=True,
    suggest_commands=False,
)
site_study.register(app)
site_agent.register(app)
site_serve.register(app)
site_follow_up.register(app)
site_model.register(app)

Folder = Annotated[Path, typer.Argument(help="The site's folder.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the passphrase in its first line; else FEDRX_PASSPHRASE."),
]
AskPassphrase = Annotated[
    bool, typer.Option("--ask-passphrase", help="Ask for a passphrase at the terminal.")
]
ValidDays = Annotated[int, typer.Option(help="Days on the roster to ask for.", min=1)]


@app.command(epilog='Example: fedrx site init charite --name "Charité" --site charite')
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    *,
    name: Annotated[str, typer.Option(help="What people call the site.")],
    site: Annotated[str, typer.Option(help="Its id on the roster: letters, digits, . _ -")],
    valid_days: ValidDays = 730,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
) -> None:
    """Make this site's keys and the request to send to the coordinator."""
    from fedrx_client.identity.identity import SiteIdentity

    made = SiteIdentity.create(
        folder,
        site=site,
        name=name,
        now=_now(),
        passphrase=new_passphrase(passphrase_file, ask=ask_passphrase),
        validity_s=valid_days * DAY_S,
    )
    say(f"{folder}: made. Keep a copy of it; nobody else has these keys.")
    _echo_request(made)
    if not made.needs_passphrase:
        say("The keys are not encrypted: whoever reads this folder can act as this site.")


@app.command(
    epilog='Example: fedrx site join charite --roster roster.json --ca ca.crt --fingerprint "…"'
)
def join(
    folder: Folder,
    *,
    roster: Annotated[
        Path | None, typer.Option(help="roster.json, as the coordinator handed it out.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="ca.crt of the coordinator; needed the first time.")
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The consortium's, heard by telephone; needed once.")
    ] = None,
    offered: Annotated[
        bool, typer.Option("--offered", help="The newer roster that the coordinator offered.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Who comes and goes was looked at; do not ask.")
    ] = False,
) -> None:
    """Check roster and CA against the fingerprint you were told, then believe them."""
    from fedrx_client.identity.identity import SiteIdentity

    identity = SiteIdentity(folder)
    if offered == (roster is not None):
        raise MisuseError("join needs --roster with the coordinator's roster.json, or --offered.")
    if offered and not identity.offered_path.is_file():
        raise MisuseError(f"{folder}: no newer roster was offered; there is nothing to join.")
    before = identity.fingerprint
    data = _read(identity.offered_path if roster is None else roster)
    if offered:
        from fedrx.views.site import roster_page
        from fedrx_client.identity.pins import verified_roster

        now = _now()
        newer = verified_roster(data, identity.pin.consortium, now)
        say(roster_page(identity.roster(now), newer))
        if not yes:
            typer.confirm("Believe this roster from now on?", abort=True)
    believed = identity.join(
        data,
        now=_now(),
        fingerprint=fingerprint,
        authority=None if ca is None else _read(ca),
    )
    text = f"roster {believed.serial} believed, sites: {', '.join(believed.ids)}"
    if identity.fingerprint != before:
        text += f"; keys rotated to {identity.fingerprint}"
    _record(identity, text, identity.pin.content)
    say(f"{identity.site}: {text}.")


@app.command(epilog="Example: fedrx site rotate charite")
def rotate(
    folder: Folder,
    *,
    valid_days: ValidDays = 730,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
) -> None:
    """Make the next keys; the present ones stay in use until you join with the new roster."""
    from fedrx_client.identity.identity import SiteIdentity

    identity = SiteIdentity(folder)
    signed = identity.rotate(
        now=_now(),
        passphrase=new_passphrase(passphrase_file, ask=ask_passphrase),
        validity_s=valid_days * DAY_S,
    )
    _record(identity, f"next keys made, identity {signed.request.fingerprint}")
    _echo_request(identity)


@app.command(epilog="Example: fedrx site request charite")
def request(
    folder: Folder,
    *,
    valid_days: ValidDays = 730,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write the enrolment request again, with the present time; an old one expires."""
    from fedrx_client.identity.identity import SiteIdentity

    identity = SiteIdentity(folder)
    passphrase = passphrase_for(needed=identity.request_needs_passphrase, file=passphrase_file)
    identity.renew_request(now=_now(), passphrase=passphrase, validity_s=valid_days * DAY_S)
    _echo_request(identity)


@app.command(epilog="Example: fedrx site show charite --json")
def show(
    folder: Folder,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show this site's fingerprint, the consortium it believes, and the roster."""
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_protocol.trust.roster import fingerprint

    identity = SiteIdentity(folder)
    described: dict[str, Any] = {
        "site": identity.site,
        "name": identity.name,
        "identity": identity.fingerprint,
        "encrypted": identity.needs_passphrase,
        "joined": identity.joined,
    }
    newest = identity.request.request.fingerprint
    if newest != identity.fingerprint:
        described["next_identity"] = newest
    if identity.joined:
        roster = identity.roster(_now())
        described |= {
            "consortium": fingerprint(identity.pin.consortium),
            "serial": roster.serial,
            "sites": list(roster.ids),
        }
    if as_json:
        sys.stdout.write(json.dumps(described) + "\n")
        return
    for key, value in described.items():
        say(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


@app.command(epilog="Example: fedrx site audit charite --verify")
def audit(
    folder: Folder,
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the whole folder; print the head.")
    ] = False,
    head: Annotated[
        str | None, typer.Option(help="A head noted earlier (COUNT:HASH) to check against.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every request, answer, refusal and approval, after verifying the chain."""
    from fedrx_client.checks.folder import verify_folder
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_common.hash_chain import ChainHead

    noted = None if head is None else ChainHead.parse(head)
    log = _log(SiteIdentity(folder))
    # The lines are the evidence: they can be read even if the rest of the folder is damaged.
    checked = verify_folder(folder, noted).log if verify else log.verify(noted)
    lines = () if verify else log.lines()
    if as_json:
        found = [{"number": line.number, **line.entry.to_document()} for line in lines]
        document = {"count": checked.count, "head": str(checked), "lines": found}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for line in lines:
        say(f"{line.number:6d}  {line.entry}")
    say(f"{checked.count} lines, unchanged; head {checked}", err=not verify)


def _echo_request(identity: "SiteIdentity") -> None:
    signed = identity.request.request
    until = datetime.fromtimestamp(signed.not_after, UTC)
    say(f"Send {identity.request_path} to the coordinator (validity until {until:%Y-%m-%d}).")
    say(f"Fingerprint, to read to the coordinator: {signed.fingerprint}")


def _record(identity: "SiteIdentity", reason: str, content: str = "") -> None:
    from fedrx_client.records.audit_log import AuditEntry

    entry = AuditEntry(time=_now(), kind="identity", reason=reason[:1000], content=content)
    _log(identity).record(entry)


def _log(identity: "SiteIdentity") -> "AuditLog":
    from fedrx_client.records.audit_log import existing_log

    return existing_log(identity.audit_path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MisuseError(f"{path}: cannot be read ({error.strerror}); check the path.") from None


def _now() -> int:
    return int(time.time())
