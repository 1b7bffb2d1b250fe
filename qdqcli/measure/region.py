"""A tensor so large that its output becomes durable region by region: a run that resumes goes on in its middle."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qdqcli.measure.blocks import Block


@dataclass(frozen=True, kw_only=True)
class Region:
    """Blocks of one tensor that follow one another, and what was found out about them."""

    way: str
    """In which they were worked on: another one, for which less memory may be a reason, asks for other findings."""
    start: int
    stop: int
    """Elements [start, stop) of the flat tensor."""
    findings: Sequence[Any]
    """One of each block, as JSON values."""


class Regions:
    """The regions of one tensor: those that an earlier run has done, and where this run's are kept.

    A region has `size` bytes or little more. `keep` is called with each but the last, whose bytes are written but not
    flushed yet.
    """

    def __init__(self, done: Sequence[Region], size: int, keep: Callable[[Region], None]) -> None:
        self._done, self._size, self._keep = done, size, keep

    def done(self, way: str) -> Sequence[Region]:
        """Those that an earlier run has done in that way, from the tensor's first element on."""
        return self._done if self._done and self._done[0].way == way else ()

    def ahead(self, blocks: Sequence[Block], begin: int, itemsize: int) -> Iterator[list[Block]]:
        """The blocks behind the element `begin`, which is a chunk's first, region by region."""
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
        """Let a run that resumes find the region done."""
        self._keep(region)
