"""`fedrx site serve`: models inside the hospital's record system, as CDS Hooks, and a page."""

import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

    from fedrx_client.clinic.page.routes import BedsidePage
    from fedrx_client.clinic.service.services_file import Bedside
    from fedrx_client.clinic.service.serving import AuditWriter, Keep

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what must be told apart from an address
_GRACE_S = 10


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
    reached = _reached(host, port, address, secure=certificate is not None)
    _check_options(host, certificate, key, clients, address)
    from fedrx_client.clinic.service.app import make_app
    from fedrx_client.clinic.service.services_file import SERVICES, read_services
    from fedrx_client.clinic.service.serving import Desk
    from fedrx_client.clinic.service.tokens import TokenCheck
    from fedrx_client.identity.identity import AUDIT, SiteIdentity
    from fedrx_client.records.audit_log import AuditEntry, AuditKind, AuditLog

    site = SiteIdentity(folder)
    bedside = read_services(services or folder / SERVICES)
    log = AuditLog(folder / AUDIT)

    def audit(kind: AuditKind, reason: str, study: str) -> None:
        log.record(AuditEntry(int(time.time()), kind, reason, study))

    tokens = None if clients is None else TokenCheck.from_file(clients)
    page, router = _page(bedside, audit, port, secure=certificate is not None)
    link = None if page is None else page.link_for(reached)
    desk = Desk(bedside.services, audit, link, _keep(folder, bedside))
    app = make_app(desk, tokens=tokens, address=reached, page=router)
    listening = _listen(host, port)
    audit("start", f"the bedside's services began at {reached}", "")
    for one in bedside.services.values():
        say(f"{reached}/cds-services/{one.id}  {one.hook}  model {one.model.name}")
    who = "any client on this machine" if tokens is None else f"the clients of {clients}"
    say(f"Site '{site.site}' answers {who}; stop with Control-C.")

    def say_link() -> None:
        from fedrx_client.clinic.page.routes import LOGIN

        if page is not None:
            token = page.access.new_link()
            say(f"The page, for one browser, once, within an hour: {reached}{LOGIN}?token={token}")

    say_link()
    _run(app, listening, certificate, key, again=say_link)
    audit("stop", f"the bedside's services at {reached} ended", "")
    say(f"Site '{site.site}' answers no more.")


def _reached(host: str, port: int, address: str | None, *, secure: bool) -> str:
    """Say where clients reach the server."""
    shown = f"[{host}]" if ":" in host else host
    reached = (address or f"http{'s' if secure else ''}://{shown}:{port}").rstrip("/")
    if not reached.startswith(("https://", "http://")):
        raise MisuseError(f"--address {reached}: give it as https://cds.example.org.")
    return reached


def _check_options(
    host: str,
    certificate: Path | None,
    key: Path | None,
    clients: Path | None,
    address: str | None,
) -> None:
    """Refuse options that would let others read or ask what they may not."""
    from fedrx_common.address import is_loopback

    if (certificate is None) != (key is None):
        raise MisuseError("--certificate and --key belong together: give both, or none.")
    if not is_loopback(host) and (certificate is None or clients is None):
        raise MisuseError(
            f"on {host} others can ask: give --certificate and --key for TLS, and --clients with "
            "the keys of the record systems that may; or listen on 127.0.0.1."
        )
    if host in _EVERYWHERE and address is None:
        raise MisuseError(
            f"{host} is no address that a client can reach, and tokens are for one: give "
            "--address, as https://cds.example.org."
        )
    for name, path in (("--certificate", certificate), ("--key", key)):
        if path is not None and not path.is_file():
            raise MisuseError(f"{name}: {path} is not there; give the file.")
    if certificate is None or key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise MisuseError(
            f"--certificate {certificate} and --key {key}: cannot be used together for TLS "
            f"({reason}); give a certificate in PEM and its own key, without a passphrase."
        ) from None


def _no_password() -> str:
    raise ValueError("the key has a passphrase")


def _page(
    bedside: "Bedside", audit: "AuditWriter", port: int, *, secure: bool
) -> "tuple[BedsidePage, APIRouter] | tuple[None, None]":
    """Make the page, if the file of services asks for one."""
    if not bedside.page:
        return None, None
    from fedrx_client.clinic.page.access import Access
    from fedrx_client.clinic.page.routes import BedsidePage, page_router

    # Cookies know no ports: two servers of one machine have a name each.
    cookie = f"{'__Host-' if secure else ''}fedrx-{port}"
    page = BedsidePage(bedside.services, bedside.searches, audit, Access(cookie), secure)
    return page, page_router(page)


def _keep(folder: Path, bedside: "Bedside") -> "Keep":
    """Make what keeps predictions under pseudonyms, if the file of services asks for it."""
    if not any(one.follow_up for one in bedside.services.values()):
        return lambda _model, _found: None
    from fedrx_client.clinic.follow_up import kept_predictions
    from fedrx_client.participation.settings import pseudonym_key
    from fedrx_client.records.follow_up import FollowUpStore

    secret, store = pseudonym_key(folder), FollowUpStore(folder)
    return lambda model, found: store.add(kept_predictions(model, found, secret, int(time.time())))


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is said to be there."""
    try:
        family, kind, number, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, number)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
    except OSError as error:
        raise MisuseError(
            f"port {port} of {host} cannot be listened on ({error.strerror}); stop what uses it, "
            "or give another --port or --host."
        ) from None
    return found


def _run(
    app: "FastAPI",
    listening: socket.socket,
    certificate: Path | None,
    key: Path | None,
    again: Callable[[], None],
) -> None:
    """Serve until SIGTERM or Control-C; then answer what was asked, and return."""
    import torch
    import uvicorn

    class OrderlyServer(uvicorn.Server):
        """A server that returns when it is told to end, and does not pass the signal on."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """End on SIGTERM and SIGINT; say a new login link on SIGUSR1."""
            for one in (signal.SIGTERM, signal.SIGINT):
                signal.signal(one, self.handle_exit)
            if hasattr(signal, "SIGUSR1"):
                signal.signal(signal.SIGUSR1, lambda *_: again())
            yield

    torch.set_num_threads(1)  # one patient's numbers are too few to share out
    config = uvicorn.Config(
        app,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=_GRACE_S,
    )
    OrderlyServer(config).run(sockets=[listening])
