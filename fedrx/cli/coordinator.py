"""`fedrx coordinator`: found a consortium, and say who belongs to it.

Keys and rosters here, runs in `runs`; every command can be repeated by a script,
and none prints a secret.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrx.cli import runs as run_commands
from fedrx.cli.passphrase import new_passphrase, passphrase_for
from fedrx.cli.runs import EXPIRY_WARNING_S, AsJson, Folder, warn_certificate
from fedrx.views.terminal import say
from fedrx_common.errors import FedRxError, MisuseError, counted

if TYPE_CHECKING:
    from fedrx_server.consortium.consortium import Consortium

app = typer.Typer(
    help="Found a consortium, enrol its sites, and run studies with them.",
    no_args_is_help=True,
    suggest_commands=False,
)
run_commands.register(app)

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the passphrase in its first line; else FEDRX_PASSPHRASE."),
]


@app.command(
    epilog='Example: fedrx coordinator init consortium --name "Warfarin" --host fl.example.org'
)
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    *,
    name: Annotated[str, typer.Option(help="What people call the consortium.")],
    host: Annotated[
        list[str], typer.Option(help="DNS name or IP address for sites; may be repeated.")
    ],
    passphrase_file: PassphraseFile = None,
    ask_passphrase: Annotated[
        bool, typer.Option("--ask-passphrase", help="Ask for a passphrase at the terminal.")
    ] = False,
) -> None:
    """Make the consortium's key, its CA, a TLS certificate and an empty roster."""
    from fedrx_server.consortium.consortium import Consortium

    passphrase = new_passphrase(passphrase_file, ask=ask_passphrase)
    made = Consortium.create(folder, name=name, hosts=host, now=_now(), passphrase=passphrase)
    say(f"{folder}: made. Keep a copy of it where only you can reach it.")
    say(f"TLS certificate for {', '.join(made.hosts) or 'loopback only'}, until {_until(made)}.")
    say(f"Fingerprint, to read to every site: {made.fingerprint}")
    if passphrase is None:
        say("The keys are not encrypted: whoever reads this folder can enrol sites.")


