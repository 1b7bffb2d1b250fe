"""Gradient of the op for files: masks each gradient by the range of the tensor that was quantized."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_size
from qdqcli.measure.blocks import QPARAM_BYTES, Block, blocks_of, check_memory, read_block, write_block
from qdqcli.measure.estimate import estimate_ranges
from qdqcli.measure.given_range import given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op.params import STORAGE, Stored
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.plan import Plan
from qdqcli.result.gradient import GradientSummary
from qdqcli.tensors.checkpoint import Checkpoint, Shard, ShardReader, ShardWriter, copy_tensor
from qdqcli.tensors.open_shards import OpenShards
from qdqcli.tensors.tensor import TensorInfo


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
        with plan.shard.open() as reader, OpenShards() as originals:
            writer = output.create(plan.checkpoint, plan.shard, reader)
            undo.callback(writer.abort)
            for tensor, decision in plan.tensors:
                workers.interruption.check()
                if isinstance(decision, Skip):
                    copy_tensor(tensor, reader, writer, workers.interruption.check)
                    continue
                shard, info = shards[tensor.name]
                pair = _Pair(
                    gradients=tensor,
                    gradients_reader=reader,
                    info=info,
                    reader=originals.reader_of(shard),
                    spec=decision,
                    writer=writer,
                    workers=workers,
                )
                yield pair.differentiate()
        writer.commit()


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A gradient tensor and the tensor that was quantized."""

    gradients: TensorInfo
    gradients_reader: ShardReader
    info: TensorInfo
    reader: ShardReader
    spec: QuantSpec
    writer: ShardWriter
    workers: Workers

    def differentiate(self) -> GradientSummary:
        """Write the tensor's input_backprop."""
        workers, dtype = self.workers, self.info.dtype.name
        layout = layout_of(self.gradients, self.spec)
        ranges = given_ranges(self.spec.given_range, 0, layout.num_slices, dtype, ComputeDType.NATIVE)
        if ranges is None:
            ranges = estimate_ranges(self.spec, self.reader, self.info, layout_of(self.info, self.spec), workers)
        reordered = self._reordered() if _is_reordered(self.gradients, self.info) else None

        def write(block: Block) -> int:
            start, stop = block
            x = self._read(block) if reordered is None else reordered[start:stop]
            g = read_block(self.gradients_reader, self.gradients, workers, "gradients", block)
            out: Stored = workers.buffer("output", x.dtype.type, stop - start)
            outside = workers.backend.differentiate(g, x, out, start, layout, ranges, dtype)
            write_block(self.writer, self.gradients, out, start)
            return outside

        outside = workers.map(write, blocks_of(self.gradients, workers))
        return GradientSummary(name=self.info.name, num_elements=layout.num_elements, num_outside=sum(outside))

    def _reordered(self) -> Stored:
        """Return the quantized tensor in the memory order of its gradients; takes twice its size."""
        x = np.empty(self.info.num_elements, STORAGE[self.info.dtype.name])
        for start, stop in blocks_of(self.info, self.workers):
            self.workers.interruption.check()
            x[start:stop] = self._read((start, stop))
        return np.ascontiguousarray(x.reshape(self.info.stored_shape).T).reshape(-1)

    def _read(self, block: Block) -> Stored:
        return read_block(self.reader, self.info, self.workers, "input", block)


def _is_reordered(gradients: TensorInfo, info: TensorInfo) -> bool:
    return gradients.fortran_order != info.fortran_order and len(info.shape) > 1
