"""Comparison of two existing checkpoints, tensor by tensor: statistics of the difference.

A tensor without a counterpart, one of another shape, and a weight that is packed on one side only, are failed rows:
nothing of them could be measured.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import Block, blocks_of, read_block
from qdqcli.measure.sums import error_sums, listed
from qdqcli.measure.workers import Workers
from qdqcli.op.params import floats_of
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.pairing import Entry, counterparts
from qdqcli.recipe.plan import Plan, file_of, source_of
from qdqcli.result.result import Row, SkippedTensor, Source, TensorResult
from qdqcli.run.count import Pair, count_pairs
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo


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
        with _Readers() as readers:
            for entry, other in of_shard:
                workers.interruption.check()
                count = there[names[entry.name]]
                rows += _compare(entry, other, count, readers, workers, histograms=histograms)
                on_bytes(entry.tensor.nbytes)
            readers.close()
    here = Counter(names[entry.name] for entry in ours)
    taken = set(numbers)
    for number, entry in enumerate(theirs):
        if number not in taken and not entry.is_activation_scale:
            rows.append(_missing(entry, here[entry.name], _CANDIDATE))
    return rows


class _Readers:
    """Open shards of both sides."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._readers: dict[str, ShardReader] = {}

    def of(self, plan: Plan, tensor: TensorInfo) -> ShardReader:
        """Return the reader of the shard, of the plan's checkpoint, that holds the tensor."""
        shard = plan.shard
        if shard.name != tensor.shard:
            shard = next(shard for shard in plan.checkpoint.shards if shard.name == tensor.shard)
        file = str(shard.path)  # hashing the shard itself would hash all its tensors
        if file not in self._readers:
            self._readers[file] = self._stack.enter_context(shard.open())
        return self._readers[file]

    def close(self) -> None:
        """Close the shards; raises where a file has changed meanwhile."""
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def _compare(
    entry: Entry, other: Entry | None, count: int, readers: _Readers, workers: Workers, *, histograms: bool
) -> Iterator[Row]:
    """Yield the row of a reference entry; nothing for an activation scale without a counterpart."""
    is_float = entry.tensor.dtype.is_floating and entry.packed is None and not entry.is_activation_scale
    if isinstance(entry.decision, Skip) and is_float:
        yield _skipped(entry, entry.decision.reason)
    elif other is None:
        if not entry.is_activation_scale:
            yield _missing(entry, count, _REFERENCE)
    elif entry.packed is not None or other.packed is not None:
        yield _compare_packed(entry, other, readers, workers)
    elif (difference := _difference(entry.tensor, other.tensor)) is not None:
        yield _failed(entry, difference)
    else:
        pair = _pair(entry, entry.tensor, other, other.tensor, readers)
        yield (
            _measured(entry, other, pair, workers, histograms=histograms)
            if is_float
            else _equality(entry, pair, workers)
        )


def _missing(entry: Entry, count: int, side: _Side) -> SkippedTensor:
    """Return the row of an entry without a counterpart, where the other side has `count` tensors of its name."""
    what = f" ({entry.packed.title})" if entry.packed is not None else ""
    if count:
        return _failed(
            entry, f"the {side.other} has {count} of this name, none of them in a file or folder of the same path"
        )
    return _failed(entry, f"the {side.other} has no tensor of this name{what}; --map OLD=NEW renames")


def _compare_packed(entry: Entry, other: Entry, readers: _Readers, workers: Workers) -> SkippedTensor:
    """Return the row of packed weights: they are not decoded, only compared byte for byte."""
    one, two = entry.packed, other.packed
    if one is None or two is None:
        side, packed = (_REFERENCE, one) if one is not None else (_CANDIDATE, two)
        assert packed is not None
        return _failed(entry, f"packed in the {side.name} ({packed.title}), and codes are not read")
    if one.format.name != two.format.name or one.parts.keys() != two.parts.keys():
        return _failed(entry, f"packed as {one.title}, in the candidate as {two.title}")
    different = [
        role
        for role, part in one.parts.items()
        if _difference(part, two.parts[role]) is not None
        or not _is_equal(_pair(entry, part, other, two.parts[role], readers), workers)
    ]
    if different:
        roles = " and ".join(different)
        return _failed(entry, f"packed on both sides ({one.title}), and {roles} differ")
    return _skipped(entry, f"{one.title}: equal on both sides")


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
    if not histograms or not entry.tensor.num_elements:
        return row
    counted = count_pairs(partial(_read, pair, workers), _blocks(pair, workers), row.stats, workers)
    return row._replace(histograms=counted)


def _pair(entry: Entry, tensor: TensorInfo, other: Entry, theirs: TensorInfo, readers: _Readers) -> "_Pair":
    return _Pair(
        tensor=tensor,
        reader=readers.of(entry.plan, tensor),
        other=theirs,
        other_reader=readers.of(other.plan, theirs),
    )


def _difference(tensor: TensorInfo, other: TensorInfo) -> str | None:
    """Return the reason why two tensors cannot be compared element by element; None where they can."""
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
