"""Comparison of two existing checkpoints, tensor by tensor: statistics of the difference.

A tensor without a counterpart and one of another shape are failed rows: nothing of them could be measured. Packed
weights are compared as what they decode to.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import Block, blocks_of, read_block
from qdqcli.measure.sums import error_sums, listed
from qdqcli.measure.workers import Workers
from qdqcli.op.params import floats_of
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.pairing import Entry, counterparts
from qdqcli.recipe.plan import file_of, source_of
from qdqcli.result.packing import Packing
from qdqcli.result.result import Row, SkippedTensor, Source, TensorResult
from qdqcli.run.count import Pair, count_pairs
from qdqcli.run.packing import findings
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.open_shards import OpenShards
from qdqcli.tensors.tensor import TensorInfo, plain_shape


class _Side(NamedTuple):
    """Names of one side and of the other in messages."""

    name: str
    other: str


_REFERENCE, _CANDIDATE = _Side("reference", "candidate"), _Side("candidate", "reference")


def compare_entries(
    ours: Sequence[Entry],
    theirs: Sequence[Entry],
    names: Mapping[str, str],
    workers: Workers,
    on_bytes: Callable[[int], None] = lambda _: None,
    *,
    histograms: bool = False,
) -> list[Row]:
    """Return a row for each tensor of the reference, then one for each tensor of the candidate without a counterpart.

    `names` maps names in the reference to names in the candidate. The plans of the reference decide which tensors are
    skipped.
    """
    numbers = counterparts(
        [(names[entry.name], entry.plan.file) for entry in ours], [entry.located for entry in theirs]
    )
    pairs = [(entry, None if number is None else theirs[number]) for entry, number in zip(ours, numbers, strict=True)]
    there = Counter(entry.name for entry in theirs)
    rows: list[Row] = []
    for _, of_shard in groupby(pairs, lambda pair: id(pair[0].plan)):
        with OpenShards() as readers:
            for entry, other in of_shard:
                workers.interruption.check()
                count = there[names[entry.name]]
                rows.append(_compare(entry, other, count, readers, workers, histograms=histograms))
                on_bytes(entry.tensor.nbytes)
            readers.close()
    here = Counter(names[entry.name] for entry in ours)
    taken = set(numbers)
    for number, entry in enumerate(theirs):
        if number not in taken:
            rows.append(_missing(entry, here[entry.name], _CANDIDATE))
    return rows


def _compare(
    entry: Entry, other: Entry | None, count: int, readers: OpenShards, workers: Workers, *, histograms: bool
) -> Row:
    """Return the row of a reference entry."""
    is_float = entry.tensor.dtype.is_floating
    if isinstance(entry.decision, Skip) and is_float:
        return _skipped(entry, entry.decision.reason)
    if other is None:
        return _missing(entry, count, _REFERENCE)
    if (difference := _difference(entry.tensor, other.tensor)) is not None:
        return _failed(entry, difference)
    pair = _Pair(
        tensor=entry.tensor,
        reader=readers.reader_of(entry.plan.shard),
        other=other.tensor,
        other_reader=readers.reader_of(other.plan.shard),
    )
    return (
        _measured(entry, other, pair, workers, histograms=histograms) if is_float else _equality(entry, pair, workers)
    )


def _missing(entry: Entry, count: int, side: _Side) -> SkippedTensor:
    """Return the row of an entry without a counterpart, where the other side has `count` tensors of its name."""
    what = f" ({entry.storage.format})" if entry.storage is not None else ""
    if count:
        return _failed(
            entry, f"the {side.other} has {count} of this name, none of them in a file or folder of the same path"
        )
    return _failed(entry, f"the {side.other} has no tensor of this name{what}; --map OLD=NEW renames")


def _equality(entry: Entry, pair: "_Pair", workers: Workers) -> SkippedTensor:
    """Return the row of tensors that are compared for equality only, mostly integers."""
    dtype = entry.tensor.dtype.name
    if pair.tensor.dtype.name == pair.other.dtype.name and _is_equal(pair, workers):
        return _skipped(entry, f"{dtype}: equal on both sides")
    return _failed(entry, f"{dtype} elements differ")


def _measured(entry: Entry, other: Entry, pair: "_Pair", workers: Workers, *, histograms: bool) -> Row:
    sums = _measure(pair, workers)
    if sums.num_nonfinite and not sums.max_abs_error and not _are_nonfinite_equal(pair, workers):
        return _failed(entry, "elements that are NaN or infinite differ, all others are equal")
    row = TensorResult(
        source=_source(entry),
        candidate=_source(other),
        spec=None,
        input_min=sums.input_min if sums.num_measured else None,
        input_max=sums.input_max if sums.num_measured else None,
        num_slices=1,
        scale_bits=0,
        sums=sums,
    )
    row = row._replace(packing=_packing(entry, other, pair, row, workers))
    if not histograms or not entry.tensor.num_elements:
        return row
    counted = count_pairs(partial(_read, pair, workers), _blocks(pair, workers), row.stats, workers)
    return row._replace(histograms=counted)


def _packing(entry: Entry, other: Entry, pair: "_Pair", row: TensorResult, workers: Workers) -> Packing | None:
    """Return the findings on a packed weight, the candidate's where both sides are packed."""
    ours, theirs = (pair.tensor, pair.reader), (pair.other, pair.other_reader)
    sqnr = row.stats["sqnr_db"]
    if other.storage is not None:
        return findings(other.storage, theirs, ours if entry.storage is None else None, sqnr, workers)
    return None if entry.storage is None else findings(entry.storage, ours, theirs, sqnr, workers)


