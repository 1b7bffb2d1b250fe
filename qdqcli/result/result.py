"""What a run found: one row per tensor and a summary, and their JSON (INTERFACE section 5, schema_version 1)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple, Protocol

from qdqcli import __version__
from qdqcli.op.spec import QuantSpec
from qdqcli.result.histogram import Histograms, histograms_to_json
from qdqcli.result.verdict import Verdict, verdict_to_json
from qdqcli.result.verification import Verification, verification_to_json
from qdqcli.stats.metrics import METRICS, MetricValue, is_exact, is_unchanged
from qdqcli.stats.sums import ErrorSums, expansion, value_of
from qdqcli.tensors.note import Note, note_to_json

SCHEMA_VERSION = 1
STATS = (*METRICS, "bits_per_weight")
"""The metrics of a tensor and of all of them, in order."""
ROW_STATS = (*STATS, "share")
"""The keys of a row's `stats`, in order."""


class Source(NamedTuple):
    """Which tensor a row speaks of."""

    name: str
    file: str
    """The shard, as the user would find it: INPUT and the file's name in it."""
    dtype: str
    shape: tuple[int, ...]


class _Measured(NamedTuple):
    source: Source
    spec: QuantSpec | None
    """None where two tensors were compared: nothing is known of how one became the other."""
    input_min: float | None
    """The range that set the grid, before the op adjusts it: the hull, where there are several. None: no number."""
    input_max: float | None
    num_slices: int
    """Ranges in the tensor: 1, its channels or its groups."""
    scale_bits: int
    """Storage bits of one range's scale."""
    sums: ErrorSums
    candidate: Source | None = None
    """The tensor that `source` was compared with."""
    channels: Mapping[str, Sequence[MetricValue]] | None = None
    """Per slice, by metric, where it was asked for."""
    histograms: Histograms | None = None
    """Of the elements and of their errors, where it was asked for."""
    reported: Mapping[str, MetricValue] | None = None
    """`stats` as an earlier report has them; `sums` then holds counts and extremes alone."""
    decided_by: Mapping[str, str] | None = None
    """Setting -> which table of a recipe decided it, where there was a recipe."""
    share: float | None = None
    """Part of the run's summed squared error, see `with_shares`."""
    num_zero_slices: int = 0
    """Degenerate slices that are all zero, and stay so."""


class TensorResult(_Measured):
    """A tensor that was quantized, or compared with another, and measured.

    A tuple, as `ErrorSums`; what is computed from it is kept beside it.
    """

    @property
    def name(self) -> str:
        """The tensor's."""
        return self.source.name

    @property
    def num_elements(self) -> int:
        return self.sums.num_elements

    @property
    def stored_bits(self) -> int | None:
        """Storage bits of all codes and scales; None where they are not known."""
        if self.spec is None:
            return None
        return self.spec.num_bits * self.sums.num_elements + self.num_slices * self.scale_bits

    @property
    def bits_per_weight(self) -> float | None:
        """Storage bits per element, one scale per range included."""
        if not self.sums.num_elements or self.spec is None:
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
        """Degenerate slices that are not all zero."""
        return self.sums.num_degenerate - self.num_zero_slices

    @property
    def is_exact(self) -> bool:
        """Whether no measured element changed: SQNR has no number then."""
        return is_exact(self.sums)

    @property
    def is_unchanged(self) -> bool:
        """Whether no element changed at all: exact, and no element that was finite is not any more."""
        return is_unchanged(self.sums)


class SkippedTensor(NamedTuple):
    """A tensor that was left as it is, and why."""

    source: Source
    num_elements: int
    reason: str
    is_failure: bool = False
    """It should have been measured and could not be: a budget does not let it pass."""
    is_selected: bool = False
    """It would have been measured, but for its dtype: a budget may ask for it."""
    decided_by: Mapping[str, str] | None = None
    """What of a recipe leaves it as it is, where there was a recipe."""

    @property
    def name(self) -> str:
        """The tensor's."""
        return self.source.name


