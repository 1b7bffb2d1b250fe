"""Sweep: many settings measured on one read of each tensor, each with the result of `qdq stats` under that setting.

Tensors are held in memory, a window of a shard at a time, and every setting is measured on the window before the next
one is read. A tensor larger than the window is read again for each setting, mostly from the page cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.workers import Workers
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.plan import Plan, check_selection, make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.sweep import Setting, Sweep
from qdqcli.result.result import Row
from qdqcli.run.pipeline import Measuring, measure_shard, result_of
from qdqcli.tensors.checkpoint import Checkpoint, Shard, ShardReader
from qdqcli.tensors.packed.recognise import Packed
from qdqcli.tensors.tensor import TensorInfo

WINDOW_SHARE = 2
"""Divisor of `max_memory` that gives the limit of held tensors; buffers have the rest."""
PIECE_BYTES = 4 << 20
"""Bytes that one worker reads at a time."""


def plan_sweep(
    checkpoints: Sequence[Checkpoint],
    recipe: Recipe,
    settings: Sequence[Setting],
    packed: Sequence[Packed] | None = None,
    *,
    allow_unmatched: bool = False,
) -> tuple[list[list[Plan]], list[str]]:
    """Decide on every tensor for every setting, a list of plans each; also returns warnings.

    Raises:
        UsageError: the selection does not fit the checkpoints, or no setting fits any tensor.
    """
    columns: list[list[Plan]] = []
    warnings: dict[str, None] = {}
    for setting in settings:
        plans, found = make_plans(checkpoints, setting.apply(recipe), packed, allow_unmatched=allow_unmatched)
        columns.append(plans)
        warnings |= dict.fromkeys(found)
    check_selection([plan for plans in columns for plan in plans])
    return columns, list(warnings)


def run_sweep(
    columns: Sequence[Sequence[Plan]],
    settings: Sequence[Setting],
    measuring: Measuring,
    workers: Workers,
    described: Mapping[str, Any],
) -> Sweep:
    """Measure every setting on every tensor.

    `described` are the options for the report; each result's settings are these, overridden by its own setting.
    """
    rows: list[list[Row]] = [[] for _ in settings]
    for of_shard in zip(*columns, strict=True):
        for part in _measure_windows(of_shard, measuring, workers):
            for own, new in zip(rows, part, strict=True):
                own += new
    results = [
        result_of("sweep", plans, {**described, **setting.to_json()}, own)
        for setting, plans, own in zip(settings, columns, rows, strict=True)
    ]
    return Sweep(settings=settings, results=results)


def _measure_windows(plans: Sequence[Plan], measuring: Measuring, workers: Workers) -> Iterator[list[list[Row]]]:
    """Measure one shard, window by window; yields the rows of every setting for each window."""
    each = replace(measuring, on_bytes=lambda done: measuring.on_bytes(done // len(plans)))
    for parts, held in held_windows(plans, workers):
        yield [measure_shard(part, each, workers, held) for part in parts]


def held_windows(plans: Sequence[Plan], workers: Workers) -> Iterator[tuple[list[Plan], ShardReader]]:
    """Yield the plans of one shard cut to a window of consecutive tensors, with a reader that holds the selected ones.

    The held tensors take at most half of the workers' memory; a larger tensor is read from the file.
    """
    shard, limit = plans[0].shard, workers.max_memory // WINDOW_SHARE
    with shard.open() as reader:
        for first, last in _windows(shard.tensors, limit):
            window: Any = _Window(shard, shard.tensors[first:last])
            parts = [replace(plan, shard=window, resolutions=plan.resolutions[first:last]) for plan in plans]
            decisions = zip(*(part.decisions for part in parts), strict=True)
            wanted = [
                tensor
                for tensor, found in zip(window.tensors, decisions, strict=True)
                if tensor.nbytes <= limit and not all(isinstance(decision, Skip) for decision in found)
            ]
            yield parts, _Held.read(reader, wanted, workers)


def _windows(tensors: Sequence[TensorInfo], nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of consecutive tensors of at most `nbytes` together; a larger tensor is alone."""
    first, size = 0, 0
    for number, tensor in enumerate(tensors):
        if number > first and size + tensor.nbytes > nbytes:
            yield first, number
            first, size = number, 0
        size += tensor.nbytes
    if first < len(tensors):
        yield first, len(tensors)


class _Window:
    """Consecutive tensors of a shard, with the interface of the shard."""

    def __init__(self, shard: Shard, tensors: Sequence[TensorInfo]) -> None:
        self._shard, self.tensors = shard, tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)


class _Held:
    """Reader of tensors held in memory; reads others from the file."""

    def __init__(self, reader: ShardReader, data: Mapping[int, NDArray[np.uint8]]) -> None:
        self._reader, self._data = reader, data

    @classmethod
    def read(cls, reader: ShardReader, tensors: Sequence[TensorInfo], workers: Workers) -> Self:
        """Read the tensors, in pieces by all workers."""
        data = {tensor.start: np.empty(tensor.nbytes, np.uint8) for tensor in tensors if tensor.nbytes}

        def read_piece(tensor: TensorInfo, at: int) -> None:
            reader.read_into(tensor, at, data[tensor.start][at : at + PIECE_BYTES].data)

        pieces = [(tensor, at) for tensor in tensors for at in range(0, tensor.nbytes, PIECE_BYTES)]
        workers.map(lambda piece: read_piece(*piece), pieces)
        return cls(reader, data)

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        held = self._data.get(tensor.start)
        if held is None or not tensor.nbytes:
            self._reader.read_into(tensor, start, buffer)
            return
        to = np.frombuffer(buffer.cast("B"), np.uint8)
        np.copyto(to, held[start : start + len(to)])

    def read_neighbours(self, first: TensorInfo, buffer: memoryview) -> bool:
        return first.start not in self._data and self._reader.read_neighbours(first, buffer)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
