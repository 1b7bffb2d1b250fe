"""The range that the elements span: what the op itself does when no range is given."""

from threading import Lock
from typing import Any

from numpy.typing import NDArray

from qdqcli.op import backend as backends
from qdqcli.op.backend import Backend
from qdqcli.op.histogram import PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, empty_keys, ends_of_keys, merge_keys
from qdqcli.op.span import Span
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import WholeSlices


class MinMax:
    """Smallest and largest element of each slice, NaN ignored, over the slices [first_slice, first_slice + num_slices).

    Parts of the tensor may be seen in any order and from several threads: the result is the same bits. The
    CPU measures unless a `backend` is given.
    """

    def __init__(
        self,
        layout: Layout,
        dtype: str,
        first_slice: int,
        num_slices: int,
        backend: Backend | None = None,
    ) -> None:
        self._backend = backend or backends.backend("cpu")
        self._layout, self._dtype, self._first_slice = layout, dtype, first_slice
        self._keys = empty_keys(num_slices, dtype)
        self._merging = Lock()

    def see(self, x: NDArray[Any], start: int, stop: int) -> None:
        """Take in the elements [start, stop), whose stored form is `x`."""
        keys = empty_keys(self._keys.shape[1], self._dtype)
        self._backend.measure_range(x, start, stop, self._layout, self._first_slice, keys, self._dtype)
        with self._merging:
            merge_keys(self._keys, keys)

    def see_span(self, span: Span) -> int:
        """Take in elements of a file, of all slices; the element up to which that went well."""
        keys = empty_keys(self._keys.shape[1], self._dtype)
        files = self._backend.files
        assert files is not None  # spans are of back ends that have them
        done = files.measure_range(span, self._layout, keys, self._dtype)
        with self._merging:
            merge_keys(self._keys, keys)
        return done

    def finish_pass(self) -> bool:
        """One pass is enough."""
        return True

    def ends(self) -> Floats:
        """The ends (2, slices) of the ranges; NaN where a slice has no number."""
        return ends_of_keys(self._keys, self._dtype)


class MinMaxEstimator:
    """The smallest and the largest element, infinities too; NaN is ignored.

    The op without a given range takes this range, and does not clamp to it: whoever gives the op no range needs
    `MinMax` alone.
    """

    def __init__(
        self,
        spec: QuantSpec,  # noqa: ARG002 - the settings do not matter here
        dtype: str,
        backend: Backend | None = None,
    ) -> None:
        self._dtype, self._backend = dtype, backend

    def of_slices(self, slices: WholeSlices) -> Floats:
        measured = MinMax(slices.layout, self._dtype, slices.first_slice, slices.num_slices, self._backend)
        measured.see(slices.x, slices.start, slices.stop)
        return measured.ends()

    def of_patterns(self, patterns: PatternHistogram) -> Floats:
        return patterns.ends()

    def of_long_slice(self, num_elements: int) -> MinMax:
        return MinMax(Layout.of((num_elements,), QuantSpec()), self._dtype, 0, 1, self._backend)
