"""The verdict in words, for every format that is read by people."""

from qdqcli.report.escape import word
from qdqcli.report.number import NO_NUMBER, counted, metric_text, metric_title, metric_unit, significant
from qdqcli.report.table import Quote
from qdqcli.result.verdict import Verdict, Violation
from qdqcli.stats.metrics import METRICS, Better

_WHAT = {
    "missing": "is in the baseline and not in this run",
    "unexpected": "is not in the baseline; write a new one if it is meant to be there",
}


def headline(verdict: Verdict) -> str:
    """`budget exceeded: 3 errors, 1 warning`."""
    parts = [counted(len(verdict.errors), "error")] if verdict.errors else []
    parts += [counted(len(verdict.warnings), "warning")] if verdict.warnings else []
    parts += [f"{len(verdict.waived):,} waived"] if verdict.waived else []
    word = "budget kept" if verdict.passed else "budget exceeded"
    return f"{word}: {', '.join(parts)}" if parts else word


def sentence(violation: Violation, quote: Quote) -> str:
    """Which tensor, what, and by how much."""
    return f"{_subject(violation, quote)}{predicate(violation, quote)}"


def waived_line(violation: Violation, quote: Quote) -> str:
    """The same, with the reason why it does not count."""
    return f"{sentence(violation, quote)} (waived: {quote(violation.waiver or '')})"


def predicate(violation: Violation, quote: Quote) -> str:
    """What is wrong, without the tensor's name."""
    metric, limit, actual = violation.metric, violation.limit, violation.actual
    if metric in _WHAT:
        return _WHAT[metric]
    if metric == "settings":
        return f"is measured otherwise than the baseline: {quote(str(actual))} instead of {quote(str(limit))}"
    if metric == "failed":
        return f"could not be measured: {quote(str(actual))}"
    if metric == "waiver":
        return f"waiver for {quote(str(actual))} ended on {word(str(limit), quote)}; mend the tensors or renew it"
    found = f"{_title(metric, quote)} {_value(metric, actual, quote)}"
    return f"{found} {_relation(violation)} {_value(metric, limit, quote)}{_over(violation)}"


def _title(metric: str, quote: Quote) -> str:
    return metric_title(metric) if metric in METRICS else word(metric_title(metric), quote)


def subject_title(violation: Violation) -> str:
    """What a violation that is of no tensor is of."""
    if violation.origin == "summary":
        return "all elements"
    return f"{violation.origin.removeprefix('summary.').replace('_', ' ')} of the tensors"


def _subject(violation: Violation, quote: Quote) -> str:
    if violation.metric == "waiver":
        return ""
    subject = quote(violation.tensor) if violation.tensor is not None else word(subject_title(violation), quote)
    return f"{subject}: "


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
