"""The protocol of a range estimator and the registry of them.

To add one: a module with a class that keeps the contract, and a line in `ESTIMATORS`.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qdqcli.op.layout import Layout
    from qdqcli.op.params import Floats


class RangeEstimator(Protocol):
    """Chooses the ranges of the slices [first_slice, first_slice + num_slices) of a tensor from its elements.

    1. Parts of the tensor may be seen in any order, cut anywhere and from several threads: the result is the same bits.
    2. Memory does not grow with the number of elements.
    """

    def __init__(self, layout: "Layout", dtype: str, first_slice: int, num_slices: int) -> None: ...

    def see(self, x: "NDArray[Any]", start: int, stop: int) -> None:
        """Take in the elements [start, stop), whose stored form is `x`."""

    def ends(self) -> "Floats":
        """The ends (2, slices) of the ranges; NaN where a slice has no number."""


ESTIMATORS = {"minmax": "qdqcli.ranges.minmax:MinMax"}
"""Name -> the estimator, imported on demand."""


@cache
def estimator(name: str) -> type[RangeEstimator]:
    """Load the estimator called `name`, one of `ESTIMATORS`."""
    module, attribute = ESTIMATORS[name].split(":")
    found: type[RangeEstimator] = getattr(import_module(module), attribute)
    return found
