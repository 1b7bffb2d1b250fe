"""Gradient of the op for files: masks each gradient by the range of the tensor that was quantized."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_size
from qdqcli.measure.blocks import QPARAM_BYTES, Block, blocks_of, check_memory, read_block, write_block
from qdqcli.measure.estimate import estimate_ranges
from qdqcli.measure.given_range import given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE, Floats, Stored
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.plan import Plan
from qdqcli.result.gradient import GradientSummary
from qdqcli.tensors.checkpoint import Checkpoint, Shard, ShardReader, ShardWriter, copy_tensor
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A gradient tensor and the tensor that was quantized."""

    gradients: TensorInfo
    gradients_reader: ShardReader
    info: TensorInfo
    reader: ShardReader
    spec: QuantSpec
    writer: ShardWriter
    reordered: Stored | None = None
    """All elements of the quantized tensor in the memory order of the gradients, where the orders differ."""


def differentiate(
    plans: Sequence[Plan],
    original: Checkpoint,
    workers: Workers,
    output: OutputTree,
) -> list[GradientSummary]:
    """Write input_backprop, in the layout of the gradients, for each tensor that the plans select.

    A range that is not given is measured on the quantized tensor. The gradients of its bounds are zero and not written.

    Raises:
        UsageError: a selected tensor of the gradients is missing in `original`, or has another dtype or shape there,
            or more ranges than fit into memory, or its elements have another order and do not fit into memory.
    """
    shards = _counterparts(plans, original)
    for plan in plans:
        _check_pairs(plan, shards, workers)
    summaries = [result for plan in plans for result in _run_plan(plan, shards, workers, output)]
    output.copy_side_files(workers.interruption.check)
    return summaries


Shards = dict[str, tuple[Shard, TensorInfo]]


def _counterparts(plans: Sequence[Plan], original: Checkpoint) -> Shards:
    """Map the name of each gradient to the tensor of that name, or to the only tensor where each side has one."""
    shards = {tensor.name: (shard, tensor) for shard in original.shards for tensor in shard.tensors}
    names = [tensor.name for plan in plans for tensor in plan.shard.tensors]
    return dict(zip(names, shards.values(), strict=True)) if len(names) == len(shards) == 1 else shards


def _check_pairs(plan: Plan, shards: Shards, workers: Workers) -> None:
    for tensor, decision in plan.tensors:
        if isinstance(decision, Skip):
            continue
        name = escape_name(tensor.name)
        if tensor.name not in shards:
            raise UsageError(f"'{name}' has gradients, but INPUT has no tensor of that name; --exclude it")
        info = shards[tensor.name][1]
        for what, ours, theirs in (
            ("shape", list(tensor.shape), list(info.shape)),
            ("dtype", tensor.dtype.name, info.dtype.name),
        ):
            if ours != theirs:
                raise UsageError(
                    f"'{name}': gradients have {what} {ours}, INPUT has {theirs}; the op takes gradients of its "
                    f"input's {what}"
                )
        if _is_reordered(tensor, info) and 2 * info.nbytes > workers.max_memory:
            raise UsageError(
                f"'{name}': one of GRADIENTS and INPUT is in Fortran order, and {show_size(2 * info.nbytes)} are "
                "needed to change that; save both in one order, or raise --max-memory"
            )
        check_memory(info, layout_of(info, decision), workers, QPARAM_BYTES)


def _run_plan(plan: Plan, shards: Shards, workers: Workers, output: OutputTree) -> Iterator[GradientSummary]:
    with ExitStack() as undo:
        gradients_reader = undo.enter_context(plan.shard.open())
        writer = output.create(plan.checkpoint, plan.shard, gradients_reader)
        undo.callback(writer.abort)
        readers: dict[str, ShardReader] = {}
        for tensor, decision in plan.tensors:
            workers.interruption.check()
            if isinstance(decision, Skip):
                copy_tensor(tensor, gradients_reader, writer, workers.interruption.check)
                continue
            shard, info = shards[tensor.name]
            if shard.name not in readers:
                readers[shard.name] = undo.enter_context(shard.open())
            pair = _Pair(
                gradients=tensor,
                gradients_reader=gradients_reader,
                info=info,
                reader=readers[shard.name],
                spec=decision,
                writer=writer,
            )
            if _is_reordered(tensor, info):
                pair = replace(pair, reordered=_reordered(pair, workers))
            yield _differentiate_tensor(pair, workers)
        for reader in (gradients_reader, *readers.values()):
            reader.close()
        writer.commit()


def _is_reordered(gradients: TensorInfo, info: TensorInfo) -> bool:
    return gradients.fortran_order != info.fortran_order and len(info.shape) > 1


def _reordered(pair: _Pair, workers: Workers) -> Stored:
    """Return `_Pair.reordered`; takes twice the tensor's size."""
    x = np.empty(pair.info.num_elements, STORAGE[pair.info.dtype.name])
    for start, stop in blocks_of(pair.info, workers):
        workers.interruption.check()
        x[start:stop] = read_block(pair.reader, pair.info, workers, "input", (start, stop))
    return np.ascontiguousarray(x.reshape(pair.info.stored_shape).T).reshape(-1)


def _differentiate_tensor(pair: _Pair, workers: Workers) -> GradientSummary:
    layout = layout_of(pair.gradients, pair.spec)
    dtype = pair.info.dtype.name
    ranges = given_ranges(pair.spec.given_range, 0, layout.num_slices, dtype, ComputeDType.NATIVE)
    if ranges is None:
        ranges = estimate_ranges(pair.spec, pair.reader, pair.info, layout_of(pair.info, pair.spec), workers)
    blocks = blocks_of(pair.gradients, workers)
    outside = workers.map(partial(_differentiate_block, pair, layout, ranges, workers), blocks)
    return GradientSummary(name=pair.info.name, num_elements=layout.num_elements, num_outside=sum(outside))


def _differentiate_block(pair: _Pair, layout: Layout, ranges: Floats, workers: Workers, block: Block) -> int:
    start, stop = block
    if pair.reordered is None:
        x = read_block(pair.reader, pair.info, workers, "input", block)
    else:
        x = pair.reordered[start:stop]
    g = read_block(pair.gradients_reader, pair.gradients, workers, "gradients", block)
    out: Stored = workers.buffer("output", x.dtype.type, stop - start)
    outside = workers.backend.differentiate(g, x, out, start, layout, ranges, pair.info.dtype.name)
    write_block(pair.writer, pair.gradients, out, start)
    return outside
