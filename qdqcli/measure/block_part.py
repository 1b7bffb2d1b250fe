"""BlockPart: the measurement of one block of a tensor of short slices, with the slices at its edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.sums import OverallRange, overall_range_of
from qdqcli.op import columns
from qdqcli.op.columns import BlockSums
from qdqcli.op.params import Floats


@dataclass(frozen=True, kw_only=True)
class BlockPart:
    """Measurement of one block."""

    rows: NDArray[np.float64]
    """Sums, shape (chunks, SUM_COLUMNS)."""
    slices: "BlockSlices"


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


def part_of(done: BlockSums, *, continues: bool) -> BlockPart:
    """Return the part of a block that one kernel call measured; `continues` as in `block_slices`."""
    slices = block_slices(done.ranges, done.degenerate, None, continues=continues)
    done.sums[0, columns.INPUT_MIN], done.sums[0, columns.INPUT_MAX] = slices.overall_range
    return BlockPart(rows=done.sums, slices=slices)


def count_degenerate(slices: Sequence[BlockSlices]) -> int:
    """Return the number of degenerate slices in consecutive blocks; one shared by two blocks counts once."""
    begun = sum(block.num_degenerate for block in slices)
    continued = sum(block.head_is_degenerate and not before.tail_is_degenerate for before, block in pairwise(slices))
    return begun + continued
