"""The op on arrays in CUDA device memory: elements stay on the device, and the result is of the caller's array type.

Work is enqueued on the caller's stream without waiting for it. Range ends are needed on the host: ends given as device
arrays are copied from there, which waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qdqcli.errors import DTypeError, SpecError
from qdqcli.op.cuda import launch
from qdqcli.op.cuda.interop import Array, Kind, kind_of
from qdqcli.op.cuda.target import DeviceArray, cuda, device_errors
from qdqcli.op.given_ranges import given_ranges, gradient_ranges
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.on_device import is_on_device
from qdqcli.op.params import FLAG_ROWS, FLOAT_TYPE, QPARAM_ROWS, STORAGE, Floats, op_and_codes
from qdqcli.op.spec import QuantSpec

_DTYPES = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16"}


def quantize_and_dequantize(array: Array, input_min: Array, input_max: Array, spec: QuantSpec) -> Array:
    """Quantize and dequantize; arguments are checked as for host arrays.

    Raises:
        SpecError, DTypeError: as for host arrays.
        UnavailableError: the device failed or ran out of memory.
    """
    with _Call.on(array) as call:
        layout = Layout.of(call.kind.shape, spec)
        ranges = None
        if spec.range_given:
            ranges = given_ranges(
                call.end("input_min", input_min), call.end("input_max", input_max), spec, layout, call.dtype
            )
        out = call.kind.empty(call.kind.shape)
        if layout.num_elements:
            call.quantize(call.kind.elements(), out, layout, spec, ranges)
        return call.kind.finished(out)


def differentiate(
    gradients: Array, array: Array, input_min: Array, input_max: Array, spec: QuantSpec
) -> tuple[Array, Array, Array]:
    """Return the gradient of the op: (input_backprop, input_min_backprop, input_max_backprop)."""
    with _Call.on(array) as call:
        if not is_on_device(gradients):
            raise DTypeError(f"gradients are a {type(gradients).__name__} on the host; the input is on a CUDA device")
        theirs = kind_of(gradients)
        if theirs.dtype != call.kind.dtype:
            raise DTypeError(f"gradients are {theirs.dtype} and input is {call.kind.dtype}; they must have one dtype")
        layout = Layout.of(call.kind.shape, spec)
        if theirs.shape != call.kind.shape:
            raise SpecError(f"gradients have shape {list(theirs.shape)}; the input has {list(call.kind.shape)}")
        given = call.end("input_min", input_min), call.end("input_max", input_max)
        ranges = gradient_ranges(*given, spec, layout, call.dtype)
        out = call.kind.empty(call.kind.shape)
        if layout.num_elements:
            call.differentiate(theirs, out, layout, ranges)
        zeros = [call.kind.zeros(np.shape(end)) for end in given]
        return call.kind.finished(out), call.kind.finished(zeros[0]), call.kind.finished(zeros[1])


class _Call:
    """One call: the input's kind, and device memory that lives until all work on it is enqueued."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        if kind.dtype not in _DTYPES:
            raise DTypeError(f"input has dtype {kind.dtype}; the op takes bfloat16, float16, float32 and float64")
        self.dtype = _DTYPES[kind.dtype]

    @classmethod
    @contextmanager
    def on(cls, array: Array) -> "Iterator[_Call]":
        """Start a call on the array's device; device failures are raised as `UnavailableError`."""
        with device_errors():
            kind = kind_of(array)
            with cuda.gpus[kind.device]:
                yield cls(kind)

    def end(self, name: str, end: Array) -> NDArray[np.generic]:
        """Return an end of a range on the host."""
        if end is None:
            raise SpecError(f"{name} is missing; range_given needs both ends")
        return kind_of(end).to_host(end) if is_on_device(end) else np.asarray(end)

    def quantize(self, x: Array, out: Array, layout: Layout, spec: QuantSpec, ranges: Floats | None) -> None:
        """Enqueue the op on the stream."""
        size, slices, number, stream = layout.num_elements, layout.num_slices, FLOAT_TYPE[self.dtype], self.kind.stream
        device_x, device_out = (self.kind.flat(a, STORAGE[self.dtype], size) for a in (x, out))
        elements, device_ranges = Elements(0, 0, size), self._rows(2, slices, number)
        if ranges is None:
            order_keys = self._rows(2, slices, launch.KEY[self.dtype])
            launch.measure(device_x, elements, layout, 0, order_keys, self.dtype, stream)
            launch.decode_order_keys(order_keys, device_ranges, self.dtype, stream)
        else:
            device_ranges.copy_to_device(np.ascontiguousarray(ranges), stream)
        qparams = launch.device_qparams(
            self._rows(QPARAM_ROWS, slices, number), self._rows(FLAG_ROWS, slices, np.bool_)
        )
        op, codes = op_and_codes(spec, self.dtype)
        launch.make_qparams(device_ranges, codes, op, qparams, stream)
        launch.quantize(device_x, device_out, elements, launch.DeviceParams(layout, 0, qparams, op), stream)

    def differentiate(self, gradients: Kind, out: Array, layout: Layout, ranges: Floats) -> None:
        """Enqueue the gradient on the stream."""
        stream = self.kind.stream
        device_ranges = self._rows(2, layout.num_slices, FLOAT_TYPE[self.dtype])
        device_ranges.copy_to_device(np.ascontiguousarray(ranges), stream)
        outside = self._rows(1, 1, np.int64)[0]  # the count is unused, so it is not initialized
        flat_gradients, x, flat_out = (
            self.kind.flat(array, STORAGE[self.dtype], layout.num_elements)
            for array in (gradients.elements(), self.kind.elements(), out)
        )
        launch.differentiate(flat_gradients, x, flat_out, 0, layout, device_ranges, self.dtype, outside, stream)

    def _rows(self, rows: int, columns: int, dtype: DTypeLike) -> DeviceArray:
        scratch = self.kind.empty((rows * columns * np.dtype(dtype).itemsize,), "uint8")
        return self.kind.flat(scratch, dtype, rows * columns).reshape(rows, columns)
