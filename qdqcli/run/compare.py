"""Comparison of two existing checkpoints, tensor by tensor: statistics of the difference.

A tensor without a counterpart and one of another shape are failed rows: nothing of them could be measured. Packed
weights are compared as what they decode to.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import Block, blocks_of, read_block
from qdqcli.measure.sums import error_sums
from qdqcli.measure.workers import Workers
from qdqcli.op.params import floats_of
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.pairing import Entry, counterparts
from qdqcli.recipe.plan import Plan, file_of
from qdqcli.result.packing import Packing
from qdqcli.result.result import Row, SkippedTensor, Source, TensorResult
from qdqcli.run.count import Pair, count_pairs
from qdqcli.run.distribute import Distribution
from qdqcli.run.input_scales import checked
from qdqcli.run.packing import findings
from qdqcli.run.shard import OnBytes, ShardRef, TaskOnShard
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import Shard, ShardReader
from qdqcli.tensors.open_shards import OpenShards
from qdqcli.tensors.packed.recognise import key_of
from qdqcli.tensors.tensor import TensorInfo, plain_shape

_Entries = tuple[Entry, Entry]
"""An entry of the reference and its counterpart."""


def compare_entries(
    ours: Sequence[Entry],
    theirs: Sequence[Entry],
    names: Mapping[str, str],
    workers: Workers,
    on_bytes: Callable[[int], None] = lambda _: None,
    *,
    histograms: bool = False,
    distribution: Distribution | None = None,
) -> list[Row]:
    """Return a row for each tensor of the reference, then one for each tensor of the candidate without a counterpart.

    `names` maps names in the reference to names in the candidate. The plans of the reference decide which tensors are
    skipped. Tensors are compared here, or where `distribution` says.
    """
    numbers = counterparts(
        [(names[entry.name], entry.plan.file) for entry in ours], [entry.located for entry in theirs]
    )
    pairs = [(entry, None if number is None else theirs[number]) for entry, number in zip(ours, numbers, strict=True)]
    there = Counter(entry.name for entry in theirs)
    found = [_known(entry, other, there[names[entry.name]]) for entry, other in pairs]
    on_bytes(sum(entry.tensor.nbytes for (entry, _), row in zip(pairs, found, strict=True) if row is not None))
    left = [(entry, other) for (entry, other), row in zip(pairs, found, strict=True) if row is None and other]
    by_shard = [list(same) for _, same in groupby(left, lambda pair: id(pair[0].plan))]
    measured: Iterable[list[Row]]
    if distribution is not None:
        measured = _elsewhere(by_shard, distribution, on_bytes, histograms=histograms)
    else:
        measured = (_compare_shard(pairs, workers, on_bytes, histograms=histograms) for pairs in by_shard)
    remaining = chain.from_iterable(measured)
    rows = checked([next(remaining) if row is None else row for row in found], pairs)
    here = Counter(names[entry.name] for entry in ours)
    taken = set(numbers)
    left_over = (entry for number, entry in enumerate(theirs) if number not in taken)
    return [*rows, *(_missing(entry, here[entry.name], "reference") for entry in left_over)]


@dataclass(frozen=True, kw_only=True)
class CompareTask(TaskOnShard):
    """Tensors of a shard and their counterparts."""

    others: Sequence[ShardRef]
    pairs: Sequence[tuple[str, int, str]]
    """Name in the shard; which of the others has the counterpart, and its name there."""
    histograms: bool

    def work(self, workers: Workers, on_bytes: OnBytes) -> list[Row]:
        """Return a row for each pair."""
        ours, *others = (_entries_by_name(ref) for ref in (self.shard, *self.others))
        pairs = [(ours[name], others[n][other]) for name, n, other in self.pairs]
        return _compare_shard(pairs, workers, on_bytes, histograms=self.histograms)


def _entries_by_name(ref: ShardRef) -> Mapping[str, Entry]:
    checkpoint = ref.open()
    (shard,) = checkpoint.shards
    plan = Plan(checkpoint=checkpoint, shard=shard, file=file_of(shard), resolutions=[])
    storage = checkpoint.storage
    return {info.name: Entry(info.name, plan, info, QuantSpec(), storage.get(key_of(info))) for info in shard.tensors}


def _elsewhere(
    by_shard: Sequence[Sequence[_Entries]],
    distribution: Distribution,
    on_bytes: Callable[[int], None],
    *,
    histograms: bool,
) -> list[list[Row]]:
    """Compare the tensors of each shard in another process; returns their rows."""
    sides = [
        list({id(entry.plan): entry.plan for entry in side}.values())
        for side in zip(*chain.from_iterable(by_shard), strict=True)
    ]
    distribution.preflight(*sides)
    refs = {id(plan): ref for plans in sides for plan, ref in zip(plans, distribution.refs(plans), strict=True)}
    tasks = []
    for pairs in by_shard:
        order = {key: n for n, key in enumerate(dict.fromkeys(id(other.plan) for _, other in pairs))}
        tasks.append(
            CompareTask(
                shard=refs[id(pairs[0][0].plan)],
                others=[refs[key] for key in order],
                pairs=[(entry.tensor.name, order[id(other.plan)], other.tensor.name) for entry, other in pairs],
                histograms=histograms,
                resources=distribution.resources,
            )
        )

    def named(index: int, rows: list[Row]) -> list[Row]:
        pairs = by_shard[index]
        on_bytes(sum(entry.tensor.nbytes for entry, _ in pairs))
        return [_named(row, *pair) for row, pair in zip(rows, pairs, strict=True)]

    return distribution.collect(tasks, named)


def _named(row: Row, entry: Entry, other: Entry) -> Row:
    """Return the row under the names that the tensors have here."""
    named = row._replace(source=_source(entry))
    return named._replace(candidate=_source(other)) if isinstance(named, TensorResult) else named


def _compare_shard(
    pairs: Sequence[_Entries], workers: Workers, on_bytes: Callable[[int], None], *, histograms: bool
) -> list[Row]:
    """Compare tensors of one shard with their counterparts."""
    rows = []
    with OpenShards() as readers:
        _read_ahead(pairs, readers, workers)
        for entry, other in pairs:
            workers.interruption.check()
            pair = _Pair(
                entry=entry,
                other=other,
                reader=readers.reader_of(entry.plan.shard),
                other_reader=readers.reader_of(other.plan.shard),
                workers=workers,
            )
            is_float = entry.tensor.dtype.is_floating
            rows.append(pair.measured(histograms=histograms) if is_float else pair.equality())
            on_bytes(entry.tensor.nbytes)
    return rows


def _read_ahead(pairs: Sequence[_Entries], readers: OpenShards, workers: Workers) -> None:
    """Say which tensors of the open shards will be read."""
    found: dict[int, tuple[Shard, list[TensorInfo]]] = {}
    for pair in pairs:
        for entry in pair:
            found.setdefault(id(entry.plan), (entry.plan.shard, []))[1].append(entry.tensor)
    for shard, tensors in found.values():
        readers.reader_of(shard).read_ahead(tensors, workers.spare_memory // len(found))


def _known(entry: Entry, other: Entry | None, count: int) -> Row | None:
    """Return the row of a reference entry where the headers tell it."""
    if isinstance(entry.decision, Skip) and entry.tensor.dtype.is_floating:
        return _skipped(entry, entry.decision.reason)
    if other is None:
        return _missing(entry, count, "candidate")
    difference = _difference(entry.tensor, other.tensor)
    return None if difference is None else _failed(entry, difference)


def _missing(entry: Entry, count: int, side: str) -> SkippedTensor:
    """Return the row of an entry without a counterpart on the other side, which has `count` tensors of its name."""
    what = f" ({entry.storage.format})" if entry.storage is not None else ""
    if count:
        return _failed(entry, f"the {side} has {count} of this name, none of them in a file or folder of the same path")
    return _failed(entry, f"the {side} has no tensor of this name{what}; --map OLD=NEW renames")


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
    return entry.plan.source_of(entry.tensor)._replace(name=entry.name)


def _skipped(entry: Entry, reason: str) -> SkippedTensor:
    return SkippedTensor(source=_source(entry), num_elements=entry.tensor.num_elements, reason=reason)


def _failed(entry: Entry, reason: str) -> SkippedTensor:
    return _skipped(entry, reason)._replace(is_failure=True)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A tensor of the reference and its counterpart, of the same shape."""

    entry: Entry
    other: Entry
    reader: ShardReader
    other_reader: ShardReader
    workers: Workers

    def equality(self) -> SkippedTensor:
        """Return the row of tensors of one dtype that are compared for equality only, mostly integers."""
        dtype, nbytes = self.entry.tensor.dtype.name, self.entry.tensor.nbytes
        if all(self.workers.map(self._is_equal, range(0, nbytes, _STEP_BYTES))):
            return _skipped(self.entry, f"{dtype}: equal on both sides")
        return _failed(self.entry, f"{dtype} elements differ")

    def measured(self, *, histograms: bool) -> Row:
        """Return the row of floating-point tensors."""
        entry, workers = self.entry, self.workers
        blocks = blocks_of(max(entry.tensor, self.other.tensor, key=lambda info: info.dtype.bits), workers)
        sums = ErrorSums()
        if entry.tensor.num_elements:
            sums = error_sums(workers.map(self._sum_block, blocks), entry.tensor.num_elements, 0)
        if sums.num_nonfinite and not sums.max_abs_error and not all(workers.map(self._is_nonfinite_equal, blocks)):
            return _failed(entry, "elements that are NaN or infinite differ, all others are equal")
        row = TensorResult(
            source=_source(entry),
            candidate=_source(self.other),
            spec=None,
            input_min=sums.input_min if sums.num_measured else None,
            input_max=sums.input_max if sums.num_measured else None,
            num_slices=1,
            scale_bits=0,
            sums=sums,
        )
        row = row._replace(packing=self._packing(row))
        if not histograms or not entry.tensor.num_elements:
            return row
        return row._replace(histograms=count_pairs(self._read, blocks, row.stats, workers))

    def _packing(self, row: TensorResult) -> Packing | None:
        """Return the findings on a packed weight, the candidate's where both sides are packed."""
        mine, other = self.entry.storage, self.other.storage
        ours, theirs = (self.entry.tensor, self.reader), (self.other.tensor, self.other_reader)
        sqnr, largest = row.stats["sqnr_db"], max(abs(row.input_min or 0.0), abs(row.input_max or 0.0))
        if other is not None:
            return findings(other, theirs, ours if mine is None else None, sqnr, largest, self.workers)
        if mine is None:
            return None
        return findings(mine, ours, theirs, sqnr, largest, self.workers)._replace(is_candidate=False)

    def _sum_block(self, block: Block) -> NDArray[np.float64]:
        return self.workers.backend.errors(*self._read(block), self.entry.tensor.dtype.name)

    def _read(self, block: Block) -> Pair:
        x = read_block(self.reader, self.entry.tensor, self.workers, "input", block)
        return x, read_block(self.other_reader, self.other.tensor, self.workers, "output", block)

    def _is_nonfinite_equal(self, block: Block) -> bool:
        """Tell whether both have equal infinities and NaN in the same places; no statistic shows that."""
        x, y = self._read(block)
        with np.errstate(over="ignore"):
            values = floats_of(x).astype(np.float64)
        is_nonfinite = ~np.isfinite(values)
        others = floats_of(y)[is_nonfinite]
        return bool(np.array_equal(values[is_nonfinite], others.astype(np.float64), equal_nan=True))

    def _is_equal(self, start: int) -> bool:
        """Tell whether `_STEP_BYTES` from `start` on are equal, whatever their order in an element."""
        mine, other = self.entry.tensor, self.other.tensor
        size = min(_STEP_BYTES, mine.nbytes - start)
        x, y = (self.workers.buffer(name, np.uint8, size) for name in ("input", "output"))
        self.reader.read_into(mine, start, x.data)
        self.other_reader.read_into(other, start, y.data)
        if mine.big_endian != other.big_endian:
            y = y.reshape(-1, mine.dtype.bits // 8)[:, ::-1].reshape(-1)
        return bool(np.array_equal(x, y))


_STEP_BYTES = 1 << 20
"""Bytes compared at a time; a multiple of every element's size."""
