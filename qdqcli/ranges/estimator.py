"""Protocol and registry of range estimators.

To add one: a module with a class that keeps the contract, and a line in `ESTIMATORS`.

An estimator knows neither axes nor files. It sees slices: the elements that share a range, contiguous and in the
tensor's order. The caller gathers them (`measure/estimate.py`).
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from qdqcli.op.layout import Elements

if TYPE_CHECKING:
    from qdqcli.op.histogram import PatternHistogram
    from qdqcli.op.layout import Layout, Steps
    from qdqcli.op.params import Floats, Stored
    from qdqcli.op.spec import QuantSpec


@dataclass(frozen=True, kw_only=True)
class WholeSlices:
    """Adjacent whole slices in memory, each contiguous and of at most CHUNK_ELEMENTS elements."""

    x: "Stored"
    """Stored elements."""
    start: int
    """Index in the layout of x[0], which begins a slice."""
    layout: "Layout"

    @property
    def stop(self) -> int:
        """Index after the last element."""
        return self.start + len(self.x)

    @property
    def first_slice(self) -> int:
        return self.layout.slice_of(self.start)

    @property
    def num_slices(self) -> int:
        return self.layout.slice_of(self.stop - 1) + 1 - self.first_slice

    @property
    def indices(self) -> "tuple[Elements, Steps]":
        """Kernel arguments `elements` and `steps`."""
        return Elements(self.start, self.start, self.stop), self.layout.steps(self.first_slice, self.stop)


class LongSlice(Protocol):
    """Range of one slice of any length, which is seen in parts; each pass sees all of them once."""

    def see(self, x: "Stored", start: int, stop: int) -> None:
        """Process the elements [start, stop) of the slice, stored in `x`; `start` begins a chunk."""

    def finish_pass(self) -> bool:
        """End a pass, with no `see` in progress; return True if the range is known, False to request another pass."""

    def ranges(self) -> "Floats":
        """Return the range, shape (2, 1)."""


class RangeEstimator(Protocol):
    """Chooses the ranges of slices from their elements.

    1. A slice's range depends only on its elements, their order and the settings: parts may be seen in any order, from
       several threads at once, and a slice may come in any of the three forms. Exception: `of_patterns` may add in
       another order; the same tensors always take that form.
    2. Ends are numbers of the arithmetic (see `value.py`), lower <= upper. Non-finite elements are ignored; a slice
       without finite elements has the range [0, 0]. Only minmax, which is the op, includes infinities, and returns NaN
       for an all-NaN slice.
    3. Memory does not grow with the number of elements.
    """

    def __init__(self, spec: "QuantSpec", dtype: str) -> None: ...

    def of_slices(self, slices: WholeSlices) -> "Floats":
        """Return the ranges, shape (2, slices)."""

    def of_patterns(self, patterns: "PatternHistogram") -> "Floats":
        """Return the ranges, shape (2, 1), of a slice of 16-bit elements, from their counts."""

    def of_long_slice(self, num_elements: int) -> LongSlice:
        """Start a slice that is longer than a chunk, or is a whole tensor."""


ESTIMATORS = {
    "minmax": "qdqcli.ranges.minmax:MinMaxEstimator",
    "percentile": "qdqcli.ranges.percentile:PercentileEstimator",
    "mse": "qdqcli.ranges.mse:MseEstimator",
}
"""Name -> estimator class, imported on demand."""


@cache
def estimator(name: str) -> type[RangeEstimator]:
    """Load the estimator called `name`, one of `ESTIMATORS`."""
    module, attribute = ESTIMATORS[name].split(":")
    found: type[RangeEstimator] = getattr(import_module(module), attribute)
    return found
