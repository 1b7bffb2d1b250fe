"""MinMax: the smallest and largest element of each slice, measured in parts."""

from qdqcli.op import backend as backends
from qdqcli.op.backend import Backend
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, OrderKeys, Stored, empty_order_keys, merge_order_keys, ranges_of_order_keys


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
        self._layout, self._dtype, self._first_slice, self._num_slices = layout, dtype, first_slice, num_slices
        self._idle: list[OrderKeys] = []
        """Keys that no thread is widening: as many as were widened at once."""

    def see(self, x: Stored, start: int, stop: int) -> None:
        """Process the elements [start, stop), stored in `x`."""
        try:
            order_keys = self._idle.pop()
        except IndexError:
            order_keys = empty_order_keys(self._num_slices, self._dtype)
        self._backend.measure_range(x, start, stop, self._layout, self._first_slice, order_keys, self._dtype)
        self._idle.append(order_keys)

    def finish_pass(self) -> bool:
        """Return True: one pass is enough."""
        return True

    def ranges(self) -> Floats:
        """Return the ranges, shape (2, slices); NaN for an all-NaN slice."""
        order_keys = empty_order_keys(self._num_slices, self._dtype)
        for seen in self._idle:
            merge_order_keys(order_keys, seen)
        return ranges_of_order_keys(order_keys, self._dtype)
