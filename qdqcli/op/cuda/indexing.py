"""Mapping from the elements of one launch to their slices, without division.

A division of 64-bit integers costs a GPU more than the op itself. Indices of a launch stay below 2^31, where division
by a constant is a multiplication and a shift.
"""

from collections.abc import Iterator

from qdqcli.errors import SpecError
from qdqcli.op.jit.register import inlined
from qdqcli.op.layout import Layout

LAUNCH_ELEMENTS = 1 << 30
"""Maximum elements in one launch; whole chunks."""
ONE_SLICE, TWO_ROWS, MANY_ROWS = range(3)

SliceMap = tuple[int, ...]
"""Nine numbers for `slice_at`: the method, then its parameters."""


@inlined
def slice_at(i: int, slice_map: SliceMap) -> int:
    """Return the slice of element `i` of a launch, as a column of its qparams."""
    if slice_map[0] == ONE_SLICE:
        return slice_map[1]
    if slice_map[0] == TWO_ROWS:
        if i < slice_map[3]:
            return slice_map[1] + (((slice_map[2] + i) * slice_map[7]) >> slice_map[8])
        return slice_map[4] + (((i - slice_map[3]) * slice_map[7]) >> slice_map[8])
    position = slice_map[2] + i
    r = (position * slice_map[4]) >> slice_map[5]
    return slice_map[1] + r * slice_map[6] + (((position - r * slice_map[3]) * slice_map[7]) >> slice_map[8])


def launches(layout: Layout, start: int, stop: int, first_slice: int) -> Iterator[tuple[int, int, SliceMap]]:
    """Split the elements [start, stop) into launches (start, stop, slice_map); indices in `slice_map` count from that
    start.

    Column 0 of the qparams is slice `first_slice`.
    """
    for first in range(start, stop, LAUNCH_ELEMENTS):
        last = min(first + LAUNCH_ELEMENTS, stop)
        yield first, last, slice_map_of(layout, first, last, first_slice)


def slice_map_of(layout: Layout, start: int, stop: int, first_slice: int) -> SliceMap:
    """Return the slice map of the elements [start, stop), at most LAUNCH_ELEMENTS.

    Raises:
        SpecError: groups of more than LAUNCH_ELEMENTS elements, with a shorter last group per row.
    """
    inner, row, advance = layout.inner, layout.row, layout.advance
    r, column = divmod(start, row)
    run, within = divmod(column, inner)
    here, row_left = r * advance + run - first_slice, row - column
    run_left = min(inner - within, row_left)
    if stop - start <= run_left:
        return (ONE_SLICE, here, *(0,) * 7)
    if inner > LAUNCH_ELEMENTS:  # at most one run ends in a launch
        if row % inner:
            raise SpecError(f"group_size {inner} with a shorter last group: CUDA takes up to {LAUNCH_ELEMENTS}")
        after = (r + 1) * advance - first_slice if run_left == row_left else here + 1
        return (TWO_ROWS, here, 0, run_left, after, 0, 0, 0, 0)
    if stop - start <= row_left or row > LAUNCH_ELEMENTS:
        return (TWO_ROWS, here, within, row_left, (r + 1) * advance - first_slice, 0, 0, *_divisor(inner))
    return (MANY_ROWS, r * advance - first_slice, column, row, *_divisor(row), advance, *_divisor(inner))


def _divisor(number: int) -> tuple[int, int]:
    """Return (factor, shift): i // number is (i * factor) >> shift for 0 <= i < 2^31; the product stays below 2^63.

    Source: Granlund and Montgomery, Division by invariant integers using multiplication, 1994, theorem 4.2.
    """
    bits = (number - 1).bit_length()
    shift = 31 + bits
    return -(-(1 << shift) // number), shift
