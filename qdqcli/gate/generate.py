"""A budget made from a run: limits for each tensor, for new ones and for the whole, as TOML."""

from collections.abc import Iterator
from json import dumps
from math import isfinite

from qdqcli.gate.aggregate import aggregate
from qdqcli.gate.budget import SCHEMA
from qdqcli.gate.ratchet import Headroom
from qdqcli.result.result import RunResult

METRIC, KEY = "sqnr_db", "min_sqnr_db"
_SPECIAL = "*?["
"""What a glob takes for more than itself."""


def budget_text(run: RunResult, headroom: Headroom) -> str:
    """The budget: kept by the run itself, whatever the headroom."""
    return "\n".join(_lines(run, headroom)) + "\n"


def _lines(run: RunResult, headroom: Headroom) -> Iterator[str]:
    rows = list(run.quantized)
    yield f"schema = {SCHEMA}"
    if any(row.stats["num_nonfinite"] or row.stats["num_nonfinite_output"] for row in rows):
        yield "allow_nonfinite = true"
    worst: dict[str, float] = {}
    for row in rows:
        value = row.stats[METRIC]
        if value is not None:
            worst[row.source.name] = min(value, worst.get(row.source.name, value))
    if worst:
        yield from (
            "",
            "[limits] # of tensors that have none of their own",
            _limit(min(worst.values()), headroom),
        )
    total = run.summary[METRIC]
    if total is not None:
        yield from ("", "[summary]", _limit(total, headroom))
    median = aggregate("median", METRIC, rows)
    if median is not None and isfinite(median):
        yield from ("", "[summary.median]", _limit(median, headroom))
    for name, value in worst.items():
        yield from ("", "[[tensors]]", f"match = {toml_text(glob_of(name))}", _limit(value, headroom))


def _limit(value: float, headroom: Headroom) -> str:
    return f"{KEY} = {headroom.limit(METRIC, value, is_minimum=True)!r}"


def glob_of(name: str) -> str:
    """The pattern that matches this name alone."""
    if name.startswith("re:") or not name:  # a regular expression by its first letters; the empty pattern is none
        return "re:" + "".join(char if char.isalnum() else f"\\x{ord(char):02x}" if ord(char) < 256 else char
                               for char in name)  # fmt: skip
    return "".join(f"[{char}]" if char in _SPECIAL else char for char in name)


def toml_text(text: str) -> str:
    """A basic string of TOML: JSON's, less what TOML has no escape for (a lone surrogate is no Unicode text)."""
    return dumps(text.encode("utf-8", "replace").decode("utf-8"), ensure_ascii=False).replace("\x7f", "\\u007f")
