"""Groups of tensors (by kind, layer or input), reported as one row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan

from qdqcli.errors import UsageError
from qdqcli.result.result import InputRun, RunResult, Source, Summed, TensorResult, evaluate, total_of, with_shares
from qdqcli.result.verification import Verification
from qdqcli.stats.metrics import MetricValue
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.note import Note


@dataclass(frozen=True, kw_only=True)
class Group(Summed):
    """Tensors that are reported in one row."""

    name: str
    rows: Sequence[TensorResult]
    reported: Mapping[str, MetricValue] | None = None
    """`stats` read from an earlier report; sums then hold only counts and extremes."""

    @cached_property
    def sums(self) -> ErrorSums:
        """Sums over the elements of its tensors, see `total_of`; of an earlier report's, see `_restored`."""
        return total_of([row if row.reported is None else row._replace(sums=_restored(row)) for row in self.rows])

    @cached_property
    def stats(self) -> Mapping[str, MetricValue]:
        """Metric name -> value over all its elements, in the order of `ROW_STATS`."""
        if self.reported is not None:
            return self.reported
        metrics = evaluate(self.sums)
        bits = [row.stored_bits for row in self.rows]
        known = [number for number in bits if number is not None]
        shares = [row.share for row in self.rows if row.share is not None]
        if len(known) < len(bits):  # compared, not quantized: the grid is unknown
            metrics["clipped_fraction"] = None
        has_bits = self.num_elements and len(known) == len(bits)
        return metrics | {
            "bits_per_weight": sum(known) / self.num_elements if has_bits else None,
            "share": sum(shares) if shares else None,
        }

    @property
    def num_slices(self) -> int:
        """Number of ranges in all of its tensors."""
        return sum(row.num_slices for row in self.rows)

    @property
    def num_spoilt_slices(self) -> int:
        """Number of degenerate slices that are not all zero."""
        return sum(row.num_spoilt_slices for row in self.rows)


def _restored(row: TensorResult) -> ErrorSums:
    """Return a row's sums from its metrics in an earlier report, but for rounding; NaN where those do not tell one."""
    stats, n = row.stats, row.sums.num_measured
    sq_error, ratio = _times(stats["mse"], n), stats["relative_l2"]
    return row.sums._replace(
        error=(_times(stats["mean_error"], n),),
        abs_error=(_times(stats["mean_abs_error"], n),),
        sq_error=(sq_error,),
        sq_input=(sq_error / ratio / ratio if ratio else nan if n else 0.0,),
        sq_output=(nan if n else 0.0,),
        num_clipped=round(n * (stats["clipped_fraction"] or 0)),
        num_zeroed=round(n * (stats["zeroed_fraction"] or 0)),
    )


def _times(mean: MetricValue, count: int) -> float:
    return nan if mean is None and count else (mean or 0.0) * count


def kind_of(name: str) -> str:
    """Replace each numeric component by a star: `encoder.layer.*.output.dense.weight`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def layer_of(name: str) -> str:
    """Return the name up to its first number (`encoder.layer.3`), else the module that holds the tensor."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1]) or name


def groups_by(run: RunResult, by: str) -> list[Group]:
    """Group the quantized tensors, in the order of each group's first tensor; `by` is one of `BY`."""
    group_of = naming(by, run.inputs)
    found: dict[str, list[TensorResult]] = {}
    for row in run.quantized:
        found.setdefault(group_of(row.source), []).append(row)
    known = (run.reported_inputs or {}) if by == "input" else {}
    return [Group(name=name, rows=rows, reported=known.get(name)) for name, rows in found.items()]


def naming(by: str, inputs: Sequence[str]) -> Callable[[Source], str]:
    """Return the function from a tensor to its group's name; `by` is one of `BY`."""
    return _BY[by](inputs)


def part_of(run: RunResult, own: str) -> RunResult:
    """Return the run restricted to one input: its rows, notes and violations, with its own figures and shares.

    Raises:
        UsageError: the run was read from a report, which lacks per-input figures.
    """
    if run.reported is not None:
        raise UsageError("an earlier report is shown as a whole; measure again for a report of each input")
    input_of = _input_of(run.inputs)

    def belongs(file: str | None) -> bool:
        return file is not None and input_of(Source(name="", file=file, dtype="", shape=())) == own

    verdict = run.verdict
    if verdict is not None:
        verdict = replace(
            verdict,
            violations=[violation for violation in verdict.violations if belongs(violation.file)],
            waived=[violation for violation in verdict.waived if belongs(violation.file)],
            nearest=None,
        )
    return replace(
        run,
        inputs=[own],
        rows=with_shares([row for row in run.rows if belongs(row.source.file)]),
        notes=[note for note in run.notes if belongs(note.file)],
        input_runs=(),
        verdict=verdict,
    )


def merged(runs: Sequence[RunResult], inputs: Sequence[InputRun], failures: Sequence[Note]) -> RunResult:
    """Return the results of inputs that were worked on one by one as one result; the inverse of `part_of`.

    `failures` are notes on the inputs without a result; there must be a result.
    """
    first = runs[0]
    verified = [run.verification for run in runs if run.verification is not None]
    digests = {name: digest for one in verified for name, digest in one.digests.items()}
    min_ndims = {run.settings.get("min_ndim") for run in runs}
    return replace(
        first,
        inputs=[own.name for own in inputs],
        settings={**first.settings, "min_ndim": first.settings.get("min_ndim") if len(min_ndims) == 1 else None},
        rows=with_shares([row for run in runs for row in run.rows]),
        notes=[*failures, *(note for run in runs for note in run.notes)],
        verification=Verification(
            num_bytes=sum(one.num_bytes for one in verified),
            digests=digests,
            num_opened_by_safetensors=sum(one.num_opened_by_safetensors for one in verified),
        )
        if verified
        else None,
        input_runs=inputs,
    )


def _input_of(inputs: Sequence[str]) -> Callable[[Source], str]:
    longest_first = sorted(inputs, key=len, reverse=True)

    def input_of(source: Source) -> str:
        file = source.file
        return next((name for name in longest_first if file == name or file.startswith(name.rstrip("/") + "/")), file)

    return input_of


_BY: Mapping[str, Callable[[Sequence[str]], Callable[[Source], str]]] = {
    "kind": lambda _: lambda source: kind_of(source.name),
    "layer": lambda _: lambda source: layer_of(source.name),
    "input": _input_of,
}
BY = tuple(_BY)
"""Grouping criteria for tensors."""
