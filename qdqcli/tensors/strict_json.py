"""JSON as serde reads it: what Python's parser takes beyond the standard is refused.

Python alone takes duplicate keys (the last wins), NaN and Infinity, lone surrogates, and UTF-16 when given bytes.
"""

import json
from collections.abc import Callable
from math import isfinite
from typing import NoReturn

from qdqcli.tensors.message import MalformedError, escape_name


def parse_object(data: bytes, parse_constant: Callable[[str], object] | None = None) -> dict[str, object]:
    """The JSON object in `data`; with `parse_constant` NaN, Infinity and -Infinity are read by it, not refused.

    Raises:
        MalformedError: not UTF-8, not JSON, not an object, a key twice in one object, nested too deep to read.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_pairs_with_escapes if "\\u" in text else _pairs,
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
    if not isinstance(value, dict):
        raise MalformedError("is not a JSON object")
    return value


def levels(value: object) -> int:
    """How deep lists and objects are nested in each other: 0 for a number or a text, 1 for a list of them."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedError(f"holds the key '{escape_name(twice)}' twice")
    return items


def _pairs_with_escapes(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Also looks for lone surrogates, which only escapes can bring into text that was UTF-8."""
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
                raise MalformedError(f"holds half of a surrogate pair in '{escape_name(text)}'")
    return _pairs(pairs)


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
