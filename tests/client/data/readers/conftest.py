"""What tests of readers share: one PostgreSQL for all of them, where there is one."""

from collections.abc import Iterator

import pytest
from real_postgres import Server, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A real PostgreSQL server; the test is skipped, loudly, where it is not installed."""
    with postgres() as running:
        yield running
