"""Two checkpoints that are there already, tensor by tensor: the statistics of what differs.

A tensor that has no counterpart, or one of another shape, is a failed row: nothing of it could be measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import Block, blocks_of, read_block
from qdqcli.measure.sums import error_sums, listed
from qdqcli.measure.workers import Workers
from qdqcli.op.cpu_compare import sum_differences
from qdqcli.recipe.decision import Decision, Skip
from qdqcli.recipe.plan import Plan, file_of, source_of
from qdqcli.result.result import Row, SkippedTensor, Source, TensorResult
from qdqcli.run.count import Pair, count_pairs
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import Shard, ShardReader
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A tensor of the other checkpoint."""

    source: Source
    info: TensorInfo
    shard: Shard


def candidates_of(plans: Sequence[Plan]) -> dict[str, Candidate]:
    """By name; those that the index takes from another shard do not count."""
    return {
        tensor.name: Candidate(source=source_of(file_of(plan), tensor), info=tensor, shard=plan.shard)
        for plan in plans
        for tensor in plan.shard.tensors
        if (tensor.shard, tensor.name) not in plan.checkpoint.superseded
    }


def compare_plans(
    plans: Sequence[Plan],
    candidates: Mapping[str, Candidate],
    names: Mapping[str, str],
    workers: Workers,
    on_bytes: Callable[[int], None] = lambda _: None,
    *,
    histograms: bool = False,
) -> list[Row]:
    """A row for each tensor of the reference, whose plans say which are left out, then one for each of the others.

    `names` tells what a tensor of the reference is called in the candidate.
    """
    rows = [
        row
        for plan in plans
        for row in _compare_shard(plan, candidates, names, workers, on_bytes, histograms=histograms)
    ]
    known = set(names.values())
    rows += [
        _failed(candidate.source, candidate.info, "the reference has no tensor of this name; --map OLD=NEW renames")
        for name, candidate in candidates.items()
        if name not in known
    ]
    return rows


def _compare_shard(
    plan: Plan,
    candidates: Mapping[str, Candidate],
    names: Mapping[str, str],
    workers: Workers,
    on_bytes: Callable[[int], None],
    *,
    histograms: bool,
) -> Iterator[Row]:
    with ExitStack() as stack:
        reader = stack.enter_context(plan.shard.open())
        readers: dict[str, ShardReader] = {}
        for tensor, decision in plan.tensors:
            workers.interruption.check()
            source = source_of(file_of(plan), tensor)
            candidate = candidates.get(names[tensor.name])
            yield _compare(source, tensor, decision, candidate, reader, readers, stack, workers, histograms=histograms)
            on_bytes(tensor.nbytes)
        for opened in (reader, *readers.values()):
            opened.close()


def _compare(
    source: Source,
    tensor: TensorInfo,
    decision: Decision,
    candidate: Candidate | None,
    reader: ShardReader,
    readers: dict[str, ShardReader],
    stack: ExitStack,
    workers: Workers,
    *,
    histograms: bool,
) -> Row:
    if isinstance(decision, Skip) and tensor.dtype.is_floating:
        return SkippedTensor(source=source, num_elements=tensor.num_elements, reason=decision.reason)
    if candidate is None:
        return _failed(source, tensor, "the candidate has no tensor of this name; --map OLD=NEW renames")
    difference = _difference(tensor, candidate.info)
    if difference is not None:
        return _failed(source, tensor, difference)
    file = candidate.source.file  # a shard itself would be hashed with all its tensors
    if file not in readers:
        readers[file] = stack.enter_context(candidate.shard.open())
    pair = _Pair(tensor=tensor, reader=reader, other=candidate.info, other_reader=readers[file])
    if not tensor.dtype.is_floating:
        if not all(workers.map(partial(_is_equal, pair, workers), _byte_blocks(tensor))):
            return _failed(source, tensor, f"{tensor.dtype.name} elements differ")
        return SkippedTensor(
            source=source, num_elements=tensor.num_elements, reason=f"{tensor.dtype.name}: equal on both sides"
        )
    sums = _measure(pair, workers)
    row = TensorResult(
        source=source,
        candidate=candidate.source,
        spec=None,
        input_min=sums.input_min if sums.num_measured else None,
        input_max=sums.input_max if sums.num_measured else None,
        num_slices=1,
        scale_bits=0,
        sums=sums,
    )
    if not histograms or not tensor.num_elements:
        return row
    counted = count_pairs(partial(_read, pair, workers), _blocks(pair, workers), row.stats, workers)
    return row._replace(histograms=counted)


def _difference(tensor: TensorInfo, other: TensorInfo) -> str | None:
    """Why two tensors cannot be measured against each other."""
    if tensor.shape != other.shape:
        return f"its shape is {_shape(tensor)}, in the candidate {_shape(other)}"
    if tensor.dtype.is_floating != other.dtype.is_floating or (
        not tensor.dtype.is_floating and tensor.dtype.name != other.dtype.name
    ):
        return f"its dtype is {tensor.dtype.name}, in the candidate {other.dtype.name}"
    if len(tensor.shape) > 1 and tensor.fortran_order != other.fortran_order:
        return "it is in Fortran order on one side only; save both in one order"
    return None


def _shape(tensor: TensorInfo) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _failed(source: Source, tensor: TensorInfo, reason: str) -> SkippedTensor:
    return SkippedTensor(source=source, num_elements=tensor.num_elements, reason=reason, is_failure=True)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two tensors and where they are read."""

    tensor: TensorInfo
    reader: ShardReader
    other: TensorInfo
    other_reader: ShardReader


def _measure(pair: _Pair, workers: Workers) -> ErrorSums:
    if not pair.tensor.num_elements:
        return ErrorSums()
    parts = workers.map(partial(_sum_block, pair, workers), _blocks(pair, workers))
    return error_sums(listed(parts), pair.tensor.num_elements, 0)


def _blocks(pair: _Pair, workers: Workers) -> list[Block]:
    return blocks_of(max(pair.tensor, pair.other, key=lambda info: info.dtype.bits), workers)


def _sum_block(pair: _Pair, workers: Workers, block: Block) -> NDArray[np.float64]:
    return sum_differences(*_read(pair, workers, block), pair.tensor.dtype.name)


def _read(pair: _Pair, workers: Workers, block: Block) -> Pair:
    x = read_block(pair.reader, pair.tensor, workers, "input", block)
    return x, read_block(pair.other_reader, pair.other, workers, "output", block)


_STEP = 1 << 20


def _byte_blocks(tensor: TensorInfo) -> list[Block]:
    return [(start, min(start + _STEP, tensor.nbytes)) for start in range(0, tensor.nbytes, _STEP)]


def _is_equal(pair: _Pair, workers: Workers, block: Block) -> bool:
    start, stop = block
    x, y = (workers.buffer(name, np.uint8, stop - start) for name in ("input", "output"))
    pair.reader.read_into(pair.tensor, start, x.data)
    pair.other_reader.read_into(pair.other, start, y.data)
    if pair.tensor.big_endian != pair.other.big_endian:
        size = pair.tensor.dtype.bits // 8
        y = y.reshape(-1, size)[:, ::-1].reshape(-1)
    return bool(np.array_equal(x, y))
