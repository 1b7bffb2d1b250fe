"""Result of a run: one row per tensor and a summary, and their JSON (INTERFACE section 5, schema_version 1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import NamedTuple

from qdqcli import __version__
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import JsonObject
from qdqcli.result.histogram import Histograms, histograms_to_json
from qdqcli.result.packing import Packing, packing_to_json
from qdqcli.result.verdict import Verdict, verdict_to_json
from qdqcli.result.verification import Verification, verification_to_json
from qdqcli.stats.metrics import METRICS, MetricValue, is_exact, is_unchanged
from qdqcli.stats.sums import ErrorSums, expansion, value_of
from qdqcli.tensors.note import Note, note_to_json

SCHEMA_VERSION = 1
STATS = (*METRICS, "bits_per_weight")
"""Metrics of a tensor and of the whole run, in order."""
ROW_STATS = (*STATS, "share")
"""Keys of a row's `stats`, in order."""


class Source(NamedTuple):
    """The tensor that a row describes."""

    name: str
    file: str
    """The shard's path as the user knows it: INPUT and the file's name in it."""
    dtype: str
    shape: tuple[int, ...]


class Bound(NamedTuple):
    """The limit of a budget that leaves a tensor the smallest margin."""

    metric: str
    limit: float
    margin_db: float | None
    """Distance to the limit in dB, negative beyond it; None where it has no number."""


class Summed:
    """Base of results with error sums: properties that follow from these alone."""

    @property
    def sums(self) -> ErrorSums:
        """The sums; each result has its own."""
        raise NotImplementedError

    @property
    def num_elements(self) -> int:
        return self.sums.num_elements

    @property
    def is_exact(self) -> bool:
        """True if no measured element changed: SQNR is None then."""
        return is_exact(self.sums)

    @property
    def is_unchanged(self) -> bool:
        """True if no element changed: exact, and no finite element became non-finite."""
        return is_unchanged(self.sums)


class _Measured(NamedTuple):
    source: Source
    spec: QuantSpec | None
    """Quantization settings; None for a comparison of two tensors, whose relation is unknown."""
    input_min: float | None
    """Range that sets the grid, before the op adjusts it; the union of several ranges. None: not a finite number."""
    input_max: float | None
    num_slices: int
    """Number of ranges: 1, the channels or the groups."""
    scale_bits: int
    """Storage bits of one range's scale."""
    sums: ErrorSums
    candidate: Source | None = None
    """The tensor that `source` was compared with."""
    channels: Mapping[str, Sequence[MetricValue]] | None = None
    """Per-slice values by metric, if requested."""
    histograms: Histograms | None = None
    """Histograms of elements and errors, if requested."""
    reported: Mapping[str, MetricValue] | None = None
    """`stats` read from an earlier report; `sums` then holds only counts and extremes."""
    decided_by: Mapping[str, str] | None = None
    """Setting -> the recipe table that decided it; None without a recipe."""
    num_zero_slices: int = 0
    """Number of degenerate slices that are all zero and stay so."""
    bound: Bound | None = None
    """The budget's limit on this tensor, if any."""
    baseline_db: float | None = None
    """SQNR in dB in the baseline report; None without one, or without a number."""
    packing: Packing | None = None
    """Findings on a weight that is packed on one side of a comparison, or on both."""
    share: float | None = None
    """Share of the run's summed squared error, see `with_shares`; the last field."""


class InputRun(NamedTuple):
    """One input of a batch whose inputs were worked on one by one."""

    name: str
    num_bytes: int | None
    """Size of its tensors; None where its headers could not be read."""
    seconds: float
    state: str
    """`done`, `finished before`, or `failed`."""


class TensorResult(_Measured, Summed):
    """A tensor that was quantized, or compared with another, and measured.

    A tuple, like `ErrorSums`; derived values are cached in attributes.
    """

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.source.name

    @property
    def stored_bits(self) -> int | None:
        """Storage bits of all codes and scales; None if unknown."""
        if self.packing is not None:
            return 8 * self.packing.storage.nbytes
        if self.spec is None:
            return None
        return self.spec.num_bits * self.sums.num_elements + self.num_slices * self.scale_bits

    @property
    def bits_per_weight(self) -> float | None:
        """Storage bits per element, scales included."""
        if not self.sums.num_elements:
            return None
        if self.packing is not None:
            return 8 * self.packing.storage.nbytes / self.sums.num_elements
        if self.spec is None:
            return None
        return self.spec.num_bits + self.num_slices * self.scale_bits / self.sums.num_elements

    @cached_property
    def stats(self) -> Mapping[str, MetricValue]:
        """Metric name -> value, in the order of `ROW_STATS`."""
        if self.reported is not None:
            return self.reported
        return _known(evaluate(self.sums), self.spec) | {"bits_per_weight": self.bits_per_weight, "share": self.share}

    @property
    def num_spoilt_slices(self) -> int:
        """Number of degenerate slices that are not all zero."""
        return self.sums.num_degenerate - self.num_zero_slices


