"""Sweep: many settings measured on one read of each tensor, each as `qdq stats` with that setting measures it.

Tensors are held in memory, a window of a shard at a time, and every setting is measured on the window before the next
one is read. A tensor larger than the window is read anew for each setting, from the page cache as a rule.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.workers import Workers
from qdqcli.op.spec import WHOLE_TENSOR
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.keys import SKIP
from qdqcli.recipe.plan import Plan, make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.result.result import Row, RunResult
from qdqcli.run.pipeline import Measuring, measure_shard, result_of
from qdqcli.tensors.checkpoint import Checkpoint, Place, Shard, ShardReader
from qdqcli.tensors.tensor import TensorInfo

WINDOW_SHARE = 2
"""The part of `max_memory`, as a divisor, that held tensors may take; buffers have the rest."""
PIECE_BYTES = 4 << 20
"""Bytes that one worker reads at a time."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One column of a sweep: what is asked of every tensor that no rule decides otherwise."""

    num_bits: int
    axis: str | int = "none"
    """`none`, `last` or the index of a dimension."""
    group_size: int | None = None
    """Excludes `axis`."""
    estimator: str = "minmax"
    signed_input: bool = True

    @property
    def name(self) -> str:
        """Short text: `int4 g128 mse`, `int8 axis 0`, `int8 tensor`."""
        words = [f"{'' if self.signed_input else 'u'}int{self.num_bits}"]
        if self.group_size is not None:
            words.append(f"g{self.group_size}")
        else:
            words.append("tensor" if self.axis == "none" else f"axis {self.axis}")
        if self.estimator != "minmax":
            words.append(self.estimator)
        return " ".join(words)

    def apply(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this setting in place of its own; tensors that cannot take it are skipped."""
        spec = replace(
            recipe.spec,
            num_bits=self.num_bits,
            signed_input=self.signed_input,
            axis=self.axis if isinstance(self.axis, int) else WHOLE_TENSOR,
            group_size=self.group_size,
            estimator=self.estimator,
        )
        return replace(recipe, spec=spec, last_axis=self.axis == "last", indivisible=SKIP, skips_misfits=True)

    def to_json(self) -> dict[str, Any]:
        """The setting under the options' names."""
        return {
            "num_bits": self.num_bits,
            "signed_input": self.signed_input,
            "axis": self.axis,
            "group_size": self.group_size,
            "estimator": self.estimator,
        }


def settings_of(
    num_bits: Sequence[int],
    axes: Sequence[str | int],
    group_sizes: Sequence[int],
    estimators: Sequence[str],
    *,
    signed_input: bool = True,
) -> list[Setting]:
    """Every combination: bits first, then granularities (axes, then groups), then estimators."""
    granularities: list[dict[str, Any]] = [*({"axis": a} for a in axes), *({"group_size": g} for g in group_sizes)]
    return [
        Setting(num_bits=bits, estimator=estimator, signed_input=signed_input, **granularity)
        for bits, granularity, estimator in product(num_bits, granularities, estimators)
    ]


LADDER = [
    Setting(num_bits=8, axis=0),
    *settings_of([4, 3], [0], [128, 64, 32], ["minmax", "mse"]),
]
"""The settings that people publish, for a sweep without options."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One result per setting, over the same tensors in the same order."""

    settings: Sequence[Setting]
    results: Sequence[RunResult]

    def dominated(self) -> list[bool]:
        """Tell for each setting whether another has no more bits per weight, no less SQNR, and betters one of them.

        Only settings that were measured on the same elements are compared.
        """
        points = [_point(result) for result in self.results]
        return [any(_is_better(other, point) for other in points if other[2] == point[2]) for point in points]


def _point(result: RunResult) -> tuple[float, float, int]:
    """(bits per weight, SQNR in dB, number of elements)."""
    summary = result.summary
    bits, sqnr = summary["bits_per_weight"], summary["sqnr_db"]
    exact = float("inf") if result.is_exact else float("-inf")
    return (
        float("inf") if bits is None else float(bits),
        exact if sqnr is None else float(sqnr),
        int(summary["num_elements"] or 0),
    )


def _is_better(one: tuple[float, float, int], other: tuple[float, float, int]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one[:2] != other[:2]


def run_sweep(
    checkpoints: Sequence[Checkpoint],
    recipe: Recipe,
    settings: Sequence[Setting],
    measuring: Measuring,
    workers: Workers,
    described: Mapping[str, Any],
    *,
    allow_unmatched: bool = False,
) -> tuple[Sweep, list[str]]:
    """Measure every setting on every tensor; also returns warnings.

    `described` are the options that a report names; each result's settings are these with its own setting over them.

    Raises:
        UsageError: the selection does not fit the checkpoints.
    """
    columns: list[list[Plan]] = []
    warnings: list[str] = []
    for setting in settings:
        plans, found = make_plans(checkpoints, setting.apply(recipe), allow_unmatched=allow_unmatched)
        columns.append(plans)
        warnings += [warning for warning in found if warning not in warnings]
    rows: list[list[Row]] = [[] for _ in settings]
    for of_shard in zip(*columns, strict=True):
        for part in _measure_windows(of_shard, measuring, workers):
            for own, new in zip(rows, part, strict=True):
                own += new
    results = [
        result_of("sweep", plans, {**described, **setting.to_json()}, own)
        for setting, plans, own in zip(settings, columns, rows, strict=True)
    ]
    return Sweep(settings=settings, results=results), warnings


def _measure_windows(plans: Sequence[Plan], measuring: Measuring, workers: Workers) -> Iterator[list[list[Row]]]:
    """Measure one shard, window by window: for each window the rows of every setting."""
    shard, limit = plans[0].shard, workers.max_memory // WINDOW_SHARE
    each = replace(measuring, on_bytes=lambda done: measuring.on_bytes(done // len(plans)))
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
            held = _Held.read(reader, wanted, workers)
            yield [measure_shard(part, each, workers, held) for part in parts]


def _windows(tensors: Sequence[TensorInfo], nbytes: int) -> Iterator[tuple[int, int]]:
    """Neighbours that together have at most `nbytes`; a larger tensor is alone."""
    first, size = 0, 0
    for number, tensor in enumerate(tensors):
        if number > first and size + tensor.nbytes > nbytes:
            yield first, number
            first, size = number, 0
        size += tensor.nbytes
    if first < len(tensors):
        yield first, len(tensors)


class _Window:
    """Some neighbouring tensors of a shard, which stands for the whole of it."""

    def __init__(self, shard: Shard, tensors: Sequence[TensorInfo]) -> None:
        self._shard, self.tensors = shard, tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)


class _Held:
    """A reader of tensors whose bytes are in memory; of others it asks the file."""

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

    def place(self, tensor: TensorInfo) -> Place | None:
        return self._reader.place(tensor) if tensor.start not in self._data else None

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
