"""The protocol of a range estimator and the registry of them.

To add one: a module with a class that keeps the contract, and a line in `ESTIMATORS`.

An estimator knows nothing of axes and files. It sees slices: the elements that share a range, in the tensor's order,
one after another. Whoever calls it has gathered them (`measure/estimate.py`).
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qdqcli.op.histogram import PatternHistogram
    from qdqcli.op.layout import Layout
    from qdqcli.op.params import Floats
    from qdqcli.op.spec import QuantSpec


@dataclass(frozen=True, kw_only=True)
class WholeSlices:
    """Neighbouring slices in memory, whole, each one run of at most CHUNK_ELEMENTS elements."""

    x: "NDArray[Any]"
    """Stored elements."""
    start: int
    """The element of the layout that is x[0]; it begins a slice."""
    layout: "Layout"

    @property
    def stop(self) -> int:
        """The element behind the last."""
        return self.start + len(self.x)

    @property
    def first_slice(self) -> int:
        return self.layout.slice_of(self.start)

    @property
    def num_slices(self) -> int:
        return self.layout.slice_of(self.stop - 1) + 1 - self.first_slice

    @property
    def place(self) -> tuple[int, int, int, int, int, int, int]:
        """As the kernels take it: base, start, stop, inner, row, advance, first_slice."""
        return self.start, self.start, self.stop, *self.layout.steps, self.first_slice


class LongSlice(Protocol):
    """The range of one slice of any length, of which parts are seen, all of them once in each pass."""

    def see(self, x: "NDArray[Any]", start: int, stop: int) -> None:
        """Take in the elements [start, stop) of the slice, whose stored form is `x`; `start` begins a chunk."""

    def finish_pass(self) -> bool:
        """Whether the range is known; if not, all parts are seen once more. No part may be under way."""

    def ends(self) -> "Floats":
        """The ends (2, 1) of the range."""


class RangeEstimator(Protocol):
    """Chooses the ranges of slices from their elements.

    1. A slice's range hangs on its elements, their order and the settings alone: parts may be seen in any order, from
       several threads at once, and a slice may come in any of the three forms. An exception is `of_patterns`: it may
       add in another order, and tensors that come so always do.
    2. Ends are numbers of the arithmetic (see `value.py`), lower <= upper. Elements that are not finite do not count; a
       slice without any other has the range [0, 0]. Only minmax, which is the op, takes infinities, and gives NaN for
       a slice of NaN alone.
    3. Memory does not grow with the number of elements.
    """

    def __init__(self, spec: "QuantSpec", dtype: str) -> None: ...

    def of_slices(self, slices: WholeSlices) -> "Floats":
        """The ends (2, slices)."""

    def of_patterns(self, patterns: "PatternHistogram") -> "Floats":
        """The ends (2, 1) of a slice of 16-bit elements, from their counts."""

    def of_long_slice(self, num_elements: int) -> LongSlice:
        """A slice that is longer than a chunk, or has a tensor to itself."""


ESTIMATORS = {
    "minmax": "qdqcli.ranges.minmax:MinMaxEstimator",
    "percentile": "qdqcli.ranges.percentile:PercentileEstimator",
    "mse": "qdqcli.ranges.mse:MseEstimator",
}
"""Name -> the estimator, imported on demand."""


@cache
def estimator(name: str) -> type[RangeEstimator]:
    """Load the estimator called `name`, one of `ESTIMATORS`."""
    module, attribute = ESTIMATORS[name].split(":")
    found: type[RangeEstimator] = getattr(import_module(module), attribute)
    return found
