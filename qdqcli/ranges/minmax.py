"""Min-max range: the op's own range when none is given."""

from threading import Lock

from qdqcli.op import backend as backends
from qdqcli.op.backend import Backend
from qdqcli.op.histogram import PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, Stored, empty_order_keys, merge_order_keys, ranges_of_order_keys
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import WholeSlices


class MinMax:
    """Minimum and maximum of each slice in [first_slice, first_slice + num_slices), ignoring NaN.

    Parts may be seen in any order and from several threads: the result is bit-identical. Measures on the CPU unless a
    `backend` is given.
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
        self._order_keys = empty_order_keys(num_slices, dtype)
        self._merging = Lock()

    def see(self, x: Stored, start: int, stop: int) -> None:
        """Process the elements [start, stop), stored in `x`."""
        order_keys = empty_order_keys(self._order_keys.shape[1], self._dtype)
        self._backend.measure_range(x, start, stop, self._layout, self._first_slice, order_keys, self._dtype)
        with self._merging:
            merge_order_keys(self._order_keys, order_keys)

    def finish_pass(self) -> bool:
        """Return True: one pass is enough."""
        return True

    def ranges(self) -> Floats:
        """Return the ranges, shape (2, slices); NaN for an all-NaN slice."""
        return ranges_of_order_keys(self._order_keys, self._dtype)


class MinMaxEstimator:
    """Minimum and maximum, including infinities; NaN is ignored.

    Without a given range the op uses this range and does not clamp to it: callers that pass no range to the op need
    only `MinMax`.
    """

    def __init__(
        self,
        spec: QuantSpec,  # noqa: ARG002 - the settings have no effect here
        dtype: str,
        backend: Backend | None = None,
    ) -> None:
        self._dtype, self._backend = dtype, backend

    def of_slices(self, slices: WholeSlices) -> Floats:
        measured = MinMax(slices.layout, self._dtype, slices.first_slice, slices.num_slices, self._backend)
        measured.see(slices.x, slices.start, slices.stop)
        return measured.ranges()

    def of_patterns(self, patterns: PatternHistogram) -> Floats:
        return patterns.ranges()

    def of_long_slice(self, num_elements: int) -> MinMax:
        return MinMax(Layout.of((num_elements,), QuantSpec()), self._dtype, 0, 1, self._backend)
