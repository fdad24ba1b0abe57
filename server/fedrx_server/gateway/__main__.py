"""`python -m fedrx_server.gateway`: Flower's SuperLink with our gateway before it.

Options are those of `flower-superlink`.

Flower's own command does nothing more than what is done here: read the options, build the
application, serve it.
"""

import logging
from pathlib import Path

import uvicorn
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.supercore.sql_mixin import SqlMixin
from flwr.superlink.cli.flower_superlink import (
    SuperLinkLifespan,
    _parse_superlink_lifespan_config,
)
from flwr.superlink.main import create_app

from fedrx_common.errors import MisuseError
from fedrx_common.tls import AEAD_CIPHERS
from fedrx_server.gateway.app import Link
from fedrx_server.gateway.database import configure, prepare
from fedrx_server.gateway.limits import DEFAULT_LIMITS

# Longer than the proxy keeps an idle connection, so that it never writes into a closed one.
_KEEP_ALIVE_S = 300
_STOP_WITHIN_S = 3


class _Server(uvicorn.Server):
    """Ends the calls that wait for a message when it has to stop."""

    link: Link

    def handle_exit(self, sig: int, frame: object) -> None:
        """As uvicorn does, and wake who waits."""
        super().handle_exit(sig, frame)  # type: ignore[arg-type]  # the frame is never read
        self.link.stop()


def main() -> None:
    """Serve until a signal to stop.

    Raises:
        MisuseError: There is no database, without which a restart would lose a round.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    # Flower's own handler keeps to FLWR_LOG_LEVEL; ours would write its every call down.
    logging.getLogger("flwr").propagate = False
    config = _parse_superlink_lifespan_config()  # its options are ours
    prepare(Path(config.database))
    app = create_app(config, SuperLinkLifespan)
    state = app.state.linkstate_factory.state()
    if not isinstance(state, SqlLinkState) or not config.enable_supernode_auth:
        raise MisuseError("the SuperLink needs --database and --enable-supernode-auth.")
    for store in (state, state.object_store):
        if isinstance(store, SqlMixin):
            configure(store)
    server = _Server(
        uvicorn.Config(
            app=(link := Link(app, state, DEFAULT_LIMITS)),
            host=config.host,
            port=config.port,
            ssl_keyfile=config.ssl_keyfile,
            ssl_certfile=config.ssl_certfile,
            ssl_ciphers=AEAD_CIPHERS,
            log_config=get_uvicorn_log_config(console_handler.level),
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_WITHIN_S,
        )
    )
    server.link = link
    server.run()


if __name__ == "__main__":
    main()