def _difference(tensor: TensorInfo, other: TensorInfo) -> str | None:
    """Return the reason why two tensors cannot be compared element by element; None where they can."""
    if tensor.shape != other.shape:
        return f"its shape is {plain_shape(tensor.shape)}, in the candidate {plain_shape(other.shape)}"
    if tensor.dtype.is_floating != other.dtype.is_floating or (
        not tensor.dtype.is_floating and tensor.dtype.name != other.dtype.name
    ):
        return f"its dtype is {tensor.dtype.name}, in the candidate {other.dtype.name}"
    if len(tensor.shape) > 1 and tensor.fortran_order != other.fortran_order:
        return "it is in Fortran order on one side only; save both in one order"
    return None


def _source(entry: Entry) -> Source:
    return source_of(file_of(entry.plan), entry.tensor)._replace(name=entry.name)


def _skipped(entry: Entry, reason: str) -> SkippedTensor:
    return SkippedTensor(source=_source(entry), num_elements=entry.tensor.num_elements, reason=reason)


def _failed(entry: Entry, reason: str) -> SkippedTensor:
    return _skipped(entry, reason)._replace(is_failure=True)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two tensors and their readers."""

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
    return workers.backend.errors(*_read(pair, workers, block), pair.tensor.dtype.name)


def _read(pair: _Pair, workers: Workers, block: Block) -> Pair:
    x = read_block(pair.reader, pair.tensor, workers, "input", block)
    return x, read_block(pair.other_reader, pair.other, workers, "output", block)


def _are_nonfinite_equal(pair: _Pair, workers: Workers) -> bool:
    """Tell whether both have equal infinities and NaN in the same places; no statistic shows that."""

    def is_equal(block: Block) -> bool:
        x, y = _read(pair, workers, block)
        with np.errstate(over="ignore"):
            values = floats_of(x).astype(np.float64)
        is_nonfinite = ~np.isfinite(values)
        others = floats_of(y)[is_nonfinite]
        return bool(np.array_equal(values[is_nonfinite], others.astype(np.float64), equal_nan=True))

    return all(workers.map(is_equal, _blocks(pair, workers)))


_STEP = 1 << 20


def _byte_blocks(tensor: TensorInfo) -> list[Block]:
    return [(start, min(start + _STEP, tensor.nbytes)) for start in range(0, tensor.nbytes, _STEP)]


def _is_equal(pair: _Pair, workers: Workers) -> bool:
    return all(workers.map(partial(_is_block_equal, pair, workers), _byte_blocks(pair.tensor)))


def _is_block_equal(pair: _Pair, workers: Workers, block: Block) -> bool:
    start, stop = block
    x, y = (workers.buffer(name, np.uint8, stop - start) for name in ("input", "output"))
    pair.reader.read_into(pair.tensor, start, x.data)
    pair.other_reader.read_into(pair.other, start, y.data)
    if pair.tensor.big_endian != pair.other.big_endian:
        size = pair.tensor.dtype.bits // 8
        y = y.reshape(-1, size)[:, ::-1].reshape(-1)
    return bool(np.array_equal(x, y))
