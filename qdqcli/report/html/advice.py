"""Advice on a budget that is not kept: the tensors that fail, by kind, and the commands to type."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from qdqcli.recipe.patterns import compile_pattern
from qdqcli.report.command import command_of
from qdqcli.report.escape import json_text, shorten
from qdqcli.report.html.made import MAX_WORD, bytes_of, code, packed_bytes_of
from qdqcli.report.html.markup import in_html, quote, static_table
from qdqcli.report.number import NO_NUMBER, counted, percent, size_text
from qdqcli.report.table import Column
from qdqcli.result.group import kind_of
from qdqcli.result.result import RunResult, TensorResult

_MEASURING = ("check", "stats", "run")
_OF_PLANS = ("recipe", "presets", "include", "exclude", "min_ndim", "scale_bits", "compute_dtype")
"""Settings that are options of `qdq plan`, too."""
_BITS = (2, 3, 4, 5, 6, 8, 10, 12)
_KINDS, _PATTERNS = 10, 12
"""Most kinds that are listed, and most patterns in a command."""


def advice(run: RunResult, states: Sequence[str]) -> Iterator[str]:
    """Yield the section for the tensors with an error or a warning; nothing without any. `states`: one per tensor."""
    failing = [row for row, state in zip(run.quantized, states, strict=True) if state in ("error", "warn")]
    if not failing:
        return
    kinds: dict[str, list[TensorResult]] = {}
    for row in failing:
        kinds.setdefault(kind_of(row.source.name), []).append(row)
    ranked = sorted(kinds.items(), key=lambda item: -_share(item[1]))
    shown = dict(ranked[:_KINDS])
    yield '<section class="advice"><h2>What to do</h2>'
    of = sum(1 for _ in run.quantized)
    fail, share = "fails" if len(failing) == 1 else "fail", percent(_share(failing))
    yield f"<p>{len(failing):,} of {counted(of, 'tensor')} {fail}, with {share} of the squared error:</p>"
    yield from static_table(_columns(run, shown))
    if len(ranked) > len(shown):
        yield f"<p class=quiet>and {counted(len(ranked) - len(shown), 'more kind')} of tensors</p>"
    if run.command in _MEASURING:
        patterns = (pattern for name, rows in ranked for pattern in _patterns(run, name, rows))
        yield from _commands(run, failing, list(islice(patterns, _PATTERNS + 1)))
    yield "</section>"


def _columns(run: RunResult, kinds: dict[str, list[TensorResult]]) -> list[Column]:
    totals: dict[str, int] = {}
    for row in run.quantized:
        kind = kind_of(row.source.name)
        totals[kind] = totals.get(kind, 0) + 1
    missing = [[-row.bound.margin_db for row in rows if row.bound is not None and row.bound.margin_db is not None]
               for rows in kinds.values()]  # fmt: skip
    cells = {
        "tensors that fail": [quote(name if len(rows) > 1 else rows[0].source.name) for name, rows in kinds.items()],
        "how many": [f"{len(rows):,} of {totals[name]:,}" for name, rows in kinds.items()],
        "missing dB, up to": [f"{max(own):.2f}" if own and max(own) > 0 else NO_NUMBER for own in missing],
        "share of the error": [percent(_share(rows)) for rows in kinds.values()],
    }
    return [
        Column(name=title, title=title, cells=own, is_number=bool(n)) for n, (title, own) in enumerate(cells.items())
    ]


def _commands(run: RunResult, failing: Sequence[TensorResult], patterns: Sequence[str]) -> Iterator[str]:
    """Yield commands about the failing tensors; those that would have to name too many of them are left out."""
    named = patterns if len(patterns) <= _PATTERNS else ()
    yield '<dl class="steps">'
    yield "<dt>Why they fail, and what other settings would gain, each measured; the best as a recipe:</dt>"
    chosen = replace(run, settings={**run.settings, "include": named or run.settings.get("include", ())})
    yield _typed(code(command_of(chosen, "diagnose", ["--write-recipe", "fix.toml"])))
    needed, grids = _needed(run), _candidates(run.settings)
    if needed and grids:
        least = repr(max(needed))
        yield f"<dt>The fewest bits at which every tensor has {least} dB, as a recipe:</dt>"
        kept = {key: value for key, value in run.settings.items() if key in _OF_PLANS}
        goal = [*grids, "--min-sqnr", least, "-o", "plan.toml"]
        yield _typed(code(command_of(replace(run, settings=kept), "plan", goal)))
    if named:
        added = sum(bytes_of(row) - packed_bytes_of(row) for row in failing)
        yield f"<dt>Leave them in float, which adds {size_text(max(added, 0))}:</dt>"
        excluded = [word for pattern in named for word in ("--exclude", pattern)]
        yield _typed(code(command_of(run, run.command, excluded)))
        yield "<dt>Accept them for a time, in the budget:</dt>"
        names = ", ".join(json_text(shorten(pattern, MAX_WORD)) for pattern in named)
        yield _typed(in_html(f"[[waivers]]\nmatch = [{names}]\nreason = '...'\nuntil = YYYY-MM-DD"))
    yield "</dl>"


def _candidates(settings: Mapping[str, object]) -> list[str]:
    """Return options of `qdq plan` for candidates with the granularity of a run; none where there are no such."""
    if isinstance(settings.get("group_size"), int):
        return ["--group-size", str(settings["group_size"])]
    axis = settings.get("axis")
    granularity = "tensor" if axis == "none" else "channel" if axis == 0 else ""
    return [] if not granularity else ["--candidates", ",".join(f"int{n}-{granularity}" for n in _BITS)]


def _needed(run: RunResult) -> list[float]:
    """Return the limits on the SQNR that are not kept; none where another metric fails, too."""
    found = () if run.verdict is None else run.verdict.violations
    of_tensors = [one for one in found if one.tensor is not None and one.origin == "limits"]
    limits = [one.limit for one in of_tensors if one.metric == "sqnr_db" and isinstance(one.limit, int | float)]
    return limits if len(limits) == len(of_tensors) else []


def _typed(text: str) -> str:
    return f"<dd><pre><code>{text}</code></pre></dd>"


def _patterns(run: RunResult, kind: str, rows: Sequence[TensorResult]) -> list[str]:
    """Return patterns that match the rows and no other tensor: one for the kind if possible, else names."""
    names = {row.source.name for row in rows}
    numbers = re.escape(kind).replace(r"\.\*", r"\.\d+").replace(r"\*\.", r"\d+\.")
    for pattern in (kind, f"re:{numbers}") if len(names) > 1 else ():
        matches = compile_pattern(pattern)
        if {row.source.name for row in run.rows if matches(row.source.name)} == names:
            return [pattern]
    return sorted(names)


def _share(rows: Sequence[TensorResult]) -> float:
    return min(sum(row.stats["share"] or 0.0 for row in rows), 1.0)