@app.command(epilog="Example: fedrx coordinator enroll consortium charite.json mayo.json")
def enroll(
    folder: Folder,
    requests: Annotated[list[Path], typer.Argument(help="Enrolment requests of sites.")],
    *,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="These sites change their keys; the old ones end.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="The fingerprints were compared; do not ask.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Verify enrolment requests and sign a new roster with them: all of them, or none."""
    from fedrx_protocol.trust.enrolment import SignedEnrolmentRequest
    from fedrx_server.consortium.consortium import Consortium

    consortium = Consortium(folder)
    signed = []
    for path in requests:
        try:
            signed.append(SignedEnrolmentRequest.from_json(path.read_bytes()))
        except OSError as error:
            raise MisuseError(
                f"{path}: cannot be read ({error.strerror}); check the path."
            ) from None
        except FedRxError as error:
            raise MisuseError(f"{path}: {error}") from None
    now = _now()
    try:
        consortium.preview(signed, now=now, rotate=rotate)
    except FedRxError as error:  # a request file that does wrong is a mistake in what was given
        files = ", ".join(str(path) for path in requests)
        raise MisuseError(f"{files}: {error} The roster is unchanged.") from None
    for item in signed:
        asked = item.request
        until = f"{_date(asked.not_before)} to {_date(asked.not_after)}"
        say(f"{asked.site}  {asked.name}  {until}  FedRx {asked.version}")
        say(f"  identity {asked.fingerprint}")
    _confirm(yes=yes)
    passphrase = passphrase_for(needed=consortium.needs_passphrase, file=passphrase_file)
    roster = consortium.enroll(signed, now=now, passphrase=passphrase, rotate=rotate).roster
    say(_handed_out(consortium, roster.serial, len(roster.sites)))
    _warn_expiry(consortium, now)


@app.command(epilog='Example: fedrx coordinator revoke consortium mayo --reason "stolen laptop"')
def revoke(
    folder: Folder,
    site: Annotated[str, typer.Argument(help="Site id.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, in one line; it is logged.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign a new roster without a site; its keys never come back."""
    from fedrx_server.consortium.consortium import Consortium

    consortium = Consortium(folder)
    now = _now()
    passphrase = passphrase_for(needed=consortium.needs_passphrase, file=passphrase_file)
    roster = consortium.revoke(site, reason=reason, now=now, passphrase=passphrase).roster
    say(f"{site} is revoked.")
    say(_handed_out(consortium, roster.serial, len(roster.sites)))
    _warn_expiry(consortium, now)


@app.command(epilog="Example: fedrx coordinator renew consortium --host fl.example.org")
def renew(
    folder: Folder,
    *,
    host: Annotated[
        list[str] | None, typer.Option(help="New hosts; the present ones if left out.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a new TLS key and certificate; sites notice nothing."""
    from fedrx_server.consortium.consortium import Consortium

    consortium = Consortium(folder)
    passphrase = passphrase_for(needed=consortium.needs_passphrase, file=passphrase_file)
    hosts = consortium.renew(now=_now(), hosts=host or (), passphrase=passphrase)
    say(f"TLS certificate for {', '.join(hosts) or 'loopback only'}, until {_until(consortium)}.")
    say("A coordinator that is running takes it within seconds.")


@app.command(epilog="Example: fedrx coordinator roster consortium --json")
def roster(folder: Folder, *, as_json: AsJson = False) -> None:
    """Show who belongs, until when, and the fingerprint that sites check."""
    from fedrx_server.consortium.consortium import Consortium

    consortium = Consortium(folder)
    current = consortium.roster.roster
    if as_json:
        described = {
            "name": consortium.name,
            "fingerprint": consortium.fingerprint,
            "serial": current.serial,
            "digest": current.digest.hex(),
            "hosts": list(consortium.hosts),
            "tls_not_after": int(consortium.certificate.not_valid_after_utc.timestamp()),
            "sites": [
                {
                    "site": member.entry.site,
                    "name": member.entry.name,
                    "identity": member.request.fingerprint,
                    "supernode": member.request.authentication_ssh,
                    "not_before": member.entry.not_before,
                    "not_after": member.entry.not_after,
                }
                for member in consortium.members
            ],
        }
        sys.stdout.write(json.dumps(described) + "\n")
        return
    say(f"{consortium.name}: roster {current.serial}, {counted(len(current.sites), 'site')}")
    say(f"Fingerprint: {consortium.fingerprint}")
    for member in consortium.members:
        entry = member.entry
        say(f"  {entry.site}  {entry.name}  until {_date(entry.not_after)}")
        say(f"    {member.request.fingerprint}")
    _warn_expiry(consortium, _now())


@app.command(epilog="Example: fedrx coordinator log consortium")
def log(folder: Folder) -> None:
    """Show what was done, after verifying the hash chain of the log."""
    from fedrx_server.consortium.consortium import Consortium

    lines = Consortium(folder).log.lines()
    for line in lines:
        entry = line.entry
        serial = f"  roster {entry['serial']}" if "serial" in entry else ""
        at = datetime.fromtimestamp(entry["time"], UTC)
        say(f"{at:%Y-%m-%d %H:%M:%SZ}  {entry['kind']}{serial}  {entry['about']}")
    say(f"{len(lines)} lines, unchanged; head {lines[-1].head}", err=True)


def _confirm(*, yes: bool) -> None:
    """Ask a person to compare: a request proves possession of keys, not who sent it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise MisuseError(
            "Compare each fingerprint with its site by telephone, then give --yes; nothing was "
            "signed."
        )
    if not typer.confirm("Did each site read its fingerprint to you, and do they match?"):
        raise MisuseError(
            "Nothing was signed; ask the sites for their requests again, by another way."
        )


def _handed_out(consortium: "Consortium", serial: int, sites: int) -> str:
    files = consortium.files
    told = f"Roster {serial}, {counted(sites, 'site')}"
    return f"{told}: hand out {files.roster} (and {files.authority})."


def _warn_expiry(consortium: "Consortium", now: int) -> None:
    """Say it a month ahead: sites refuse a roster with one expired entry."""
    for entry in consortium.roster.roster.sites:
        if entry.not_after < now + EXPIRY_WARNING_S:
            say(
                f"{entry.site} is valid until {_date(entry.not_after)}: rotate its keys or revoke "
                "it, or no site will believe the roster from then on.",
                err=True,
            )
    warn_certificate(consortium)


def _until(consortium: "Consortium") -> str:
    return f"{consortium.certificate.not_valid_after_utc:%Y-%m-%d}"


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _now() -> int:
    return int(time.time())
