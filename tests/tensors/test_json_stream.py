"""A stream of JSON gives what the whole text gives, wherever its windows end, and refuses what that refuses."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdqcli.escape import MalformedError
from qdqcli.tensors.json_stream import JsonStream
from qdqcli.tensors.strict_json import MAX_MEMORY, dict_of, parse_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)
WINDOWS = st.integers(1, 40)


def members(data: bytes, window: int) -> dict[str, object]:
    stream = JsonStream((data[at : at + window] for at in range(0, len(data), window)), dict_of, window_bytes=1)
    found = {}
    for key in stream.members():
        assert key not in found
        found[key] = stream.value()
    stream.end()
    return found


def spelled(value: Any, *, ascii_only: bool, indent: int | None) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()


@given(OBJECTS, WINDOWS, st.booleans(), st.sampled_from([None, 0, 3]))
def test_every_member_comes_as_it_is(value: dict[str, Any], window: int, ascii_only: bool, indent: int | None) -> None:
    data = spelled(value, ascii_only=ascii_only, indent=indent)
    found = members(data, window)
    assert list(found) == list(value)
    assert repr(found) == repr(parse_object(data))


@given(OBJECTS, WINDOWS, st.randoms(use_true_random=False))
def test_what_the_whole_parser_refuses_is_refused(value: dict[str, Any], window: int, rng: random.Random) -> None:
    data = bytearray(spelled(value, ascii_only=rng.random() < 0.5, indent=None))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randint(0, 2)] = rng.choice((b"", b'"', b"{", b"]", b",", b"\\u", b"-", b"0", b" ", b"\xff"))
    try:
        expected: object = parse_object(bytes(data))
    except MalformedError:
        expected = None
    try:
        found = members(bytes(data), window)
    except (MalformedError, AssertionError):  # a key twice
        assert expected is None, data
    else:
        assert repr(found) == repr(expected)


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=5), WINDOWS)
def test_a_list_within_is_walked_through(rows: list[dict[str, Any]], window: int) -> None:
    data = spelled({"before": 1, "rows": rows, "after": [2]}, ascii_only=False, indent=1)
    stream = JsonStream((data[at : at + window] for at in range(0, len(data), window)), dict_of, window_bytes=1)
    found = {
        key: [stream.value() for _ in stream.items()] if key == "rows" else stream.value() for key in stream.members()
    }
    stream.end()
    assert found == {"before": 1, "rows": rows, "after": [2]}


def test_a_surrogate_is_refused_unless_it_is_asked_for() -> None:
    data = b'{"a\\ud800":"\\udcff"}'
    with pytest.raises(MalformedError, match="surrogate"):
        members(data, 99)
    stream = JsonStream([data], dict_of, surrogates=True, window_bytes=1)
    assert [(key, stream.value()) for key in stream.members()] == [("a\ud800", "\udcff")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the end at character 0, '{' expected"),
        (b"[]", "is not a JSON object"),
        (b'{"a":1}x', r"Extra data \(character 7\)"),
        (b'{"a":1', "the end at character 6, ',' or '}' expected"),
        (b'{"a" 1}', "'1' at character 5, ':' expected"),
        (b'{"a":[1,}]}', r"Expecting value \(character 8\)"),
        (b'{"a":1,}', "'}' at character 7, a key expected"),
        (b'{"a":NaN}', "NaN is not a JSON value"),
        (b'{"a":1e999}', "number out of range"),
        (b'{"a":' + b"[" * 99_999, "nested too deeply"),
        (b'{"\xff":1}', "is not UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        members(data, 1000)


def pieces(start: bytes, unit: bytes) -> Iterator[bytes]:
    yield start
    for _ in range(200):
        yield unit * ((1 << 20) // len(unit))


@pytest.mark.parametrize("unit", [b"[],", b"[[]],", b'{"":0},', b"1,", b'"ab",', b"a"], ids=repr)
def test_a_value_that_would_take_too_much_memory_is_not_made(unit: bytes) -> None:
    stream = JsonStream(pieces(b'{"x":"' if unit == b"a" else b'{"x":[', unit), dict_of, window_bytes=1)
    (key,) = (next(stream.members()),)
    assert key == "x"
    with pytest.raises(MalformedError, match=f"at most {MAX_MEMORY >> 20}"):
        stream.value()
