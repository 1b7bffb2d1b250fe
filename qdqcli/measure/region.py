"""Regions of a large tensor whose output becomes durable one by one: a resumed run continues within the tensor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qdqcli.measure.blocks import Block


@dataclass(frozen=True, kw_only=True)
class Region:
    """Consecutive blocks of one tensor and their measurements."""

    way: str
    """Execution strategy; with another one, e.g. for lack of memory, the findings cannot be reused."""
    start: int
    stop: int
    """Elements [start, stop) of the flat tensor."""
    findings: Sequence[Any]
    """One entry per block, as JSON values."""


class Regions:
    """Regions of one tensor: those that an earlier run finished, and a callback for those of this run.

    A region has `size` bytes or little more. `keep` is called with each but the last, whose bytes are written but not
    flushed yet.
    """

    def __init__(self, done: Sequence[Region], size: int, keep: Callable[[Region], None]) -> None:
        self._done, self._size, self._keep = done, size, keep

    def done(self, way: str) -> Sequence[Region]:
        """Return the regions that an earlier run finished with this strategy, from the tensor's first element on."""
        return self._done if self._done and self._done[0].way == way else ()

    def ahead(self, blocks: Sequence[Block], begin: int, itemsize: int) -> Iterator[list[Block]]:
        """Yield the blocks from element `begin` on, which is a chunk's first, region by region."""
        region: list[Block] = []
        for start, stop in blocks:
            if stop > begin:
                region.append((max(start, begin), stop))
            if region and (region[-1][1] - region[0][0]) * itemsize >= self._size:
                yield region
                region = []
        if region:
            yield region

    def keep(self, region: Region) -> None:
        """Record a finished region for a resumed run."""
        self._keep(region)
