"""`fedrx site start`: the hospital's agent, in the foreground, until it gets a signal to stop."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedrx.cli.passphrase import passphrase_for
from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx_client.participation.live_site import LiveSite

LOG_BYTES = 5_000_000
LOG_FILES = 3

Level = Literal["debug", "info", "warning"]
Device = Literal["auto", "cuda", "mps", "cpu"]


def start(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    *,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the coordinator; remembered.", rich_help_panel="Connection"
        ),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            help="Where to compute: auto, cuda, mps, cpu; remembered.", rich_help_panel="Computing"
        ),
    ] = None,
    health_port: Annotated[
        int,
        typer.Option(
            help="Port on loopback for probes (grpc.health.v1); 0: any.",
            min=0,
            rich_help_panel="Service",
        ),
    ] = 0,
    log_level: Annotated[
        Level, typer.Option(help="debug, info or warning.", rich_help_panel="Service")
    ] = "info",
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File with the passphrase in its first line; else FEDRX_PASSPHRASE."),
    ] = None,
) -> None:
    """Connect to the coordinator and answer for the studies that this site approved."""
    from fedrx.views.site import start_page
    from fedrx_client.app import live_client_app
    from fedrx_client.connection.agent import run_agent
    from fedrx_client.connection.fleet import Endpoint
    from fedrx_client.connection.route import proxy_for
    from fedrx_client.identity.identity import SiteIdentity
    from fedrx_client.participation.live_site import LiveSite
    from fedrx_client.participation.settings import SiteSettings, only_agent
    from fedrx_client.training.device import pick_device
    from fedrx_common.address import Address
    from fedrx_common.logs import log_to

    identity = SiteIdentity(folder)
    given = None if coordinator is None else str(Address.parse(coordinator))
    settings = SiteSettings.load(folder).changed(given, device)
    if not settings.coordinator:
        raise MisuseError("The first time, give --coordinator with its HOST:PORT.")
    proxy = proxy_for(Address.parse(settings.coordinator))
    passphrase = passphrase_for(needed=identity.needs_passphrase, file=passphrase_file)
    keys = identity.keys(passphrase)
    now = _now()
    identity.roster(now)  # all that is pinned is verified first
    door = Endpoint(settings.coordinator, identity.authority(now), keys.authentication)
    chosen = pick_device(settings.device)
    with only_agent(folder), _serving(LiveSite(folder, keys, device=chosen)) as live:
        settings.keep(folder)
        log_to(
            folder / "agent.log",
            most_bytes=LOG_BYTES,
            older_files=LOG_FILES,
            levels={"": logging.WARNING, "fedrx_client": log_level.upper()},
            form="%(asctime)s %(levelname)-7s %(message)s",
            times="%Y-%m-%d %H:%M:%S",
            private=True,
        )
        way = settings.coordinator + (f" through the proxy {proxy}" if proxy else "")
        say(start_page(folder, way, chosen.type, _now()))
        run_agent(door, live_client_app(live), folder=folder, health_port=health_port)


def register(app: typer.Typer) -> None:
    """Add this command to `fedrx site`."""
    app.command(epilog="Example: fedrx site start charite --coordinator fl.example.org:8443")(start)


@contextmanager
def _serving(live: "LiveSite") -> Iterator["LiveSite"]:
    """Record that the agent begins and ends; a full disk must not hide why it ends."""
    live.started()
    try:
        yield live
    finally:
        try:
            live.stopped()
        except MisuseError as error:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - the sentence says all


def _now() -> int:
    return int(time.time())
