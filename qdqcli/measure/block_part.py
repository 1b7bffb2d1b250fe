"""BlockPart: what one block of a tensor adds to its measurement, with what is known of the slices at its edges."""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.sums import Hull, hull_of
from qdqcli.op import columns
from qdqcli.op.params import Floats
from qdqcli.op.span import BlockSums


@dataclass(frozen=True, kw_only=True)
class BlockPart:
    """What one block adds to the measurement."""

    rows: NDArray[np.float64]
    """(chunks, SUM_COLUMNS)."""
    slices: "BlockSlices | None" = None
    """Where slices are short and the block alone knows of them."""
    degenerate: Sequence[int] = ()
    """Else, where outputs are not finite: slices that are degenerate as far as the block's end, or further, shows."""

    def to_json(self) -> dict[str, Any]:
        """For a run that resumes; sums of each slice are not kept."""
        slices = None if self.slices is None else asdict(self.slices)
        return {"rows": b64encode(self.rows.tobytes()).decode(), "slices": slices, "degenerate": self.degenerate}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse."""
        rows = np.frombuffer(b64decode(data["rows"])).reshape(-1, columns.SUM_COLUMNS)
        slices = data["slices"] and BlockSlices(**data["slices"])
        return cls(rows=rows, slices=slices, degenerate=data["degenerate"])


@dataclass(frozen=True, kw_only=True)
class BlockSlices:
    """The slices that begin in a block, and the first if it began in the block before."""

    hull: Hull
    """Of their ranges; NaN where none has a number."""
    num_degenerate: int
    """Of those that begin here, as far as their elements in this block show."""
    head_is_degenerate: bool
    """The slice that began in the block before is."""
    tail_is_degenerate: bool
    """The last slice is."""
    rows: NDArray[np.float64] | None
    """(slices that begin here, SUM_COLUMNS), where they are summed; the whole of each."""
    degenerate: NDArray[np.bool_] | None
    """(slices that begin here,), likewise."""


def block_slices(
    ends: Floats, degenerate: NDArray[np.bool_], rows: NDArray[np.float64] | None, *, continues: bool
) -> BlockSlices:
    """Of a block with slices of these ends (2, slices); `continues`: the first began in the block before.

    `rows` (slices, SUM_COLUMNS) are their sums, where they are wanted.
    """
    begin = 1 if continues else 0
    if rows is not None:  # summed whole here, beyond the block's end too
        degenerate = degenerate | (rows[:, columns.NONFINITE_OUTPUT] > 0)
    return BlockSlices(
        hull=hull_of(ends),
        num_degenerate=int(degenerate[begin:].sum()),
        head_is_degenerate=continues and bool(degenerate[0]),
        tail_is_degenerate=bool(degenerate[-1]),
        rows=None if rows is None else rows[begin:],
        degenerate=None if rows is None else degenerate[begin:],
    )


def part_of(done: BlockSums, *, continues: bool) -> BlockPart:
    """What a call that did everything for a block found out; `continues` as in `block_slices`."""
    slices = block_slices(done.ends, done.degenerate, None, continues=continues)
    done.sums[0, columns.INPUT_MIN], done.sums[0, columns.INPUT_MAX] = slices.hull
    return BlockPart(rows=done.sums, slices=slices)


def count_degenerate(slices: Sequence[BlockSlices]) -> int:
    """The degenerate slices of blocks that follow one another: one that two blocks share counts once."""
    begun = sum(block.num_degenerate for block in slices)
    continued = sum(block.head_is_degenerate and not before.tail_is_degenerate for before, block in pairwise(slices))
    return begun + continued
