"""Budget generation from a run: TOML limits for each tensor, for new tensors and for the whole run."""

from collections.abc import Iterator
from json import dumps
from math import isfinite

from qdqcli.gate.aggregate import aggregate
from qdqcli.gate.judge import NONFINITE
from qdqcli.gate.keys import LIMIT_KEYS, limit_key
from qdqcli.gate.ratchet import Headroom
from qdqcli.gate.settings import comparable
from qdqcli.recipe.file_ref import SEPARATOR, qualified, spelling_among
from qdqcli.recipe.keys import SCHEMA_VERSION
from qdqcli.recipe.pairing import located
from qdqcli.recipe.patterns import holders_of
from qdqcli.result.result import RunResult, TensorResult

METRIC, KEY = "sqnr_db", "min_sqnr_db"
_SPECIAL = "*?["
"""Characters with a special meaning in a glob."""


def budget_text(run: RunResult, headroom: Headroom) -> str:
    """Return the budget's TOML text; the run itself passes it with any headroom."""
    return "\n".join(_lines(run, headroom)) + "\n"


def _lines(run: RunResult, headroom: Headroom) -> Iterator[str]:
    rows = list(run.quantized)
    yield f"schema = {SCHEMA_VERSION}"
    found: dict[str, dict[str, float]] = {}
    holders = holders_of(located(run, run.rows))
    for row, (name, file) in zip(rows, located(run, rows), strict=True):
        values = dict(_values(row))
        if values:
            pattern = glob_of(name)
            if len(holders[name]) > 1:
                pattern = qualified(glob_of(spelling_among(file, holders[name])), pattern)
            before = found.get(pattern, {})  # of the same file, given twice
            found[pattern] = before | {key: _worse(key, value, before.get(key, value)) for key, value in values.items()}
    worst = [values[KEY] for values in found.values() if KEY in values]
    if worst:
        yield from ("", "[limits] # of tensors that have none of their own", _limit(KEY, min(worst), headroom))
    elif run.is_exact:
        yield from ("", "[limits] # no element changed", "max_abs_error = 0")
    yield from ("", "[settings] # a run with others is not judged")
    yield from (f"{key} = {toml_value(value)}" for key, value in comparable(run.settings).items())
    total = run.summary[METRIC]
    if total is not None:
        yield from ("", "[summary]", _limit(KEY, total, headroom))
    median = aggregate("median", METRIC, rows)
    if median is not None and isfinite(median):
        yield from ("", "[summary.median]", _limit(KEY, median, headroom))
    for pattern, values in found.items():
        yield from ("", "[[tensors]]", f"match = {toml_text(pattern)}")
        yield from (_limit(key, value, headroom) for key, value in values.items())


def _values(row: TensorResult) -> Iterator[tuple[str, float]]:
    """Yield what the tensor must keep, by key; non-finite elements are allowed in as many places as it has."""
    value = row.stats[METRIC]
    if value is not None:
        yield KEY, value
    for metric in NONFINITE:
        number = row.stats[metric]
        if number:
            yield limit_key(metric, is_minimum=False), number


def _worse(key: str, one: float, other: float) -> float:
    return min(one, other) if LIMIT_KEYS[key][1] else max(one, other)


def _limit(key: str, value: float, headroom: Headroom) -> str:
    metric, is_minimum = LIMIT_KEYS[key]
    return f"{key} = {headroom.limit(metric, value, is_minimum=is_minimum)!r}"


def glob_of(name: str) -> str:
    """Return the pattern that matches only this name."""
    if not name:  # an empty string is not a pattern
        return "re:"
    text = "".join(f"[{char}]" if char in _SPECIAL else char for char in name).replace(SEPARATOR, f"[{SEPARATOR}]")
    return f"[r]{text[1:]}" if text.startswith("re:") else text


def toml_value(value: object) -> str:
    """Return a setting as TOML."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return toml_text(value) if isinstance(value, str) else repr(value)


def toml_text(text: str) -> str:
    """Return a TOML basic string: JSON's without the escapes that TOML lacks (a lone surrogate is not Unicode text)."""
    return dumps(text.encode("utf-8", "replace").decode("utf-8"), ensure_ascii=False).replace("\x7f", "\\u007f")
