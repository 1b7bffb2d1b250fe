"""Work of the measuring commands, for the command line and for Python. Prints nothing and reads no environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.measure.blocks import QPARAM_BYTES, SUMS_BYTES, check_slices
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.file import read_ranges
from qdqcli.recipe.file_ref import keys_of, split_pattern
from qdqcli.recipe.patterns import Holders, holders_of, listed, nearest_names
from qdqcli.recipe.plan import Plan, inputs_of, notes_of, settings_of, with_decisions
from qdqcli.recipe.request import Request
from qdqcli.result.result import Row, RunResult, with_shares
from qdqcli.run.count import with_histograms
from qdqcli.run.pipeline import Measuring, Ranges, ShardJob

if TYPE_CHECKING:  # 3 ms, for clusters alone
    from qdqcli.run.distribute import Distribution


@dataclass(frozen=True, kw_only=True)
class Job:
    """A measuring command on planned inputs."""

    command: str
    plans: Sequence[Plan]
    request: Request
    """Recipe and settings; a report names them."""
    measuring: Measuring
    has_histograms: bool = False
    distribution: "Distribution | None" = None
    """Where shards run; None: here."""


def ranges_of(plans: Sequence[Plan], file: Path, *, allow_unmatched: bool) -> tuple[Ranges, list[str]]:
    """Return the ranges of a file for `--ranges`, and warnings.

    Raises:
        UsageError: the ranges do not fit the tensors, see `check_ranges`.
    """
    ranges = read_ranges(file)
    return ranges, check_ranges(plans, ranges, show_path(file), allow_unmatched=allow_unmatched)


def measure_plans(
    plans: Sequence[Plan], measuring: Measuring, workers: Workers, distribution: "Distribution | None" = None
) -> list[Row]:
    """Measure every selected tensor and write nothing: here, where all workers share a shard, or on a cluster."""
    check_memory(plans, measuring, workers)
    if distribution is not None:
        return distribution.run_shards(plans, measuring)
    rows: list[Row] = []
    for plan in plans:
        with plan.shard.open() as reader:
            rows += ShardJob(plan=plan, measuring=measuring, workers=workers, reader=reader).run()
        workers.interruption.check()
    return rows


def check_memory(plans: Sequence[Plan], measuring: Measuring, workers: Workers) -> None:
    """Refuse tensors that do not fit into memory, before any work; checks the most demanding first."""
    surely_fits = workers.max_memory // (QPARAM_BYTES + SUMS_BYTES)  # bytes: as many slices as there are elements
    kinds = {
        (tensor.shape, tensor.dtype.name, tensor.fortran_order, id(decision)): (tensor, decision)
        for plan in plans
        for tensor, decision in plan.tensors
        if tensor.nbytes > surely_fits and isinstance(decision, QuantSpec)
    }
    layouts = [(tensor, layout_of(tensor, spec)) for tensor, spec in kinds.values()]
    for tensor, layout in sorted(layouts, key=lambda found: -found[1].num_slices):
        check_slices(tensor, layout, workers, per_slice=measuring.per_slice)


def result_of_job(job: Job, rows: Sequence[Row], workers: Workers) -> RunResult:
    """Return the result for a report: rows with histograms and deciding tables, where requested."""
    if job.has_histograms:
        rows = list(with_histograms(job.plans, rows, job.measuring, workers))
    if job.request.has_recipe:
        rows = with_decisions(job.plans, rows)
    device = None if workers.backend.name == "cpu" else workers.backend.name
    return result_of(job.command, job.plans, job.request.settings, rows, device)


def result_of(
    command: str, plans: Sequence[Plan], settings: Mapping[str, object], rows: Sequence[Row], device: str | None = None
) -> RunResult:
    """Return the rows as a RunResult under the names of their inputs."""
    return RunResult(
        command=command,
        inputs=inputs_of(plans),
        settings=settings_of(plans, settings),
        rows=with_shares(rows),
        notes=notes_of(plans),
        device=device,
    )


def check_ranges(plans: Sequence[Plan], ranges: Ranges, source: str, *, allow_unmatched: bool) -> list[str]:
    """Check that the ranges of the file `source` and the quantized tensors match; returns warnings.

    Raises:
        UsageError: a quantized tensor has no range or another number of slices; a range belongs to no tensor (a warning
            with `allow_unmatched`).
    """
    holders = holders_of((tensor.name, plan.file) for plan in plans for tensor in plan.shard.tensors)
    quantized = [
        (tensor, spec, next((key for key in keys_of(tensor.name, plan.file) if key in ranges), None))
        for plan in plans
        for tensor, spec in plan.tensors
        if isinstance(spec, QuantSpec) and spec.range_given and spec.given_range is None
    ]
    missing = [tensor.name for tensor, _, key in quantized if key is None]
    if missing:
        raise UsageError(
            f"{source}: no range for {listed(missing)}{nearest_names(missing[0], ranges)}; add one, or --exclude the "
            "tensor"
        )
    used: set[str] = set()
    for tensor, spec, key in quantized:
        assert key is not None
        used.add(key)
        slices = layout_of(tensor, spec).num_ranges
        given = np.size(ranges[key][0])
        if np.ndim(ranges[key][0]) and given != slices:
            raise UsageError(
                f"{source}: {listed([key])} has {given} ranges there and {slices} with these settings; "
                "--axis and --group-size must be those that the ranges are for"
            )
    notes = []
    idle = [key for key in ranges if key not in used]
    unknown = [key for key in idle if not _is_key(key, holders)]
    if unknown:
        notes.append(f"{source}: ranges for {listed(unknown)}, which no input has{nearest_names(unknown[0], holders)}")
        if not allow_unmatched:
            raise UsageError(f"{notes[0]}; --allow-unmatched makes this a warning")
    idle = [key for key in idle if _is_key(key, holders)]
    if idle:
        notes.append(f"{source}: ranges for {listed(idle)} are not used: nothing is quantized with them")
    return notes


def _is_key(key: str, holders: Holders) -> bool:
    """Tell whether the key of a ranges file names an existing tensor."""
    file, name = split_pattern(key)
    return key in holders or any(file == spelling for holder in holders.get(name, ()) for spelling in holder.spellings)
