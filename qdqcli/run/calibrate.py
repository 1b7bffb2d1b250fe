"""Calibration: estimate the ranges of checkpoints into a ranges file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from math import nan
from pathlib import Path

import numpy as np

from qdqcli.measure.blocks import QPARAM_BYTES, check_memory
from qdqcli.measure.estimate import estimate_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import OverallRange
from qdqcli.measure.workers import Workers
from qdqcli.op.params import Floats
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec
from qdqcli.output.tree import working_folder
from qdqcli.ranges.output import RangeEntry, create_ranges
from qdqcli.recipe.decision import Decision
from qdqcli.recipe.file_ref import key_among
from qdqcli.recipe.pairing import entries_of
from qdqcli.recipe.patterns import Holders, holders_of
from qdqcli.recipe.plan import Plan
from qdqcli.run.distribute import Distribution
from qdqcli.run.shard import OnBytes, TaskOnShard, plans_of
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.tensor import TensorInfo

_SMALL_BYTES = 256 << 10
"""Tensors up to this size are estimated one per worker, larger ones by all workers together."""
_SIDE_BY_SIDE = 64
"""Number of small tensors whose ranges are held at once."""

Task = tuple[TensorInfo, QuantSpec]


def calibrate(
    plans: Sequence[Plan],
    path: Path,
    workers: Workers,
    on_bytes: Callable[[int], None] = lambda _: None,
    *,
    overwrite: bool = False,
    distribution: Distribution | None = None,
) -> Mapping[tuple[str, str], OverallRange]:
    """Write the ranges of all tensors to be quantized; returns the overall range by (file, name).

    They are estimated here, or where `distribution` says.

    Where several files have a tensor of one name, its key in the ranges file is FILE#NAME.

    A slice of NaN only gets the range [0, 0]: its output does not depend on the range.

    Raises:
        UsageError: two tensors have the same name and file; ranges of a tensor do not fit into memory, or not into the
            format; the file exists and `overwrite` is false.
        InputError, OutputError: the system refuses.
    """
    by_plan = [(plan, list(_estimated_tensors(plan))) for plan in plans]
    tasks = [task for _, tasks in by_plan for task in tasks]
    for info, layout in sorted(((info, layout_of(info, spec)) for info, spec in tasks), key=lambda t: -t[1].num_slices):
        check_memory(info, layout, workers, QPARAM_BYTES)
    holders = holders_of((entry.name, entry.plan.file) for entry in entries_of(plans))
    entries = [_entry(info, spec, plan, holders) for plan, own in by_plan for info, spec in own]
    remaining = iter(entries)
    overall_ranges: dict[tuple[str, str], OverallRange] = {}
    with ExitStack() as stack:
        writer = stack.enter_context(create_ranges(path, entries, overwrite=overwrite))
        found: Iterator[Iterator[Floats]]
        if distribution is None:
            found = (_estimates_here(plan, own, workers, on_bytes) for plan, own in by_plan)
        else:
            folder = stack.enter_context(working_folder(path))
            found = _estimates_elsewhere(by_plan, folder, distribution, on_bytes)
        for (plan, own), estimates in zip(by_plan, found, strict=True):
            for (info, _), ranges in zip(own, estimates, strict=True):
                writer.write(next(remaining), ranges)
                overall_range = (float(ranges[0].min()), float(ranges[1].max())) if info.num_elements else (nan, nan)
                overall_ranges[plan.file.path, info.name] = overall_range
    return overall_ranges


def _estimates_here(
    plan: Plan, tasks: Sequence[Task], workers: Workers, on_bytes: Callable[[int], None]
) -> Iterator[Floats]:
    """Yield the ranges (2, ranges) of each tensor of a shard."""

    def estimate(task: Task) -> Floats:
        info, spec = task
        layout = layout_of(info, spec)
        if not layout.num_elements:
            return np.zeros((2, layout.num_ranges))
        ranges = estimate_ranges(spec, reader, info, layout, workers)
        return np.where(np.isnan(ranges), 0, ranges)

    with plan.shard.open() as reader:
        for is_small, run in groupby(tasks, lambda task: task[0].nbytes <= _SMALL_BYTES):
            alike = list(run)
            step = _SIDE_BY_SIDE if is_small else 1
            for first in range(0, len(alike), step):
                batch = alike[first : first + step]
                for (info, _), ranges in zip(batch, workers.map(estimate, batch), strict=True):
                    yield ranges
                    on_bytes(info.nbytes)


@dataclass(frozen=True, kw_only=True)
class EstimateTask(TaskOnShard):
    """Decisions on a shard whose ranges are estimated, and the file that gets them."""

    decisions: Sequence[Decision]
    """One decision per tensor."""
    ranges: Path
    """A new file: the ranges (2, ranges) of the tensors one after the other, as float64."""

    def work(self, workers: Workers, on_bytes: OnBytes) -> int:
        """Estimate the ranges into the file; returns its size in bytes."""
        (plan,) = plans_of(self.shard, [self.decisions])
        estimates = _estimates_here(plan, list(_estimated_tensors(plan)), workers, on_bytes)
        write_file(self.ranges, (ranges.astype(np.float64).tobytes() for ranges in estimates))
        return self.ranges.stat().st_size


def _estimates_elsewhere(
    by_plan: Sequence[tuple[Plan, Sequence[Task]]],
    folder: Path,
    distribution: Distribution,
    on_bytes: Callable[[int], None],
) -> Iterator[Iterator[Floats]]:
    """Yield for each shard the ranges of its tensors, once other processes have estimated all."""
    plans = [plan for plan, own in by_plan if own]
    distribution.preflight(plans, folder=folder)
    files = [folder / f"{index}.ranges" for index in range(len(plans))]
    tasks = [
        EstimateTask(shard=ref, decisions=plan.decisions, resources=distribution.resources, ranges=file.absolute())
        for plan, ref, file in zip(plans, distribution.refs(plans), files, strict=True)
    ]

    distribution.collect(tasks, lambda index, _: on_bytes(plans[index].nbytes))
    remaining = iter(files)
    for _, own in by_plan:
        yield _read_estimates(next(remaining), own) if own else iter(())


def _read_estimates(path: Path, tasks: Sequence[Task]) -> Iterator[Floats]:
    with InputFile(path) as file:
        offset = 0
        for info, spec in tasks:
            ranges = np.empty((2, layout_of(info, spec).num_ranges))
            if ranges.size:
                file.read_into(ranges.data, offset)
            offset += ranges.nbytes
            yield ranges


def _estimated_tensors(plan: Plan) -> Iterator[Task]:
    """Yield the tensors whose range is not given."""
    for info, decision in plan.tensors:
        if isinstance(decision, QuantSpec) and not decision.range_given:
            yield info, decision


def _entry(info: TensorInfo, spec: QuantSpec, plan: Plan, holders: Holders) -> RangeEntry:
    is_whole = spec.axis == WHOLE_TENSOR and spec.group_size is None
    return RangeEntry(
        name=key_among(info.name, plan.file, holders[info.name]),
        is_double=info.dtype.name == "F64",
        num_ranges=None if is_whole else layout_of(info, spec).num_ranges,
    )
