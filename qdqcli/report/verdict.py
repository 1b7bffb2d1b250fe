"""Verdict in words, for every format that people read."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from qdqcli.recipe.file_ref import FileRef, key_among
from qdqcli.recipe.pairing import located
from qdqcli.recipe.patterns import holders_of
from qdqcli.report.escape import word
from qdqcli.report.number import NO_NUMBER, counted, metric_text, metric_title, metric_unit, percent, significant
from qdqcli.report.table import Quote
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Margin, Violation
from qdqcli.stats.metrics import METRICS, Better
from qdqcli.tensors.note import quoted_prose

_NAMES_SHOWN = 3
_WHAT = {
    "missing": "in the baseline and not in this run",
    "unexpected": "not in the baseline; write a new one if it is meant to be there",
}


Judged = TypeVar("Judged", Violation, Margin)


def with_files(run: RunResult, found: Sequence[Judged]) -> list[Judged]:
    """Return `found` with FILE#NAME, a pattern for a budget, in place of a name that several files share."""
    holders = holders_of(located(run, run.rows)) if found else {}
    return [
        replace(one, tensor=key_among(one.tensor, FileRef.within(one.file, run.inputs), holders[one.tensor]))
        if one.tensor is not None and one.file is not None and len(holders.get(one.tensor, ())) > 1
        else one
        for one in found
    ]


def headline(run: RunResult, quote: Quote) -> str:
    """Return `budget exceeded: 3 errors, 1 warning`, or `budget kept: 40 tensors; nearest its limit: ...`."""
    verdict = run.verdict
    assert verdict is not None
    parts = [counted(len(verdict.errors), "error")] if verdict.errors else []
    parts += [counted(len(verdict.warnings), "warning")] if verdict.warnings else []
    parts += [f"{len(verdict.waived):,} waived"] if verdict.waived else []
    if not verdict.passed:
        return f"budget exceeded: {', '.join(parts)}"
    kept = f"budget kept: {', '.join([counted(sum(1 for _ in run.quantized), 'tensor'), *parts])}"
    if verdict.nearest is None:
        return kept
    (nearest,) = with_files(run, [verdict.nearest])
    return f"{kept}; nearest its limit: {_margin(nearest, quote)}"


def _margin(margin: Margin, quote: Quote) -> str:
    """Return `NAME, SQNR 33.02 dB, 3.02 dB above`."""
    subject = quote(margin.tensor) if margin.tensor is not None else word(origin_title(margin.origin), quote)
    side = "above" if margin.actual > margin.limit else "below"
    distance = f"{significant(margin.margin_db)} dB {side}" if margin.margin_db else "at its limit"
    return f"{subject}, {_title(margin.metric, quote)} {_value(margin.metric, margin.actual, quote)}, {distance}"


def sentence(violation: Violation, quote: Quote) -> str:
    """Return tensor, problem and amount of a violation."""
    return f"{subject(violation, quote)}: {predicate(violation, quote)}"


def waived_line(violation: Violation, quote: Quote) -> str:
    """Return the sentence of a violation with the reason of its waiver."""
    return f'{sentence(violation, quote)} (waived: "{quote(violation.waiver or "")}")'


def predicate(violation: Violation, quote: Quote) -> str:
    """Return the problem without the tensor's name."""
    metric, limit, actual = violation.metric, violation.limit, violation.actual
    if metric in _WHAT:
        return _WHAT[metric]
    match metric:
        case "settings":
            return (
                f"measured with other settings than the baseline: {quote(str(actual))} instead of {quote(str(limit))}"
            )
        case "failed":
            return f"could not be measured: {quoted_prose(str(actual), quote)}"
        case "incomplete":
            return f"shards of the same checkpoint are missing: {quote(str(actual))}"
        case "forbid":
            return f"must not be quantized, and {quote(str(actual))} would be"
        case "min_quantized" | "min_packed":
            shown = [percent(part) if isinstance(part, int | float) else NO_NUMBER for part in (actual, limit)]
            what = "of them are measured" if metric == "min_quantized" else "of their elements are packed"
            return f"{shown[0]} {what}, at least {shown[1]} must be"
        case "max_bits_per_weight":
            found, most = (_value("bits_per_weight", number, quote) for number in (actual, limit))
            return f"{found} is above the limit {most}"
        case "waiver":
            reason = quote(violation.waiver or "")
            return f'waiver "{reason}" expired on {word(str(limit), quote)}; fix the tensors or renew it'
    found = f"{_title(metric, quote)} {_value(metric, actual, quote)}"
    return f"{found} {_relation(violation)} {_value(metric, limit, quote)}{_over(violation)}"


def _title(metric: str, quote: Quote) -> str:
    return metric_title(metric) if metric in METRICS else word(metric_title(metric), quote)


def origin_title(origin: str) -> str:
    """Return the subject of a limit on several tensors: `all elements`, `p05 of the tensors`."""
    if origin == "summary":
        return "all elements"
    return f"{origin.removeprefix('summary.').replace('_', ' ')} of the tensors"


def subject(violation: Violation, quote: Quote) -> str:
    """Return the subject of a violation in words."""
    if violation.tensors:
        names = ", ".join(map(quote, violation.tensors[:_NAMES_SHOWN]))
        more = len(violation.tensors) - _NAMES_SHOWN
        return f"{counted(len(violation.tensors), 'tensor')} ({names}{f' and {more:,} more' if more > 0 else ''})"
    if violation.tensor is not None:
        return quote(violation.tensor)
    match violation.metric:
        case "settings":
            return "the run"
        case "waiver":
            return quote(str(violation.actual))
        case "incomplete" | "failed":
            return quote(violation.file or "")
        case "forbid":
            return quote(str(violation.limit))
        case "min_quantized":
            return "the selected elements"
        case "min_packed":
            return "the compared weights"
        case "max_bits_per_weight":
            return "bits per weight"
    return word(origin_title(violation.origin), quote)


def _relation(violation: Violation) -> str:
    metric = violation.metric
    better = METRICS[metric].better if metric in METRICS else Better.NEITHER
    limit, actual = violation.limit, violation.actual
    if better is Better.NEITHER and isinstance(actual, int | float) and isinstance(limit, int | float):
        better = Better.HIGHER if actual < limit else Better.LOWER
    what = "what the baseline allows," if violation.origin == "baseline" else "the limit"
    return f"is {'below' if better is Better.HIGHER else 'above'} {what}"


def _value(metric: str, value: float | str | None, quote: Quote) -> str:
    if value is None:
        return f"{NO_NUMBER} (no number)"
    if isinstance(value, str):
        return word(value, quote)
    text = metric_text(metric, value) if metric.startswith("num_") or metric == "sqnr_db" else significant(value, 4)
    return text + metric_unit(metric)


def _over(violation: Violation) -> str:
    if violation.excess_db is None or violation.metric.startswith("num_"):
        return ""
    return f", by {significant(violation.excess_db)} dB"
