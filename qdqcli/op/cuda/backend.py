"""CUDA back end: takes parts of a tensor in host memory, returns the same values and sums as `cpu/dispatch.py`.

Each calling thread reuses its own stream and device buffers: while one thread reads a file, the copies and kernels of
others run. Elements in page-locked memory (`empty`) are copied at bus speed, without the driver's staging buffers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qdqcli.op.columns import NONFINITE, NONFINITE_OUTPUT, SUM_COLUMNS, BlockSums
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.cpu.errors import is_extreme
from qdqcli.op.cuda import launch
from qdqcli.op.cuda.target import DeviceArray, cuda, device_errors
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.params import (
    DEGENERATE,
    FLAG_ROWS,
    FLOAT_TYPE,
    QPARAM_ROWS,
    Floats,
    OrderKeys,
    Qparams,
    QuantParams,
    SettingsParams,
    Stored,
    merge_order_keys,
    op_and_codes,
)
from qdqcli.op.spec import QuantSpec
from qdqcli.stats.sums import CHUNK_ELEMENTS


@dataclass(frozen=True, kw_only=True)
class CudaParams(QuantParams):
    """Quantization parameters with a copy in device memory."""

    device: Qparams


def _on_device(params: QuantParams, layout: Layout) -> launch.DeviceParams:
    """Return the parameters of a launch."""
    assert isinstance(params, CudaParams), "from another back end"
    return launch.DeviceParams(layout, params.first_slice, params.device, params.op)


class CudaBackend:
    """The current CUDA device; methods as in `backend.Backend`."""

    takes_batches = False
    errors = staticmethod(cpu.errors)
    sum_slices = staticmethod(cpu.sum_slices)
    extremes = staticmethod(cpu.extremes)

    def __init__(self) -> None:
        self._own = local()
        with device_errors():
            device = cuda.get_current_device()
            self.name = _text(getattr(device, "name", "CUDA simulator"))

    def empty(self, nbytes: int) -> NDArray[np.uint8]:
        """Return a buffer in page-locked host memory."""
        with device_errors():
            buffer: NDArray[np.uint8] = cuda.pinned_array(max(nbytes, 1), np.uint8)[:nbytes]
            return buffer

    def measure_range(
        self, x: Stored, start: int, stop: int, layout: Layout, first_slice: int, order_keys: OrderKeys, dtype: str
    ) -> None:
        """CUDA version of `cpu.measure_range`."""
        with self._station() as station:
            there = station.scratch("order_keys", order_keys.shape, launch.KEY[dtype])
            elements = Elements(start, start, stop)
            launch.measure(station.upload("x", x), elements, layout, first_slice, there, dtype, station.stream)
            found = station.download(there)
        merge_order_keys(order_keys, found.astype(order_keys.dtype))

    def quant_params(self, ranges: Floats, spec: QuantSpec, layout: Layout, first_slice: int, dtype: str) -> CudaParams:
        """CUDA version of `cpu.quant_params`: computed on the host, a handful of numbers per slice, and copied."""
        params = cpu.quant_params(ranges, spec, layout, first_slice, dtype)
        with self._station() as station:
            arrays = (cuda.to_device(array, station.stream) for array in (params.qparams, params.flags))
            return CudaParams(**vars(params), device=launch.device_qparams(*arrays))

    def quantize(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, params: QuantParams
    ) -> None:
        """CUDA version of `cpu.quantize`."""
        if start == stop:
            return
        here = slice(start - base, stop - base)
        with self._station() as station:
            device_x = station.upload("x", x[here])
            device_y = station.scratch("y", device_x.shape, x.dtype)
            launch.quantize(
                device_x, device_y, Elements(start, start, stop), _on_device(params, layout), station.stream
            )
            station.download(device_y, y[here])

    def quantize_and_sum(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, settings: SettingsParams, *,
        keep: bool, total_bytes: int = 0,  # noqa: ARG002  # the device's result is copied
    ) -> list[NDArray[np.float64]]:  # fmt: skip
        """CUDA version of `cpu.quantize_and_sum`; each row also has the extremes of its chunk."""
        here, found = slice(start - base, stop - base), []
        with self._station() as station:
            device_x = station.upload("x", x[here])
            for params in settings.each:
                there = _on_device(params, layout)
                sums = station.sum(device_x, start, there, y[here] if keep else None)
                if sums[:, NONFINITE_OUTPUT].any():
                    params.degenerate[:] |= station.download(there.qparams.flags)[DEGENERATE, : params.num_slices]
                found.append(sums)
        return found

    def fake_quantize_and_sum(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, specs: Sequence[QuantSpec],
        dtype: str, *, keep: bool, total_bytes: int = 0,  # noqa: ARG002 - a device has no such cache
    ) -> list[BlockSums] | None:  # fmt: skip
        """CUDA version of `cpu.fake_quantize_and_sum` in memory: one upload, all the work."""
        first_slice = layout.slice_of(base)
        num_slices = layout.slice_of(base + len(x) - 1) + 1 - first_slice
        here = slice(start - base, stop - base)
        with self._station() as station:
            stream = station.stream
            order_keys, ranges, values, flags = (
                station.scratch(name, (rows, num_slices), kind)
                for name, rows, kind in (
                    ("order_keys", 2, launch.KEY[dtype]),
                    ("ranges", 2, FLOAT_TYPE[dtype]),
                    ("qparams", QPARAM_ROWS, FLOAT_TYPE[dtype]),
                    ("flags", FLAG_ROWS, np.bool_),
                )
            )
            device_x = station.upload("x", x)
            elements = Elements(base, base, base + len(x))
            launch.measure(device_x, elements, layout, first_slice, order_keys, dtype, stream)
            launch.decode_order_keys(order_keys, ranges, dtype, stream)
            found, qparams = [], launch.device_qparams(values, flags)
            for spec in specs:
                op, codes = op_and_codes(spec, dtype)
                launch.make_qparams(ranges, codes, op, qparams, stream)
                params = launch.DeviceParams(layout, first_slice, qparams, op)
                sums = station.sum(device_x[here], start, params, y[here] if keep else None)
                if sums[:, [NONFINITE, NONFINITE_OUTPUT]].any():
                    return None
                degenerate = station.download(flags)[DEGENERATE].copy()
                found.append(BlockSums(sums=sums, ranges=station.download(ranges), degenerate=degenerate))
            return found

    def differentiate(
        self, gradients: Stored, x: Stored, out: Stored, start: int, layout: Layout, ranges: Floats, dtype: str
    ) -> int:
        """Gradient of the op for the elements from `start` on; returns the number of them outside their range."""
        if not x.size:
            return 0
        with self._station() as station:
            outside = station.upload("outside", np.zeros(1, np.int64))
            device_ranges = station.upload("ranges", np.ascontiguousarray(ranges).reshape(-1)).reshape(ranges.shape)
            device_out = station.scratch("y", x.shape, x.dtype)
            arrays = station.upload("gradients", gradients), station.upload("x", x), device_out
            launch.differentiate(*arrays, start, layout, device_ranges, dtype, outside, station.stream)
            station.download(device_out, out)
            return int(station.download(outside)[0])

    @contextmanager
    def _station(self) -> Iterator["_Station"]:
        """Lend this thread's stream and buffers; on exit, even by an error, the caller's buffers are out of use."""
        with device_errors():
            if not hasattr(self._own, "station"):
                self._own.station = _Station()
            station: _Station = self._own.station
            try:
                yield station
            finally:
                station.stream.synchronize()


class _Station:
    """Resources of one thread: a stream, and device buffers by name."""

    def __init__(self) -> None:
        self.stream = cuda.stream()
        self._rooms: dict[str, DeviceArray] = {}

    def scratch(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Return the named buffer with this shape and dtype; its previous content is lost."""
        size = int(np.prod(shape))
        nbytes = max(size, 1) * np.dtype(dtype).itemsize
        held = self._rooms.get(name)
        if held is None or held.nbytes < nbytes:
            self._rooms.pop(name, None)
            del held
            held = self._rooms[name] = cuda.device_array((nbytes,), np.uint8)
        return held[:nbytes].view(dtype)[:size].reshape(shape)

    def upload(self, name: str, array: NDArray[np.generic]) -> DeviceArray:
        """Enqueue a copy of a flat array to the device."""
        there = self.scratch(name, array.shape, array.dtype)
        if array.size:
            there.copy_to_device(array, self.stream)
        return there

    def download(self, there: DeviceArray, array: NDArray[Any] | None = None, *, wait: bool = True) -> NDArray[Any]:
        """Copy a contiguous array to host memory, into `array` if given."""
        if array is None:
            array = np.empty(tuple(there.shape), there.dtype)
        if array.size:
            there.copy_to_host(array, self.stream)
        if wait:
            self.stream.synchronize()
        return array

    def sum(self, x: DeviceArray, start: int, params: launch.DeviceParams, y: Stored | None) -> NDArray[np.float64]:
        """Quantize, into `y` if given, and return the sums (chunks, SUM_COLUMNS); x[0] is element `start`."""
        sums = self.scratch("sums", (-(-x.size // CHUNK_ELEMENTS), SUM_COLUMNS), np.float64)
        device_y = x if y is None else self.scratch("y", x.shape, x.dtype)
        zero = np.float64(0) if x.dtype == np.float64 else np.float32(0)
        launch.quantize_and_sum(x, device_y, start, params, zero, sums, self.stream, keep=y is not None)
        if y is not None:
            self.download(device_y, y, wait=False)
        rows = self.download(sums)
        extreme = [chunk for chunk, row in enumerate(rows) if isinstance(zero, np.float32) and is_extreme(row)]  # type: ignore[no-untyped-call]
        if extreme:
            launch.quantize_and_sum(x, x, start, params, np.float64(0), sums, self.stream, keep=False)
            rows[extreme] = self.download(sums)[extreme]
        return rows


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
