"""JSON as serde reads it: what Python's parser takes beyond the standard is refused.

Python alone takes duplicate keys (the last wins), NaN and Infinity, lone surrogates, and UTF-16 when given bytes.
"""

import json
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any, NoReturn

from qdqcli.escape import MalformedError, escape_name

Pairs = tuple[tuple[str, object], ...]
"""What stands in an object, key by key, before anything is known of the keys."""


def parse_object(data: bytes, parse_constant: Callable[[str], object] | None = None) -> dict[str, object]:
    """The JSON object in `data`; with `parse_constant` NaN, Infinity and -Infinity are read by it, not refused.

    Raises:
        MalformedError: not UTF-8, not JSON, not an object, a key twice in one object, nested too deep to read.
    """
    value = _parse(data, _pairs, parse_constant)
    if not isinstance(value, dict):
        raise MalformedError("is not a JSON object")
    return value


def parse_pairs(data: bytes) -> dict[str, object]:
    """The same, but an object within the object is left as the tuple of its (key, value) pairs, for `object_of`.

    Nothing of ours is called for each of them: a header with many is read in half the time.
    """
    value = _parse(data, tuple, None)
    if not isinstance(value, tuple):
        raise MalformedError("is not a JSON object")
    return _pairs(value)


def object_of(pairs: Pairs) -> dict[str, object]:
    """The object that `parse_pairs` left as pairs, and every object in it.

    Raises:
        MalformedError: a key twice in one object.
    """
    return _pairs(tuple((key, _whole(value)) for key, value in pairs))


def _whole(value: object) -> object:
    if isinstance(value, tuple):
        return object_of(value)
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _parse(data: bytes, hook: Callable[[Any], object], parse_constant: Callable[[str], object] | None) -> object:
    """The value in `data`, with objects as `hook` makes them of their pairs."""
    try:
        text = data.decode("utf-8")
        return json.loads(
            text,
            object_pairs_hook=partial(_without_surrogates, hook) if "\\u" in text else hook,
            parse_float=_parse_float,
            parse_int=_parse_int if "-0" in text else None,
            parse_constant=parse_constant or _refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise MalformedError(f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise MalformedError("is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, or an integer of more digits than Python converts
        raise MalformedError(f"is not JSON: {escape_name(str(error))}") from error


def levels(value: object) -> int:
    """How deep lists and pairs of objects are nested: 0 for a number or a text, 1 for a list of them."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, (list, tuple))]:
        depth += 1
        level = [inner for item in level for inner in (item if isinstance(item, list) else (of for _, of in item))]
    return depth


def _pairs(pairs: Pairs) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedError(f"holds the key '{escape_name(twice)}' twice")
    return items


def _without_surrogates(hook: Callable[[Any], object], pairs: list[tuple[str, object]]) -> object:
    """The object, without lone surrogates, which only escapes can bring into text that was UTF-8."""
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
                raise MalformedError(f"holds half of a surrogate pair in '{escape_name(text)}'")
    return hook(pairs)


def _parse_int(digits: str) -> int | float:
    """As serde: `-0` is no integer."""
    return -0.0 if digits == "-0" else int(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"number out of range: {digits[:20]}")
    return number


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON value")