class SkippedTensor(NamedTuple):
    """A tensor that was not measured, with the reason."""

    source: Source
    num_elements: int
    reason: str
    is_failure: bool = False
    """True if measuring failed: a budget does not pass it."""
    is_selected: bool = False
    """True if selected but skipped for its dtype: a budget may require it."""
    decided_by: Mapping[str, str] | None = None
    """Recipe entries that exclude the tensor; None without a recipe."""

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.source.name


Row = TensorResult | SkippedTensor


@dataclass(frozen=True, kw_only=True)
class Headed:
    """Fields common to every JSON report, of a run or a listing."""

    command: str
    inputs: Sequence[str]
    settings: Mapping[str, object]
    """Options that determine the result, as JSON values."""
    notes: Sequence[Note] = ()
    """Notes on the inputs for the user."""


@dataclass(frozen=True, kw_only=True)
class RunResult(Headed, Summed):
    """All data of a report."""

    rows: Sequence[Row]
    """Rows in the order of inputs, files and data."""
    verdict: Verdict | None = None
    """Verdict, if a budget was given."""
    device: str | None = None
    """Device that computed the result, if not the CPU; the figures are identical."""
    verification: Verification | None = None
    """Verification, if the output was read back."""
    reported: Mapping[str, MetricValue] | None = None
    """`summary` read from an earlier report."""
    reported_inputs: Mapping[str, Mapping[str, MetricValue]] | None = None
    """Figures of each of several inputs, read from an earlier report."""
    input_runs: Sequence[InputRun] = ()
    """Each input, where they were worked on one by one."""
    version: str = __version__
    """Version of the program that measured."""

    @property
    def quantized(self) -> Iterator[TensorResult]:
        return (row for row in self.rows if isinstance(row, TensorResult))

    @property
    def skipped(self) -> Iterator[SkippedTensor]:
        return (row for row in self.rows if isinstance(row, SkippedTensor))

    @cached_property
    def sums(self) -> ErrorSums:
        """Sums over all quantized elements; in a comparison, over the tensors that differ."""
        return total_of(list(self.quantized))

    @property
    def is_unchanged(self) -> bool:
        """True if no element changed and no tensor failed."""
        return super().is_unchanged and not any(row.is_failure for row in self.skipped)

    @cached_property
    def summary(self) -> Mapping[str, MetricValue]:
        """Counts of tensors, then the metrics over all quantized elements."""
        if self.reported is not None:
            return self.reported
        quantized = list(self.quantized)
        counts: dict[str, MetricValue] = {
            "num_tensors": len(self.rows),
            "num_quantized": len(quantized),
            "num_skipped": len(self.rows) - len(quantized),
        }
        bits = [row.stored_bits for row in quantized]
        known = [number for number in bits if number is not None]
        mean_bits = sum(known) / self.sums.num_elements if self.sums.num_elements and len(known) == len(bits) else None
        metrics = _known(evaluate(self.sums), quantized[0].spec) if quantized else evaluate(self.sums)
        return counts | metrics | {"bits_per_weight": mean_bits}


