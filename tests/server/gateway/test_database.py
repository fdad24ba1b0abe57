"""Our settings of the SuperLink's file hold on every connection, and for a file that is there."""

import pytest
from flwr.superlink.config_loader import (
    get_federation_manager,
    get_objectstore_linkstate_factories,
)
from sqlalchemy import text

from fedrx_server.gateway.database import configure, prepare


def opened(path):
    _, factory = get_objectstore_linkstate_factories(str(path), get_federation_manager())
    state = factory.state()
    for store in (state, state.object_store):
        configure(store)
    return state


def asked(store, name: str) -> object:
    with store.session() as session:
        return session.execute(text(f"PRAGMA {name}")).scalar()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page_size", 16384),
        ("cache_size", -2000),
        ("mmap_size", 0),
        ("secure_delete", 2),
        # Flower's own, on which "nothing is lost" stands.
        ("journal_mode", "wal"),
        ("synchronous", 1),
        ("foreign_keys", 1),
    ],
)
def test_settings_of_every_connection(tmp_path, name, value):
    prepare(tmp_path / "state.db")
    state = opened(tmp_path / "state.db")
    assert {asked(store, name) for store in (state, state.object_store)} == {value}


def test_what_is_there_stays(tmp_path):
    path = tmp_path / "state.db"
    state = opened(path)  # as Flower makes it
    node = state.create_node("", "", b"key", 30, name="site0")
    state._engine.dispose()
    prepare(path)
    again = opened(path)
    assert {info.node_id for info in again.get_node_info()} == {node}
    assert asked(again, "page_size") == 4096
