"""Measurement of one tensor and of its blocks, from the rows of sums that the kernels fill."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import columns
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats
from qdqcli.stats.sums import ErrorSums, Expansion, expansion

OverallRange = tuple[float, float]
"""Union of ranges: the smallest minimum and the largest maximum; NaN where there is none."""


class Measurement(NamedTuple):
    """Result of measuring one tensor."""

    sums: ErrorSums
    num_slices: int
    overall_range: OverallRange = (nan, nan)
    """Union of the ranges of all slices."""
    slice_sums: Sequence[ErrorSums] | None = None


def overall_range_of(ranges: Floats) -> OverallRange:
    """Return the union of `ranges` (2, slices)."""
    return float(np.fmin.reduce(ranges[0])), float(np.fmax.reduce(ranges[1]))


def error_sums(parts: Iterable[NDArray[np.float64]], num_elements: int, num_degenerate: int) -> ErrorSums:
    """Merge the sums of a tensor's chunks, in arrays (chunks, SUM_COLUMNS); sums over chunks are exact."""
    by_column = list(zip(*(row for part in parts for row in part.tolist()), strict=True))
    sums = [expansion(by_column[column]) for column in range(columns.NUM_SUMS)]
    return ErrorSums(
        num_elements=num_elements,
        num_nonfinite=int(sum(by_column[columns.NONFINITE])),
        num_nonfinite_output=int(sum(by_column[columns.NONFINITE_OUTPUT])),
        num_clipped=int(sum(by_column[columns.CLIPPED])),
        num_zeroed=int(sum(by_column[columns.ZEROED])),
        num_degenerate=num_degenerate,
        input_min=min(by_column[columns.INPUT_MIN]) + 0.0,
        input_max=max(by_column[columns.INPUT_MAX]) + 0.0,
        max_abs_error=max(by_column[columns.MAX_ABS_ERROR]),
        error=sums[columns.ERROR],
        abs_error=sums[columns.ABS_ERROR],
        sq_error=sums[columns.SQ_ERROR],
        sq_input=sums[columns.SQ_INPUT],
        sq_output=sums[columns.SQ_OUTPUT],
    )


def sums_of_each(
    rows: NDArray[np.float64], num_elements: Sequence[int], num_degenerate: Sequence[int]
) -> list[ErrorSums]:
    """Return the sums of many slices or small tensors of one row (SUM_COLUMNS,) each; works by column, for speed."""

    def counts(column: int) -> list[int]:
        listed: list[int] = rows[:, column].astype(np.int64).tolist()
        return listed

    def floats(column: int) -> list[float]:
        listed: list[float] = (rows[:, column] + 0.0).tolist()
        return listed

    def sums(column: int) -> list[Expansion]:
        values = floats(column)
        return [(value,) if value else () for value in values] if 0.0 in values else list(zip(values, strict=True))

    by_field = {
        "num_elements": num_elements,
        "num_nonfinite": counts(columns.NONFINITE),
        "num_nonfinite_output": counts(columns.NONFINITE_OUTPUT),
        "num_clipped": counts(columns.CLIPPED),
        "num_zeroed": counts(columns.ZEROED),
        "num_degenerate": num_degenerate,
        "input_min": floats(columns.INPUT_MIN),
        "input_max": floats(columns.INPUT_MAX),
        "max_abs_error": floats(columns.MAX_ABS_ERROR),
        "error": sums(columns.ERROR),
        "abs_error": sums(columns.ABS_ERROR),
        "sq_error": sums(columns.SQ_ERROR),
        "sq_input": sums(columns.SQ_INPUT),
        "sq_output": sums(columns.SQ_OUTPUT),
    }
    return list(map(ErrorSums._make, zip(*map(by_field.__getitem__, ErrorSums._fields), strict=True)))


def slice_sums(layout: Layout, rows: NDArray[np.float64], degenerate: NDArray[np.bool_]) -> list[ErrorSums]:
    """Return the sums of each slice of a tensor, from one row each."""
    sizes = [layout.size_of(s) for s in range(len(rows))]
    return sums_of_each(rows, sizes, degenerate.astype(np.int64).tolist())


@dataclass(frozen=True, kw_only=True)
class BlockPart:
    """Measurement of one block."""

    rows: NDArray[np.float64]
    """Sums, shape (chunks, SUM_COLUMNS)."""
    slices: "BlockSlices | None"
    """None where the slices are those of the whole tensor."""


@dataclass(frozen=True, kw_only=True)
class BlockSlices:
    """The slices that begin in a block, and the first if it began in the previous block."""

    overall_range: OverallRange
    """Union of their ranges; NaN where no slice has a number."""
    num_degenerate: int
    """Number of degenerate slices that begin here, judged by their elements in this block."""
    head_is_degenerate: bool
    """True where the slice that began in the previous block is degenerate."""
    tail_is_degenerate: bool
    """True where the last slice is degenerate."""
    rows: NDArray[np.float64] | None
    """Sums per slice, (slices that begin here, SUM_COLUMNS), over whole slices; None where not requested."""
    degenerate: NDArray[np.bool_] | None
    """Degenerate slices, (slices that begin here,); None where not requested."""


def block_slices(
    ranges: Floats, degenerate: NDArray[np.bool_], rows: NDArray[np.float64] | None, *, continues: bool
) -> BlockSlices:
    """Return the slices of a block from their range bounds (2, slices).

    `rows` (slices, SUM_COLUMNS) are their sums, where requested; `continues`: the first began in the previous block.
    """
    begin = 1 if continues else 0
    if rows is not None:  # sums of whole slices, beyond the block's end too
        degenerate = degenerate | (rows[:, columns.NONFINITE_OUTPUT] > 0)
    return BlockSlices(
        overall_range=overall_range_of(ranges),
        num_degenerate=int(degenerate[begin:].sum()),
        head_is_degenerate=continues and bool(degenerate[0]),
        tail_is_degenerate=bool(degenerate[-1]),
        rows=None if rows is None else rows[begin:],
        degenerate=None if rows is None else degenerate[begin:],
    )


def measured_blocks(layout: Layout, rows: Sequence[NDArray[np.float64]], slices: Sequence[BlockSlices]) -> Measurement:
    """Return the measurement of a tensor from the sums of its blocks, and its slices, block by block or all at once."""
    slice_rows = [block.rows for block in slices if block.rows is not None]
    degenerate = [block.degenerate for block in slices if block.degenerate is not None]
    num_degenerate = sum(block.num_degenerate for block in slices)
    for before, block in pairwise(slices):  # a slice shared by two blocks counts once
        num_degenerate += block.head_is_degenerate and not before.tail_is_degenerate
    return Measurement(
        sums=error_sums(rows, layout.num_elements, num_degenerate),
        overall_range=overall_range_of(np.array([block.overall_range for block in slices]).T),
        num_slices=layout.num_slices,
        slice_sums=slice_sums(layout, np.concatenate(slice_rows), np.concatenate(degenerate)) if slice_rows else None,
    )
