"""`fedrx site serve`: models inside the hospital's record system, as CDS Hooks."""

import time
from pathlib import Path
from typing import Annotated

import typer

from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError

_LOOPBACK = "127.0.0.1"


def register(app: typer.Typer) -> None:
    """Add this command to `fedrx site`."""
    app.command(epilog="Example: fedrx site serve charite --clients clients.json")(serve)


def serve(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    *,
    services: Annotated[
        Path | None, typer.Option(help="Which models to serve; FOLDER/services.toml if left out.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8450,
    clients: Annotated[
        Path | None, typer.Option(help="Keys of the record systems that may ask (JWK Set).")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Where clients reach it, as https://cds.example.org; tokens are for it."),
    ] = None,
) -> None:
    """Answer the record system with cards; every card is in the audit log; a person decides."""
    from fedrx_common.address import is_loopback

    if (certificate is None) != (key is None):
        raise MisuseError("--certificate and --key belong together: give both, or none.")
    if not is_loopback(host) and (certificate is None or clients is None):
        raise MisuseError(
            f"on {host} others can ask: give --certificate and --key for TLS, and --clients with "
            "the keys of the record systems that may; or listen on 127.0.0.1."
        )
    for name, path in (("--certificate", certificate), ("--key", key)):
        if path is not None and not path.is_file():
            raise MisuseError(f"{name}: {path} is not there; give the file.")
    import uvicorn

    from fedrx_client.clinic.follow_up import kept_predictions
    from fedrx_client.clinic.predict import PatientPrediction
    from fedrx_client.clinic.service.app import make_app
    from fedrx_client.clinic.service.services_file import SERVICES, read_services
    from fedrx_client.clinic.service.serving import Desk
    from fedrx_client.clinic.service.tokens import TokenCheck
    from fedrx_client.identity.identity import AUDIT, SiteIdentity
    from fedrx_client.participation.settings import pseudonym_key
    from fedrx_client.records.audit_log import AuditEntry, AuditKind, AuditLog
    from fedrx_client.records.follow_up import FollowUpStore
    from fedrx_models.files import ModelFile

    site = SiteIdentity(folder)
    served = read_services(services or folder / SERVICES)
    log = AuditLog(folder / AUDIT)

    def audit(kind: AuditKind, reason: str, study: str) -> None:
        log.record(AuditEntry(int(time.time()), kind, reason, study))

    scheme = "http" if certificate is None else "https"
    shown = f"[{host}]" if ":" in host else host
    reached = (address or f"{scheme}://{shown}:{port}").rstrip("/")
    tokens = None if clients is None else TokenCheck.from_file(clients)
    followed = any(one.follow_up for one in served.values())
    secret, store = pseudonym_key(folder) if followed else b"", FollowUpStore(folder)

    def keep(model: ModelFile, found: PatientPrediction) -> None:
        store.add(kept_predictions(model, found, secret, int(time.time())))

    app = make_app(Desk(served, audit, keep=keep), tokens=tokens, address=reached)
    for one in served.values():
        say(f"{reached}/cds-services/{one.id}  {one.hook}  model {one.model.name}")
    who = "any client on this machine" if tokens is None else f"the clients of {clients}"
    say(f"Site '{site.site}' answers {who}; stop with Control-C.")
    uvicorn.run(
        app,
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
    )