def total_of(rows: Sequence[TensorResult]) -> ErrorSums:
    """Return the sums over all tensors; in a comparison equal ones count only where no tensor differs."""
    differing = [row.sums for row in rows if row.spec is not None or not row.is_unchanged]
    return ErrorSums.total(differing or (row.sums for row in rows))


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Add to each row its share of the total squared error; None if the total is 0 or infinite."""
    total = value_of(expansion([part for row in rows if isinstance(row, TensorResult) for part in row.sums.sq_error]))
    has_shares = bool(total) and isfinite(total)
    return [
        # `_replace` takes twice as long, of the time of a small tensor a tenth.
        TensorResult._make((*row[:-1], value_of(row.sums.sq_error) / total if has_shares else None))
        if isinstance(row, TensorResult)
        else row
        for row in rows
    ]


def _known(metrics: dict[str, MetricValue], spec: QuantSpec | None) -> dict[str, MetricValue]:
    """Set `clipped_fraction` to None without a grid."""
    return metrics if spec is not None else metrics | {"clipped_fraction": None}


def evaluate(sums: ErrorSums) -> dict[str, MetricValue]:
    """Return every metric of `sums`, by name."""
    return {name: metric.value(sums) for name, metric in METRICS.items()}


def to_json(run: RunResult) -> JsonObject:
    """Return the report as JSON values: identical for two runs on the same input."""
    return (
        header_to_json(run, run.version)
        | {
            "summary": summary_to_json(run),
            "tensors": [row_to_json(row) for row in run.rows],
        }
        | judged_to_json(run)
    )


def judged_to_json(run: RunResult) -> dict[str, object]:
    """Return `by_input`, `run` (the only key that may differ between runs), `verification`, `verdict`, if present."""
    from qdqcli.result.group import groups_by  # lazy: `group` imports this file

    groups = groups_by(run, "input") if len(run.inputs) > 1 else []
    by_input = [{"input": group.name, "stats": dict(group.stats)} for group in groups]
    computed: dict[str, object] = {} if run.device is None else {"device": run.device}
    if run.input_runs:
        computed["inputs"] = [own._asdict() for own in run.input_runs]
    computed = {"run": computed} if computed else {}
    verification = {} if run.verification is None else {"verification": verification_to_json(run.verification)}
    inputs = {"by_input": by_input} if len(by_input) > 1 else {}
    return inputs | computed | verification | ({} if run.verdict is None else {"verdict": verdict_to_json(run.verdict)})


def summary_to_json(run: RunResult) -> dict[str, object]:
    """Return the summary, with `exact` if no element changed."""
    return {**run.summary, **({"exact": True} if run.is_unchanged else {})}


def row_to_json(row: Row) -> JsonObject:
    """Return one entry of `tensors`."""
    head = source_to_json(row.source)
    decided_by: dict[str, object] = {} if row.decided_by is None else {"decided_by": dict(row.decided_by)}
    if isinstance(row, SkippedTensor):
        status = {"status": "failed" if row.is_failure else "skipped", "reason": row.reason}
        return {**head, **status, **({"selected": True} if row.is_selected else {}), **decided_by}
    body: dict[str, object] = {
        "status": "quantized",
        "spec": None if row.spec is None else spec_to_json(row.spec),
        "range": range_to_json(row.input_min, row.input_max),
        "stats": dict(row.stats) | ({"exact": True} if row.is_unchanged else {}),
    }
    if row.candidate is not None:
        other = row.candidate
        body["candidate"] = {"name": other.name, "file": other.file, "dtype": other.dtype}
    if row.packing is not None:
        body["packed"] = packing_to_json(row.packing)
    zeros = {"num_zero_slices": row.num_zero_slices} if row.num_zero_slices else {}
    channels = {} if row.channels is None else {"channels": {name: list(v) for name, v in row.channels.items()}}
    histograms = {} if row.histograms is None else {"histograms": histograms_to_json(row.histograms)}
    bound = {} if row.bound is None else {"bound": row.bound._asdict()}
    baseline = {} if row.baseline_db is None else {"baseline": {"sqnr_db": row.baseline_db}}
    return {**head, **body, **zeros, **bound, **baseline, **decided_by, **histograms, **channels}


def source_to_json(source: Source) -> dict[str, object]:
    """Return the keys that tell which tensor an entry of `tensors` is on."""
    return {"name": source.name, "file": source.file, "dtype": source.dtype, "shape": list(source.shape)}


def header_to_json(run: Headed, version: str = __version__) -> JsonObject:
    """Return the keys before the summary and the rows; a non-finite setting is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "qdq", "version": version},
        "command": run.command,
        "inputs": list(run.inputs),
        "settings": {name: finite(v) if isinstance(v, float) else v for name, v in run.settings.items()},
        "notes": [note_to_json(note) for note in run.notes],
    }


def finite(number: float | None) -> float | None:
    """Return the number, or None where it is NaN or infinite, which JSON cannot say."""
    return number if number is not None and isfinite(number) else None


def range_to_json(low: float | None, high: float | None) -> JsonObject:
    """Return the key `range`; a non-finite end is null."""
    return {"input_min": finite(low), "input_max": finite(high)}


def spec_to_json(spec: QuantSpec) -> JsonObject:
    """Return the attributes under the op's names."""
    return {
        "signed_input": spec.signed_input,
        "num_bits": spec.num_bits,
        "range_given": spec.is_range_given,
        "round_mode": str(spec.round_mode),
        "narrow_range": spec.narrow_range,
        "axis": list(spec.axis) if isinstance(spec.axis, tuple) else spec.axis,
        "group_size": spec.group_size,
        "compute_dtype": str(spec.compute_dtype),
        "estimator": spec.estimator,
        "percentile": spec.percentile if spec.estimator == "percentile" else None,
    }
