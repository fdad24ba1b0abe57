"""What a test needs beside Python; without it the test is skipped, and says so."""

import pytest

from fedrx_protocol.errors import MisuseError
from fedrx_server.proxy import find_nginx


def _nginx_is_here() -> bool:
    try:
        find_nginx()
    except MisuseError:
        return False
    return True


needs_nginx = pytest.mark.skipif(
    not _nginx_is_here(),
    reason="NGINX MISSING: the live transport is not tested; apt-get install nginx-light",
)
