"""What text and Markdown say below the table: facts about the whole run, and what the reader should look into."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from qdqcli.report.number import NO_NUMBER, counted, metric_text, metric_title, metric_unit, row_text, significant
from qdqcli.report.ranking import BY_NAME, BY_SHARE, DEFAULT_SORT, worst
from qdqcli.report.table import Quote
from qdqcli.result.result import RunResult, TensorResult
from qdqcli.stats.metrics import MetricValue
from qdqcli.tensors.note import Note

LOWEST, LARGEST, WORST = "lowest SQNR", "largest share", "worst tensor"
"""Labels of the tensors that stand out."""

Fact = tuple[str, str]
"""Label and value; an empty label goes on with the one above."""

_NAMES_SHOWN = 3


def facts(run: RunResult, sort: str, quote: Quote) -> Iterator[Fact]:
    """Counts of tensors, skipped ones by reason, the figures over all quantized elements, then who stands out."""
    summary = run.summary
    is_comparison = any(row.spec is None for row in run.quantized)
    yield "compared" if is_comparison else "quantized", counted(sum(1 for _ in run.quantized), "tensor")
    reasons = Counter(row.reason for row in run.skipped if not row.is_failure)
    for index, (reason, count) in enumerate(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))):
        yield "" if index else "skipped", f"{counted(count, 'tensor')}: {quote(reason)}"
    if run.device is not None:
        yield "computed on", quote(run.device)
    if run.verification is not None:
        files = counted(len(run.verification.digests), "file")
        opened = run.verification.num_opened_by_safetensors
        by_library = f"; {opened} opened with safetensors" if opened else ""
        yield "verified", f"{files}, {run.verification.num_bytes:,} bytes read back, each as it must be{by_library}"
    if not any(run.quantized):
        return
    yield "elements", metric_text("num_elements", summary["num_elements"])
    if summary["bits_per_weight"] is not None:
        yield "bits/weight", metric_text("bits_per_weight", summary["bits_per_weight"])
    yield "SQNR", _sqnr(run)
    yield "RMSE", _four_digits(summary["rmse"])
    yield "max |e|", _four_digits(summary["max_abs_error"])
    yield from _standing_out(run, sort, quote)


def _standing_out(run: RunResult, sort: str, quote: Quote) -> Iterator[Fact]:
    """The tensor of the lowest SQNR, the one that holds most of the error, and the worst by another metric."""
    if len(list(islice(run.quantized, 2))) < 2:
        return
    if (lowest := worst(run, DEFAULT_SORT)).stats[DEFAULT_SORT] is not None:
        yield LOWEST, f"{quote(lowest.source.name)}, {row_text(DEFAULT_SORT, lowest)} dB"
    if (largest := worst(run, BY_SHARE)).stats[BY_SHARE] is not None:
        yield LARGEST, f"{quote(largest.source.name)}, {row_text(BY_SHARE, largest)} of the squared error"
    if sort not in (DEFAULT_SORT, BY_SHARE, BY_NAME):
        found = worst(run, sort)
        yield WORST, f"{quote(found.source.name)}, {_verdict(found, sort)}"


def warnings(run: RunResult, quote: Quote) -> Iterator[str]:
    """What makes figures doubtful, with what to do about it."""
    yield from (note_text(note, quote) for note in run.notes if note.is_warning)
    failed: dict[str, list[str]] = {}
    for row in run.skipped:
        if row.is_failure:
            failed.setdefault(row.reason, []).append(row.source.name)
    for reason, names in failed.items():
        yield f"not measured: {few(names, quote)}: {quote(reason)}"
    if rows := _with_some(run, "num_nonfinite"):
        yield (
            f"the input has {counted(run.sums.num_nonfinite, 'NaN or infinite element')}, in {_names(rows, quote)}; "
            "left out of all other figures. An infinity also spoils the range of its slice: give one (--input-min and "
            "--input-max, or --ranges)"
        )
    if rows := _with_some(run, "num_nonfinite_output"):
        yield (
            f"quantization made {counted(run.sums.num_nonfinite_output, 'finite element')} NaN or infinite, in "
            f"{_names(rows, quote)}; left out of all other figures. The output is not usable there"
        )
    if rows := _with_some(run, "num_degenerate"):
        yield (
            f"{counted(run.sums.num_degenerate, 'degenerate slice')} (a tensor, channel or group whose scale is 0, "
            f"infinite or out of range), in {_names(rows, quote)}. Harmless where all elements are zero; else try "
            "--signed-input, more bits or a given range, or leave the tensor in float with --exclude"
        )


def input_notes(run: RunResult, quote: Quote) -> Iterator[str]:
    """What else the reader should know of the inputs."""
    yield from (note_text(note, quote) for note in run.notes if not note.is_warning)


def note_text(note: Note, quote: Quote) -> str:
    """A remark on an input, with the file that it is about."""
    return f"{quote(note.file)}: {note.text(quote)}"


def notes(run: RunResult) -> Iterator[str]:
    """What may not have been meant."""
    shapes = [row.source.shape for row in run.quantized if row.spec is not None]
    vectors = sum(len(shape) == 1 for shape in shapes)
    if vectors and any(len(shape) > 1 for shape in shapes):
        verb = "is" if vectors == 1 else "are"
        yield f"{vectors:,} of the quantized tensors {verb} 1-D (norms, biases); --min-ndim 2 leaves them alone"


def hidden(count: int) -> Iterator[str]:
    """A line for the rows that `--top` left out."""
    if count:
        yield f"… and {count:,} more (--top 0 shows all)"


def few(names: Sequence[str], quote: Quote) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(quote, names[:_NAMES_SHOWN]))
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN:,} more"


def _sqnr(run: RunResult) -> str:
    if run.is_unchanged:
        return "exact: no element changed"
    return metric_text("sqnr_db", run.summary["sqnr_db"]) + " dB" * (run.summary["sqnr_db"] is not None)


def _four_digits(value: MetricValue) -> str:
    return NO_NUMBER if value is None else significant(value, 4)


def _verdict(row: TensorResult, metric: str) -> str:
    unit = "" if row.stats[metric] is None else metric_unit(metric)
    return f"{metric_title(metric)} {row_text(metric, row)}{unit}"


def _with_some(run: RunResult, metric: str) -> list[TensorResult]:
    return [row for row in run.quantized if row.stats[metric]]


def _names(rows: Sequence[TensorResult], quote: Quote) -> str:
    return few([row.source.name for row in rows], quote)
