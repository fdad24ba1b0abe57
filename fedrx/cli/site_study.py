"""`fedrx site` for one study: look at it, approve it, take that back, see what it spent."""

import getpass
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrx.cli.passphrase import passphrase_for
from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError, counted
from fedrx_common.text import command, escaped

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fedrx_client.approvals.store import Approvals
    from fedrx_client.checks.study import Check
    from fedrx_client.data.load import LoadResult
    from fedrx_client.data.quality.findings import QualityReport
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_client.participation.site_source import SiteSource
    from fedrx_client.records.ledger import Ledger
    from fedrx_protocol.study.study import Study

Folder = Annotated[Path, typer.Argument(help="The site's folder.")]
StudyFile = Annotated[Path, typer.Argument(help="Study file.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "--source",
        help="This site's patients: a table, a folder, a database or a FHIR address.",
    ),
]
Mapping = Annotated[Path, typer.Option(help="Mapping file for it.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the passphrase in its first line; else FEDRX_PASSPHRASE."),
]
# Repeated from fedrx_client.approvals.approval, which `--help` need not wait for.
DEFAULT_COHORT = "patients"
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


_DATA = "The patients"
_TERMS = "What is allowed"
_SIGNING = "Who signs"
_REVOKING = "Taking back"


def approve(
    folder: Folder,
    study: Annotated[Path | None, typer.Argument(help="Study file.")] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--source",
            help="Patients: a table, a folder, a database or FHIR address.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="Mapping file for it.", rich_help_panel=_DATA)
    ] = None,
    max_epsilon: Annotated[
        float | None,
        typer.Option(
            help="The most to spend on these patients, over all studies.", rich_help_panel=_TERMS
        ),
    ] = None,
    no_cap: Annotated[
        bool,
        typer.Option(
            "--no-cap", help="Accept a study that opens sums without noise.", rich_help_panel=_TERMS
        ),
    ] = False,
    min_patients: Annotated[
        int | None,
        typer.Option(help="With fewer the site stays out.", min=1, rich_help_panel=_TERMS),
    ] = None,
    days: Annotated[
        int, typer.Option(help="How long the approval holds.", min=1, rich_help_panel=_TERMS)
    ] = 180,
    cohort: Annotated[
        str,
        typer.Option(
            help="What this site calls these patients; the cap counts by that name.",
            rich_help_panel=_DATA,
        ),
    ] = DEFAULT_COHORT,
    by: Annotated[
        str | None,
        typer.Option(help="Who approves; else the account's name.", rich_help_panel=_SIGNING),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            help="Accept a red finding in the data, by its name; may be given again.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(help="Why the findings of --override are accepted.", rich_help_panel=_DATA),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask.", rich_help_panel=_SIGNING)
    ] = False,
    revoke: Annotated[
        str | None,
        typer.Option(
            help="Take an approval back: study file, name or digest.", rich_help_panel=_REVOKING
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Read what a study would do here and sign a yes, or take one back with --revoke."""
    by = by or getpass.getuser()
    if revoke is not None:
        if study or data or mapping or max_epsilon or no_cap or min_patients:
            raise MisuseError("--revoke takes only the folder, --by and --passphrase-file.")
        identity, kept = _identity(folder), _approvals(folder)
        digest = _digest(folder, revoke)
        taken = kept.revoke(digest, _key(identity, passphrase_file), now=_now(), by=by)
        say(f"Taken back: study '{taken.name}'. A running site answers nothing for it now.")
        return
    if study is None or data is None or mapping is None:
        raise MisuseError("approve needs a study file, --data and --mapping (or --revoke STUDY).")
    if no_cap == (max_epsilon is not None):
        raise MisuseError("give either --max-epsilon with the site's cap, or --no-cap.")
    if bool(override) != (reason is not None):
        raise MisuseError("--override and --reason belong together: give both, or none.")
    # Imported here so that a mistake in the options does not wait for torch.
    from fedrx.views.site import changes_page, counted_page, study_page
    from fedrx_client.approvals.approval import Approval
    from fedrx_client.approvals.study_files import StudyFiles
    from fedrx_client.checks.quality import require_overrides
    from fedrx_client.checks.study import read_releases
    from fedrx_client.participation.site import check_cohort_size
    from fedrx_client.records.ledger import PrivacyCap
    from fedrx_models.planning import make_plan

    identity, agreed = _identity(folder), _study(study)
    source = _source(identity, agreed, data, mapping)
    loaded = source.read()
    patients = loaded.cohort
    check_cohort_size(agreed, patients)
    overrides = dict.fromkeys(override or (), reason or "")
    require_overrides(_quality(agreed, data, mapping, loaded), overrides)
    sites = identity.roster(_now()).ids
    approval = Approval.of(
        agreed,
        cohort=patients.fingerprint,
        cap=None if max_epsilon is None else PrivacyCap(max_epsilon, agreed.privacy.delta),
        minimum_patients=min_patients,
        now=_now(),
        days=days,
        by=by,
        cohort_name=cohort,
        sites=sites,
        overrides=overrides,
    )
    approval.require_cohort(patients.fingerprint, len(patients))
    plan = make_plan(agreed, len(sites))
    plan.check()
    say(study_page(plan, len(patients)))
    say(counted_page(approval, read_releases(folder)))
    for finding, why in overrides.items():
        say(f"Overrides: red finding '{finding}', as {why}")
    for namesake in _approvals(folder).all():
        if namesake.approval.name == agreed.name and namesake.approval.study != agreed.digest:
            before = StudyFiles(folder).study(namesake.approval.study)
            say(changes_page(namesake, before, approval, agreed, _now()))
    if not yes:
        typer.confirm(f"Approve this as {escaped(by)} for {counted(days, 'day')}?", abort=True)
    key = _key(identity, passphrase_file)
    # Kept first: what is kept without an approval is never used, but an approval without it cannot
    # start.
    StudyFiles(folder).keep(agreed, mapping.read_text(encoding="utf-8"), data)
    source.keep(loaded, key, now=_now())
    _approvals(folder).add(approval, key)
    undo = command("fedrx", "site", "approve", folder, "--revoke", agreed.name)
    say(f"Approved; take it back with `{undo}`.")


def approvals(folder: Folder, *, as_json: AsJson = False) -> None:
    """List this site's approvals: in force, revoked or expired."""
    from fedrx.views.site import approvals_page

    book = _approvals(folder)
    now, kept, doubtful = _now(), book.all(), book.doubtful()
    if as_json:
        listed = [
            {
                **one.approval.to_document(),
                "state": one.state(now),
                "revoked_at": one.revocation and one.revocation.time,
            }
            for one in kept
        ]
        document = {"approvals": listed, "not_believed": doubtful}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        say(approvals_page(kept, now) if kept else "This site has approved no study.")
        for sentence in doubtful:
            say(f"Not believed: {sentence}")


def check(
    folder: Folder,
    study: StudyFile,
    *,
    data: Data,
    mapping: Mapping,
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT, to look at the network too.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Try a study here without sending anything: green and red lines, each red with its remedy."""
    from fedrx.views.site import check_page
    from fedrx_client.checks.quality import quality_lines
    from fedrx_client.checks.study import DryRun
    from fedrx_models.planning import make_plan

    identity, agreed = _identity(folder), _study(study)
    passphrase = passphrase_for(needed=identity.needs_passphrase, file=passphrase_file)
    lines = DryRun(
        folder=folder,
        study=agreed,
        load=lambda: _source(identity, agreed, data, mapping).read(),
        plan_of=make_plan,
        now=_now(),
        passphrase=passphrase,
        quality=lambda loaded, overridden: quality_lines(
            _quality(agreed, data, mapping, loaded), overridden
        ),
    ).lines(_network(identity, coordinator, passphrase))
    ok = all(line.ok for line in lines)
    if as_json:
        found = [asdict(line) for line in lines]
        document = {
            "ok": ok,
            "study": agreed.digest,
            "version": version("fedrx"),
            "pipeline": _pipeline(agreed, mapping),
            "lines": found,
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        say(check_page(lines))
        say(f"Pipeline: {_pipeline(agreed, mapping) or 'the mapping cannot be read'}")
    if not ok:
        raise typer.Exit(2)


def ledger(
    folder: Folder,
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the whole folder; print the head.")
    ] = False,
    delta: Annotated[
        float, typer.Option(help="At which delta to count what no approval names.")
    ] = 1e-5,
    as_json: AsJson = False,
) -> None:
    """Show what was spent and what is left, after holding the whole folder against itself."""
    from fedrx.views.site import ledger_page
    from fedrx_client.checks.folder import verify_folder
    from fedrx_client.records.database import LEDGER, SiteStore
    from fedrx_client.records.ledger import Ledger

    head = verify_folder(folder).ledger
    if not head.count:
        say(json.dumps({"lines": 0, "studies": []}) if as_json else "Nothing was released.")
        return
    document = {"lines": head.count, "head": f"{head.count}:{head.hash.hex()}"}
    if not verify:
        with SiteStore(folder / LEDGER) as store:
            document |= _spending(Ledger(store), _approvals(folder), delta)
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    if not verify:
        say(ledger_page(document))
    say(f"{head.count} lines, unchanged; head {document['head']}", err=not verify)


def forget(
    folder: Folder,
    *,
    study: Annotated[
        str | None, typer.Option(help="Of one study: its file, name or digest.")
    ] = None,
    older_than: Annotated[
        int | None, typer.Option(help="What is older than so many days.", min=0)
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who asks; else the account's name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove cached cohorts, kept predictions, and the files of studies that are over."""
    from fedrx_client.approvals import retention

    if (study is None) == (older_than is None):
        raise MisuseError("forget needs --study STUDY or --older-than DAYS: give one of them.")
    by, now = by or getpass.getuser(), _now()
    if older_than is not None:
        found = retention.older_than(folder, older_than, now)
    else:
        found = retention.of_study(folder, _digest(folder, str(study)), now)
    if not found:
        say("Nothing is kept that could be forgotten.")
        return
    say(f"To be removed: {found.text()}.")
    if not yes:
        typer.confirm("Remove them?", abort=True)
    retention.forget(folder, found, now=now, by=by)
    say("Removed; approvals, ledger and audit log stay.")


def register(app: typer.Typer) -> None:
    """Add these commands to `fedrx site`."""
    files = "study.toml --data cohort.csv --mapping mapping.toml"
    app.command(epilog=f"Example: fedrx site check charite {files}")(check)
    app.command(epilog=f"Example: fedrx site approve charite {files} --max-epsilon 2")(approve)
    app.command(epilog="Example: fedrx site approvals charite")(approvals)
    app.command(epilog="Example: fedrx site ledger charite --verify")(ledger)
    app.command(epilog="Example: fedrx site forget charite --older-than 90")(forget)


def _spending(book: "Ledger", kept: "Approvals", delta: float) -> dict[str, Any]:
    """Give what was spent, as JSON values: by study in the order of the ledger, and in all."""
    from fedrx.views.site import LEDGER_ASSUMPTION, spent_document

    approved = {one.approval.study: one.approval for one in reversed(kept.all())}
    studies = []
    for study in dict.fromkeys(release.study for release in book.releases()):
        approval = approved.get(study)
        cap = approval.cap if approval else None
        left = None
        if approval and cap:
            # The cap is for these patients over all studies: others' spending counts here too.
            left = max(0.0, cap.epsilon - book.spent(cap.delta, cohort=approval.cohort_key).total)
        spent = book.spent(cap.delta if cap else delta, study=study)
        studies.append(
            {
                "study": study,
                "name": approval.name if approval else None,
                "releases": len(book.releases(study)),
                "spent": spent_document(spent),
                "cap": cap.epsilon if cap else None,
                "left": left,
            }
        )
    return {
        "studies": studies,
        "in_all": spent_document(book.spent(delta)),
        "assumption": LEDGER_ASSUMPTION,
    }


def _network(
    identity: "SiteIdentity", coordinator: str | None, passphrase: str | None
) -> "tuple[Check, ...]":
    """Check the way to the coordinator, if one was named and this site has joined it."""
    from fedrx_client.checks.network import Network
    from fedrx_client.connection.endpoint import Endpoint
    from fedrx_client.identity.pins import read_file
    from fedrx_common.address import Address

    if coordinator is None:
        return ()
    address = str(Address.parse(coordinator))
    if not identity.joined:
        return ()
    ca = read_file(identity.authority_path)
    door = Endpoint(address, ca, identity.keys(passphrase).authentication)
    return Network(door, identity.folder).checks()


def _source(identity: "SiteIdentity", study: "Study", data: str, mapping: Path) -> "SiteSource":
    from fedrx_client.data.mapping import TableMapping
    from fedrx_client.data.privacy.pipeline import require_pipeline
    from fedrx_client.data.readers.source import Source
    from fedrx_client.participation.site_source import SiteSource

    table = TableMapping.load(mapping)
    require_pipeline(study, table)
    return SiteSource(identity.folder, identity.site, study, table, Source.parse(data))


def _quality(study: "Study", data: str, mapping: Path, loaded: "LoadResult") -> "QualityReport":
    from fedrx_client.checks.quality import quality_of
    from fedrx_client.data.mapping import TableMapping
    from fedrx_client.data.readers.source import Source

    table, today = TableMapping.load(mapping), datetime.fromtimestamp(_now(), UTC).date()
    return quality_of(study, table, Source.parse(data), today=today, loaded=loaded)


def _pipeline(study: "Study", mapping: Path) -> str | None:
    """Return the pipeline's digest; None where the mapping cannot be read, as a line says."""
    from fedrx_client.data.mapping import TableMapping
    from fedrx_client.data.privacy.pipeline import pipeline_digest

    try:
        return pipeline_digest(TableMapping.load(mapping), study.feature_schema)
    except MisuseError:
        return None


def _digest(folder: Path, study: str) -> str:
    """Find a study's digest by its file, its name, or how the digest begins."""
    file = Path(study)
    return _study(file).digest if file.is_file() else _approvals(folder).digest_of(study)


def _study(path: Path) -> "Study":
    from fedrx_protocol.study.study import Study

    return Study.load(path)


def _identity(folder: Path) -> "SiteIdentity":
    from fedrx_client.identity.identity import SiteIdentity

    return SiteIdentity(folder)


def _approvals(folder: Path) -> "Approvals":
    from fedrx_client.approvals.store import Approvals

    return Approvals(folder)


def _key(identity: "SiteIdentity", passphrase_file: Path | None) -> "Ed25519PrivateKey":
    passphrase = passphrase_for(needed=identity.needs_passphrase, file=passphrase_file)
    return identity.keys(passphrase).identity


def _now() -> int:
    return int(time.time())