Row = TensorResult | SkippedTensor


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Everything a report needs."""

    command: str
    inputs: Sequence[str]
    settings: Mapping[str, Any]
    """The options that decide the result, JSON values."""
    rows: Sequence[Row]
    """In the order of the inputs, their files and the data in them."""
    notes: Sequence[Note] = ()
    """What a user should know of the inputs."""
    verdict: Verdict | None = None
    """Where a budget was given."""
    device: str | None = None
    """What computed it, if it was not the CPU; the figures are the same."""
    verification: Verification | None = None
    """Where the output was read back."""
    reported: Mapping[str, MetricValue] | None = None
    """`summary` as an earlier report has it."""
    reported_inputs: Mapping[str, Mapping[str, MetricValue]] | None = None
    """The figures of each input of several, as an earlier report has them."""
    version: str = __version__
    """Of the program that measured."""

    @property
    def quantized(self) -> Iterator[TensorResult]:
        return (row for row in self.rows if isinstance(row, TensorResult))

    @property
    def skipped(self) -> Iterator[SkippedTensor]:
        return (row for row in self.rows if isinstance(row, SkippedTensor))

    @cached_property
    def sums(self) -> ErrorSums:
        """Over all quantized elements."""
        return ErrorSums.total(row.sums for row in self.quantized)

    @property
    def is_exact(self) -> bool:
        """Whether no measured element changed."""
        return is_exact(self.sums)

    @property
    def is_unchanged(self) -> bool:
        """Whether no element changed at all, and no tensor failed to be measured."""
        is_failed = any(row.is_failure for row in self.skipped)
        return is_unchanged(self.sums) and not is_failed

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


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """The rows with the part that each has in the summed squared error of all; None where nothing was lost."""
    errors = [row.sums.sq_error for row in rows if isinstance(row, TensorResult)]
    total = value_of(expansion([part for error in errors for part in error]))
    return [
        row._replace(share=_share(value_of(row.sums.sq_error), total)) if isinstance(row, TensorResult) else row
        for row in rows
    ]


def _share(error: float, total: float) -> float | None:
    return error / total if total and isfinite(total) else None


def _known(metrics: dict[str, MetricValue], spec: QuantSpec | None) -> dict[str, MetricValue]:
    """Without a grid nothing is known of its range."""
    return metrics if spec is not None else metrics | {"clipped_fraction": None}


def evaluate(sums: ErrorSums) -> dict[str, MetricValue]:
    """Every metric of `sums`, by name."""
    return {name: metric.value(sums) for name, metric in METRICS.items()}


def to_json(run: RunResult) -> dict[str, Any]:
    """The report as JSON values: the same for two runs on the same input."""
    return (
        header_to_json(run, run.version)
        | {
            "summary": summary_to_json(run),
            "tensors": [row_to_json(row) for row in run.rows],
        }
        | judged_to_json(run)
    )


def judged_to_json(run: RunResult) -> dict[str, Any]:
    """The keys `by_input`, `run` (which alone may differ between two runs), `verification`, `verdict`, if there."""
    from qdqcli.result.group import groups_by  # imported late: it groups rows of this file

    groups = groups_by(run, "input") if len(run.inputs) > 1 else []
    by_input = [{"input": group.name, "stats": dict(group.stats)} for group in groups]
    computed = {} if run.device is None else {"run": {"device": run.device}}
    verification = {} if run.verification is None else {"verification": verification_to_json(run.verification)}
    inputs = {"by_input": by_input} if len(by_input) > 1 else {}
    return inputs | computed | verification | ({} if run.verdict is None else {"verdict": verdict_to_json(run.verdict)})


def summary_to_json(run: RunResult) -> dict[str, Any]:
    """The summary, with `exact` where no element changed."""
    return dict(run.summary) | ({"exact": True} if run.is_unchanged else {})


def row_to_json(row: Row) -> dict[str, Any]:
    """One entry of `tensors`."""
    head = {
        "name": row.source.name,
        "file": row.source.file,
        "dtype": row.source.dtype,
        "shape": list(row.source.shape),
    }
    decided_by = {} if row.decided_by is None else {"decided_by": dict(row.decided_by)}
    if isinstance(row, SkippedTensor):
        status = {"status": "failed" if row.is_failure else "skipped", "reason": row.reason}
        return head | status | ({"selected": True} if row.is_selected else {}) | decided_by
    body = {
        "status": "quantized",
        "spec": None if row.spec is None else spec_to_json(row.spec),
        "range": range_to_json(row.input_min, row.input_max),
        "stats": dict(row.stats) | ({"exact": True} if row.is_unchanged else {}),
    }
    if row.candidate is not None:
        other = row.candidate
        body["candidate"] = {"name": other.name, "file": other.file, "dtype": other.dtype}
    zeros = {"num_zero_slices": row.num_zero_slices} if row.num_zero_slices else {}
    channels = {} if row.channels is None else {"channels": {name: list(v) for name, v in row.channels.items()}}
    histograms = {} if row.histograms is None else {"histograms": histograms_to_json(row.histograms)}
    return head | body | zeros | decided_by | histograms | channels


class Headed(Protocol):
    """What every report in JSON begins with: of a run, of a listing."""

    @property
    def command(self) -> str: ...

    @property
    def inputs(self) -> Sequence[str]: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def notes(self) -> Sequence[Note]: ...


def header_to_json(run: Headed, version: str = __version__) -> dict[str, Any]:
    """What stands before the summary and the rows; a setting that is no finite number is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "qdq", "version": version},
        "command": run.command,
        "inputs": list(run.inputs),
        "settings": {name: _finite(v) if isinstance(v, float) else v for name, v in run.settings.items()},
        "notes": [note_to_json(note) for note in run.notes],
    }


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


def range_to_json(low: float | None, high: float | None) -> dict[str, Any]:
    """The key `range`; an end that is no finite number is null."""
    return {"input_min": _finite(low), "input_max": _finite(high)}


def spec_to_json(spec: QuantSpec) -> dict[str, Any]:
    """The attributes under the op's names."""
    return {
        "signed_input": spec.signed_input,
        "num_bits": spec.num_bits,
        "range_given": spec.is_range_given,
        "round_mode": str(spec.round_mode),
        "narrow_range": spec.narrow_range,
        "axis": spec.axis,
        "group_size": spec.group_size,
        "compute_dtype": str(spec.compute_dtype),
        "estimator": spec.estimator,
        "percentile": spec.percentile if spec.estimator == "percentile" else None,
    }
