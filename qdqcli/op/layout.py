"""Layout: which elements of a tensor share a range.

A slice is the set of elements with one range: the whole tensor, one index along `axis`, or a group of neighbours along
the last axis. Two neighbouring axes count as one dimension. In the tensor's flat C order slices are runs of `inner`
neighbours; `row` elements make a row, in which the runs follow one another (the last of a row may be shorter). Rows
either repeat the same slices (`axis`) or bring new ones (groups): element i belongs to slice
`i // row * advance + i % row // inner`.
"""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from qdqcli.errors import SpecError
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec, axis_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Index = TypeVar("Index", int, "NDArray[np.int64]")


class Elements(NamedTuple):
    """Elements [start, stop) of the flat tensor, as kernels take them: the first one of an array is element `base`."""

    base: int
    start: int
    stop: int


class Steps(NamedTuple):
    """A layout as kernels take it: column s of an array of slices is slice `first_slice` + s."""

    inner: int
    row: int
    advance: int
    first_slice: int
    end: int
    """Element at which the last slice ends."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Slices of a flat tensor; `inner` and `row` are at least 1."""

    inner: int
    """Elements in one run of a slice."""
    row: int
    """Elements per row, after which the pattern of slices repeats."""
    advance: int
    """New slices per row; 0 where rows repeat the same slices."""
    num_ranges: int
    """Number of ranges that can be given, also for an empty tensor."""
    num_slices: int
    """Number of ranges with elements; 0 for an empty tensor."""
    num_elements: int
    is_contiguous: bool
    """True where each slice is a single run, so that its range depends on no other part of the tensor."""

    def steps(self, first_slice: int = 0, end: int | None = None) -> Steps:
        """Return the steps from which kernels compute an element's slice; `end`: of the last slice there."""
        return Steps(self.inner, self.row, self.advance, first_slice, self.num_elements if end is None else end)

    def slice_of(self, element: Index) -> Index:
        """Return the slice of an element, or of each element of an array."""
        return element // self.row * self.advance + element % self.row // self.inner

    def start_of(self, slice_index: int) -> int:
        """Return the first element of a slice; past the last slice, the tensor's end."""
        if slice_index >= self.num_slices:
            return self.num_elements
        rows, run = divmod(slice_index, self.advance) if self.advance else (0, slice_index)
        return rows * self.row + run * self.inner

    def whole_slices(self, start: int, stop: int) -> tuple[int, int]:
        """Widen [start, stop) to whole slices, where each slice is a single run."""
        column = (stop - 1) % self.row
        last_run = column - column % self.inner
        return start - start % self.row % self.inner, stop - 1 - column + min(last_run + self.inner, self.row)

    def size_of(self, slice_index: int) -> int:
        """Return the number of elements of a slice."""
        if self.is_contiguous:
            return self.start_of(slice_index + 1) - self.start_of(slice_index)
        return self.num_elements // self.num_slices

    @classmethod
    def of(cls, shape: tuple[int, ...], spec: QuantSpec) -> "Layout":
        """Return the layout of a tensor of `shape` in C order.

        Raises:
            SpecError: the tensor lacks `axis`, or `group_size` does not divide the last dimension.
        """
        size, advance = prod(shape), 0
        if spec.group_size is not None:
            last = shape[-1] if shape else 1
            if last % spec.group_size and not spec.ragged_groups:
                raise SpecError(
                    f"group_size {spec.group_size} does not divide the last dimension of shape {list(shape)}; "
                    "choose a divisor, or ragged_groups"
                )
            inner, row, advance = spec.group_size, max(last, 1), max(-(-last // spec.group_size), 1)
            num_ranges = prod(shape[:-1]) * -(-last // spec.group_size)
        elif spec.axis == WHOLE_TENSOR:
            inner = row = max(size, 1)
            num_ranges = 1
        else:
            first, last = spec.axes
            if last >= len(shape):
                raise SpecError(
                    f"axis is {axis_text(spec.axis)}; a tensor of shape {list(shape)} has rank {len(shape)}"
                )
            inner, num_ranges = max(prod(shape[last + 1 :]), 1), prod(shape[first : last + 1])
            row = max(inner * num_ranges, 1)
        return cls(
            inner=inner,
            row=row,
            advance=advance,
            num_ranges=num_ranges,
            num_slices=num_ranges if size else 0,
            num_elements=size,
            is_contiguous=advance > 0 or size <= row,
        )
