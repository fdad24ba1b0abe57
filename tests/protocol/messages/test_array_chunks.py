"""Arrays from their parts: what Flower cut comes together, what a hostile peer made up does not."""

import json

import numpy as np
import pytest
from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedrx_common.canonical_json import MalformedMessage
from fedrx_protocol.messages.array_chunks import assemble, is_array

LIMIT = 2**26


def objects(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """An array's own object and its parts, as Flower makes them."""
    array = Array("uint32", (len(data) // 4,), "fedrx.raw", data)
    found = {name: item.deflate() for name, item in get_all_nested_objects(array).items()}
    return found.pop(array.object_id), found


def array_object(children=("a",), **fields) -> bytes:
    listing = {"dtype": "uint32", "shape": [1], "stype": "raw", "arraychunk_ids": [0], **fields}
    text = json.dumps(listing).encode()
    return f"Array {','.join(children)} {len(text)}".encode() + b"\x00" + text


def part(data: bytes) -> bytes:
    return b"ArrayChunk  %d\x00" % len(data) + data


@pytest.mark.parametrize("length", [0, 4, 5 * 2**20, 11 * 2**20])
def test_what_flower_cut(length):
    data = np.random.default_rng(length).bytes(length)
    own, contents = objects(data)
    assert is_array(own)
    assert assemble(own, contents, LIMIT) == ("uint32", (length // 4,), "fedrx.raw", data)
    assert contents == {}


def test_equal_parts_travel_once():
    own, contents = objects(bytes(20 * 2**20))
    assert len(contents) == 1
    assert assemble(own, contents, LIMIT).data == bytes(20 * 2**20)


def test_a_part_that_is_repeated_without_end_fills_no_memory():
    own = array_object(arraychunk_ids=[0] * 10_000)
    with pytest.raises(MalformedMessage, match="longer than"):
        assemble(own, {"a": part(bytes(2**20))}, 4 * 2**20)


def test_a_list_of_parts_without_end():
    own = array_object(arraychunk_ids=[0] * 40_000)
    with pytest.raises(MalformedMessage, match="too many parts"):
        assemble(own, {"a": part(b"")}, LIMIT)


@pytest.mark.parametrize(
    "own",
    [
        b"Array a 2\x00[]",
        b"Array a 1\x00x",
        b"Array\x00{}",
        b"Array \xff 2\x00{}",
        array_object(arraychunk_ids=[1]),
        array_object(arraychunk_ids=[-1]),
        array_object(arraychunk_ids=["0"]),
        array_object(arraychunk_ids=0),
        array_object(children=("missing",)),
        array_object(dtype=5),
        array_object(shape=[1.5]),
        array_object(shape=[-1]),
        array_object(shape=3),
        array_object(stype=None),
    ],
)
def test_an_array_that_makes_no_sense(own):
    with pytest.raises(MalformedMessage):
        assemble(own, {"a": part(b"abcd")}, LIMIT)


def test_a_part_that_is_none():
    for wrong in (b"ArrayChunk", b"Array x 0\x00", b""):
        with pytest.raises(MalformedMessage, match="part is none"):
            assemble(array_object(), {"a": wrong}, LIMIT)
