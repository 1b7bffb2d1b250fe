"""Summary below the table in text and Markdown: facts about the run, and warnings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from qdqcli.op.spec import QuantSpec
from qdqcli.report.number import NO_NUMBER, counted, metric_text, metric_title, metric_unit, row_text, significant
from qdqcli.report.ranking import BY_NAME, BY_SHARE, BY_SIZE, DEFAULT_SORT, worst
from qdqcli.report.table import Quote, group_size_in
from qdqcli.result.group import kind_of
from qdqcli.result.result import RunResult, Source, TensorResult
from qdqcli.stats.metrics import METRICS, MetricValue
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.note import Note

LOWEST, LARGEST, WORST = "lowest SQNR", "largest share", "worst tensor"
"""Labels of the tensors that stand out."""

Fact = tuple[str, str]
"""Label and value; an empty label continues the one above."""

_NAMES_SHOWN = 3
_MANY_BITS = 16
"""Number of bits from which more do not help a range."""


def facts(run: RunResult, sort: str, quote: Quote) -> Iterator[Fact]:
    """Yield counts of tensors, skipped ones by reason, totals over all quantized elements, and extreme tensors."""
    summary = run.summary
    compared = [row for row in run.quantized if row.spec is None]
    yield "compared" if compared else "quantized", counted(sum(1 for _ in run.quantized), "tensor")
    num_equal = sum(row.is_unchanged for row in compared)
    if num_equal:
        left_out = ", left out of the figures below" * (num_equal < len(compared))
        yield "equal", f"{counted(num_equal, 'tensor')}{left_out}"
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
    yield from _coverage(run, quote)
    yield "SQNR", _sqnr(run)
    yield "RMSE", _four_digits(summary["rmse"])
    yield "max |e|", _four_digits(summary["max_abs_error"])
    yield from _standing_out(run, sort, quote)


def _coverage(run: RunResult, quote: Quote) -> Iterator[Fact]:
    """Yield which weights of a comparison are packed, in which formats, which are left in float, and which are lost."""
    packed, left, is_candidate = _by_packing(run)
    if not packed:
        return
    left = [row for row in left if len(row.source.shape) > 1]
    lost = [row for row in run.skipped if row.is_failure and len(row.source.shape) > 1]
    formats = Counter(row.packing.storage.format for row in packed if row.packing is not None)
    bits = sum(row.stored_bits or 0 for row in packed) / max(sum(row.num_elements for row in packed), 1)
    names = ", ".join(quote(name) for name, _ in formats.most_common())
    where = "" if is_candidate else " of the reference"
    yield (
        "packed",
        (
            f"{len(packed):,} of {counted(len(packed) + len(left) + len(lost), 'weight')}{where}: {names}, "
            f"{metric_text('bits_per_weight', bits)} bits per weight{_sqnr_of(packed)}"
        ),
    )
    known = [row.packing for row in packed if row.packing and row.packing.is_idempotent is not None]
    if known:
        kept = [packing.storage.grid for packing in known if packing.is_idempotent]
        kinds = {f"int{grid.bits}, groups of {grid.block[1]}, symmetric" for grid in kept}
        kind = f"{kinds.pop()}: " if len(kinds) == 1 else ""
        yield (
            "again",
            f"{kind}{len(kept):,} of {counted(len(known), 'weight')} unchanged if rounded to their grid again",
        )
    if left:
        yield "left in float", few([row.source.name for row in left], quote)
    if lost:
        yield "not compared", few([row.source.name for row in lost], quote)


def _by_packing(run: RunResult) -> tuple[list[TensorResult], list[TensorResult], bool]:
    """Return the weights that are packed, those in float, and True if that is the candidate's state.

    The reference's where nothing of the candidate is packed.
    """
    rows = list(run.quantized)
    is_candidate = any(row.packing is not None and row.packing.is_candidate for row in rows)
    packed = [row for row in rows if row.packing is not None and row.packing.is_candidate == is_candidate]
    left = [row for row in rows if row.packing is None or row.packing.is_candidate != is_candidate]
    return packed, left, is_candidate


def _sqnr_of(rows: Sequence[TensorResult]) -> str:
    """Return the SQNR of some rows, where it is a number."""
    value = METRICS[DEFAULT_SORT].value(ErrorSums.total(row.sums for row in rows))
    return "" if value is None else f", {metric_text(DEFAULT_SORT, value)} dB"


def _slips(run: RunResult, quote: Quote) -> Iterator[str]:
    """Yield the slips of writers and readers that explain a low SQNR, each with its weights."""
    found: dict[str, list[TensorResult]] = {}
    for row in run.quantized:
        if row.packing is not None and row.packing.slip is not None:
            found.setdefault(row.packing.slip, []).append(row)
    for slip, rows in found.items():
        after = [row.packing.slip_sqnr_db for row in rows if row.packing and row.packing.slip_sqnr_db is not None]
        undone = f"; {metric_text('sqnr_db', min(after))} dB or more once that is undone" if after else ""
        yield f"{_names(rows, quote)}: {quote(slip)}{undone}"


def _half_packed(run: RunResult, quote: Quote) -> Iterator[str]:
    """Yield the weights that are left in float though others of their kind, in other layers, are packed."""
    packed, left, _ = _by_packing(run)
    kinds = {kind_of(row.source.name) for row in packed}
    left = [row for row in left if kind_of(row.source.name) in kinds]
    if left:
        yield f"{_names(left, quote)}: left in float, though others of the kind are packed"


def _standing_out(run: RunResult, sort: str, quote: Quote) -> Iterator[Fact]:
    """Yield the tensor of the lowest SQNR, the one with the largest error share, and the worst by another metric."""
    if len(list(islice(run.quantized, 2))) < 2:
        return
    if (lowest := worst(run, DEFAULT_SORT)).stats[DEFAULT_SORT] is not None:
        yield LOWEST, f"{quote(lowest.source.name)}, {row_text(DEFAULT_SORT, lowest)} dB"
    if (largest := worst(run, BY_SHARE)).stats[BY_SHARE] is not None:
        yield LARGEST, f"{quote(largest.source.name)}, {row_text(BY_SHARE, largest)} of the squared error"
    if sort not in (DEFAULT_SORT, BY_SHARE, BY_NAME, BY_SIZE):
        found = worst(run, sort)
        yield WORST, f"{quote(found.source.name)}, {_verdict(found, sort)}"


def warnings(run: RunResult, quote: Quote) -> Iterator[str]:
    """Yield reasons to doubt the numbers, with remedies."""
    yield from (note_text(note, quote) for note in run.notes if note.is_warning)
    failed: dict[str, list[str]] = {}
    for row in run.skipped:
        if row.is_failure:
            failed.setdefault(row.reason, []).append(row.source.name)
    for reason, names in failed.items():
        yield f"not measured: {few(names, quote)}: {quote(reason)}"
    yield from _slips(run, quote)
    if rows := _with_some(run, "num_nonfinite"):
        measured = [row for row in rows if row.spec is not None and not row.spec.is_range_given]
        count = sum(row.sums.num_nonfinite for row in rows)
        advice = ". An infinity also spoils the range of its slice: give one (--input-min and --input-max, or --ranges)"
        yield (
            f"the input has {counted(count, 'NaN or infinite element')}, in {_names(rows, quote)}; "
            f"left out of all other figures{advice if measured else ''}"
        )
    if rows := _with_some(run, "num_nonfinite_output"):
        yield (
            f"quantization made {counted(run.sums.num_nonfinite_output, 'finite element')} NaN or infinite, in "
            f"{_names(rows, quote)}; left out of all other figures. The output is not usable there"
        )
    if rows := [row for row in run.quantized if row.num_spoilt_slices]:
        yield (
            f"{counted(sum(row.num_spoilt_slices for row in rows), 'degenerate slice')} (a tensor, channel or group "
            f"whose scale is 0, infinite or out of range), in {_names(rows, quote)}; {_ways_out(rows)}"
        )


def _ways_out(rows: Sequence[TensorResult]) -> str:
    """Return remedies for tensors with degenerate slices that are not set for all of them already."""
    specs = [row.spec for row in rows if row.spec is not None]
    ways = [
        *(["--signed-input"] if any(not spec.signed_input for spec in specs) else []),
        *(["more bits"] if any(spec.num_bits < _MANY_BITS for spec in specs) else []),
        *(["a given range"] if any(not spec.range_given for spec in specs) else []),
    ]
    tried = f"try {' or '.join(ways)}, or " if ways else ""
    return f"{tried}leave the tensor in float with --exclude"


def input_notes(run: RunResult, quote: Quote) -> Iterator[str]:
    """Yield further notes on the inputs."""
    yield from (note_text(note, quote) for note in run.notes if not note.is_warning)


def note_text(note: Note, quote: Quote) -> str:
    """Return a note on an input, with its file."""
    return f"{quote(note.file)}: {note.text(quote)}"


def notes(run: RunResult, quote: Quote) -> Iterator[str]:
    """Yield results that the user may not have intended."""
    yield from _half_packed(run, quote)
    if rows := [row for row in run.quantized if row.num_zero_slices]:
        total, zero = sum(row.num_slices for row in rows), sum(row.num_zero_slices for row in rows)
        one = zero == 1
        yield (
            f"{zero:,} of {counted(total, 'slice')} (tensor, channel or group) {'is' if one else 'are'} all zero and "
            f"{'stays' if one else 'stay'} so, in {_names(rows, quote)}"
        )
    yield from short_groups(((row.source, row.spec) for row in run.quantized), quote)


def short_groups(tensors: Iterable[tuple[Source, QuantSpec | None]], quote: Quote) -> Iterator[str]:
    """Yield a note on tensors whose last dimension is shorter than a group, such as the kernels of a convolution."""
    found = [
        (source.name, size, spec.group_size)
        for source, spec in tensors
        if spec is not None
        and spec.group_size is not None
        and (size := group_size_in(source.shape, spec.group_size)) < spec.group_size
    ]
    if found:
        names, sizes, asked = zip(*found, strict=True)
        yield (
            f"groups of {_listed(sorted({*sizes}))} elements, not {_listed(sorted({*asked}))}, in {few(names, quote)}: "
            "groups end with the last dimension"
        )


def _listed(numbers: Sequence[int]) -> str:
    shown = [f"{number:,}" for number in numbers[:_NAMES_SHOWN]]
    return " or ".join(shown) + (" ..." if len(numbers) > _NAMES_SHOWN else "")


def hidden(count: int) -> Iterator[str]:
    """Yield a line on the rows that `--top` left out."""
    if count:
        yield f"… and {count:,} more (--top 0 shows all)"


def few(names: Sequence[str], quote: Quote) -> str:
    """Return the first names, and the number of the rest."""
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
