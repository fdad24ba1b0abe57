"""What tests with real processes share: one nursery, and nginx or a loud skip."""

import pytest
from live_town import Nursery

from fedrx_common.errors import MisuseError
from fedrx_server.service.proxy import find_nginx


@pytest.fixture(scope="session")
def nginx():
    """Skips, loudly, where there is no nginx."""
    try:
        find_nginx()
    except MisuseError:
        pytest.skip("NGINX MISSING: live studies not tested; apt-get install nginx-light")


@pytest.fixture(scope="session")
def nursery(nginx):
    """Starts `fedrx` commands as processes."""
    nursery = Nursery()
    yield nursery
    nursery.close()
