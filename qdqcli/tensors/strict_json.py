"""Strict JSON, as serde reads it: refuses what Python's parser accepts beyond the standard.

Python accepts duplicate keys (the last wins), NaN and Infinity, lone surrogates, and UTF-16 bytes.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from json import JSONDecoder
from math import isfinite
from typing import NoReturn

from qdqcli.escape import MalformedError, escape_name

Pairs = tuple[tuple[str, object], ...]
"""An object as key-value pairs, before duplicate keys are checked."""
MakeObject = Callable[[Sequence[tuple[str, object]]], object]
"""Builds an object from its key-value pairs."""
MAX_MEMORY = 160 << 20
"""Approximate limit on the memory, in bytes, of the values of one text or stream window: 160 MiB. Nested lists take 40
times the memory of their text; an index of 32 MiB, with two names for each tensor, takes 100 MiB."""


def parse_object(data: bytes, parse_constant: Callable[[str], object] | None = None) -> dict[str, object]:
    """Parse the JSON object in `data`; `parse_constant`, if given, reads NaN, Infinity and -Infinity.

    Raises:
        MalformedError: not UTF-8, not JSON, not an object, a duplicate key, nested too deeply, or more values than
            `MAX_MEMORY` holds.
    """
    try:
        text = data.decode("utf-8")
        check_parse_memory(text)
        value = decoder(text, dict_of, parse_constant).decode(text)
    except UnicodeDecodeError as error:
        raise MalformedError(f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise MalformedError("is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, or an integer with more digits than Python converts
        raise MalformedError(f"is not JSON: {escape_name(str(error))}") from error
    if not isinstance(value, dict):
        raise MalformedError("is not a JSON object")
    return value


def decoder(
    text: str,
    make_object: MakeObject,
    parse_constant: Callable[[str], object] | None = None,
    *,
    surrogates: bool = False,
) -> JSONDecoder:
    """Return a strict decoder of `text`; `make_object` builds objects from their pairs."""
    is_checked = not surrogates and "\\u" in text
    return _decoder(make_object, parse_constant or _refuse_constant, is_checked, "-0" in text)


@lru_cache(maxsize=16)
def _decoder(
    make_object: MakeObject, parse_constant: Callable[[str], object], is_checked: bool, has_minus_zero: bool
) -> JSONDecoder:
    """Return a decoder, made once: that takes as long as it takes to decode ten tensors of a header."""
    return JSONDecoder(
        object_pairs_hook=partial(_checked, make_object) if is_checked else make_object,
        parse_float=_parse_float,
        parse_int=_parse_int if has_minus_zero else None,
        parse_constant=parse_constant,
    )


def check_parse_memory(text: str) -> None:
    """Refuse a text whose values would need more memory than `MAX_MEMORY`, before they are parsed.

    Raises:
        MalformedError: the estimate exceeds `MAX_MEMORY`.
    """
    memory = text.__sizeof__() + 32 * (text.count(",") + text.count('"')) + 64 * (text.count("[") + text.count("{"))
    if memory > MAX_MEMORY:
        raise MalformedError(
            f"would take about {memory >> 20} MiB of memory; at most {MAX_MEMORY >> 20} are given to it"
        )


def object_of(pairs: Pairs) -> dict[str, object]:
    """Convert pairs (`make_object=tuple`) to a dict, recursively.

    Raises:
        MalformedError: a duplicate key in an object.
    """
    return dict_of(tuple((key, _whole(value)) for key, value in pairs))


def _whole(value: object) -> object:
    if isinstance(value, tuple):
        return object_of(value)
    return [_whole(item) for item in value] if isinstance(value, list) else value


def levels(value: object) -> int:
    """Return the nesting depth of lists and pairs: 0 for a number or a string, 1 for a list of them."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, (list, tuple))]:
        depth += 1
        level = [inner for item in level for inner in (item if isinstance(item, list) else (of for _, of in item))]
    return depth


def dict_of(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Convert pairs to a dict.

    Raises:
        MalformedError: a duplicate key.
    """
    items = dict(pairs)
    if len(items) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedError(f"holds the key '{escape_name(twice)}' twice")
    return items


def without_surrogates(text: str) -> None:
    """Refuse a lone surrogate; in UTF-8 text only an escape can produce one.

    Raises:
        MalformedError: the text holds one.
    """
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise MalformedError(f"holds half of a surrogate pair in '{escape_name(text)}'")


def _checked(make_object: MakeObject, pairs: list[tuple[str, object]]) -> object:
    for key, value in pairs:
        without_surrogates(key)
        if isinstance(value, str):
            without_surrogates(value)
    return make_object(pairs)


def _parse_int(digits: str) -> int | float:
    """Parse an integer; like serde, `-0` is a float."""
    return -0.0 if digits == "-0" else int(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"number out of range: {digits[:20]}")
    return number


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON value")
