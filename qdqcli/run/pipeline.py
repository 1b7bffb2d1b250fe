"""Many tensors: checkpoints and a recipe become rows of a report and, where asked for, an output."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from qdqcli.op.spec import QuantSpec
from qdqcli.run.plan import Plan, source_of
from qdqcli.run.quantize import Measurement, TensorJob, quantize_tensor
from qdqcli.run.recipe import Decision, Skip
from qdqcli.run.result import Row, RunResult, SkippedTensor, Source, TensorResult, evaluate
from qdqcli.run.workers import Workers
from qdqcli.stats.metrics import MetricValue
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.message import show_path
from qdqcli.tensors.output import OutputTree
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured, and with which range."""

    given_range: tuple[float, float] | None = None
    per_slice: bool = False
    scale_bits: int = 16
    on_bytes: Callable[[int], None] = lambda _: None
    """Told of the bytes of finished tensors, or parts of them, from any thread."""


def run_plans(
    plans: Sequence[Plan], measuring: Measuring, workers: Workers, output: OutputTree | None = None
) -> list[Row]:
    """Do what the plans say; with an output, its shards are written, each whole, and side files copied.

    Raises:
        QdqError: what failed, with the file; the caller's output tree removes what was built.
    """
    rows = [row for plan in plans for row in _run_plan(plan, measuring, workers, output)]
    if output is not None:
        output.copy_side_files(workers.interruption.check)
    return rows


def result_of(command: str, plans: Sequence[Plan], settings: Mapping[str, Any], rows: Sequence[Row]) -> RunResult:
    """The rows under the names of their inputs."""
    inputs = list(dict.fromkeys(show_path(plan.checkpoint.path) for plan in plans))
    return RunResult(command=command, inputs=inputs, settings=settings, rows=rows)


def _run_plan(plan: Plan, measuring: Measuring, workers: Workers, output: OutputTree | None) -> list[Row]:
    with ExitStack() as undo:
        reader = undo.enter_context(plan.shard.open())
        writer = None if output is None else output.create(plan.checkpoint, plan.shard, reader)
        if writer is not None:
            undo.callback(writer.abort)
        rows = [
            _run_tensor(plan, tensor, decision, measuring, workers, reader, writer) for tensor, decision in plan.tensors
        ]
        reader.close()  # notices an input that changed meanwhile, before the output counts
        if writer is not None:
            writer.commit()
        return rows


def _run_tensor(
    plan: Plan,
    tensor: TensorInfo,
    decision: Decision,
    measuring: Measuring,
    workers: Workers,
    reader: ShardReader,
    writer: ShardWriter | None,
) -> Row:
    workers.interruption.check()
    source = source_of(plan.checkpoint, tensor)
    if isinstance(decision, Skip):
        if writer is not None:
            writer.copy(tensor)
        measuring.on_bytes(tensor.nbytes)
        return SkippedTensor(source=source, num_elements=tensor.num_elements, reason=decision.reason)
    job = TensorJob(
        info=tensor,
        spec=decision,
        given_range=measuring.given_range,
        per_slice=measuring.per_slice,
        reader=reader,
        writer=writer,
        on_bytes=measuring.on_bytes,
    )
    return _row(source, decision, quantize_tensor(job, workers), measuring)


def _row(source: Source, spec: QuantSpec, measured: Measurement, measuring: Measuring) -> TensorResult:
    slices = measured.slice_sums if measured.slice_sums is not None else [measured.sums]
    return TensorResult(
        source=source,
        spec=spec,
        input_min=measured.input_min,
        input_max=measured.input_max,
        num_slices=measured.num_slices,
        scale_bits=measuring.scale_bits,
        sums=measured.sums,
        channels=_by_metric(slices) if measuring.per_slice else None,
    )


def _by_metric(slices: Sequence[ErrorSums]) -> dict[str, list[MetricValue]]:
    rows = [evaluate(sums) for sums in slices]
    return {name: [row[name] for row in rows] for name in evaluate(ErrorSums())}
