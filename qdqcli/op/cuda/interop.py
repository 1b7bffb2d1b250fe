"""Array libraries with CUDA device memory: how the op reads their arrays and creates new ones.

PyTorch and CuPy are known by name, for their streams and stream-aware allocators; Numba's own arrays and others are
read through `__cuda_array_interface__` or DLPack. To add one: a class that implements `Kind`, and a line in `KINDS`.
"""

import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qdqcli.errors import DTypeError
from qdqcli.op.cuda.target import DeviceArray, Stream, array_at, array_from_dlpack, cuda, stream_at

Array = Any
"""An array of any library."""


class Kind(Protocol):
    """Adapter for one array and its library.

    Memory from `empty` may be freed as soon as all work on it is enqueued on the stream.
    """

    dtype: str
    """Name of the array's dtype, e.g. `float32`."""
    shape: tuple[int, ...]
    device: int
    stream: Stream
    """The caller's current stream, as a `numba.cuda` stream."""

    def __init__(self, array: Array) -> None: ...

    def elements(self) -> Array:
        """Return the array, C-contiguous: itself, or a copy."""

    def empty(self, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        """Return a new array, of this dtype if no other is named."""

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return a new array of zeros of this dtype."""

    def flat(self, array: Array, dtype: DTypeLike, size: int) -> DeviceArray:
        """View memory returned by one of the methods above as `size` elements of `dtype`."""

    def finished(self, array: Array) -> Array:
        """Convert an array returned by `empty` to the caller's library."""

    def to_host(self, array: Array) -> NDArray[np.generic]:
        """Copy an array of this kind to host memory, in a dtype that NumPy knows."""


class TorchKind:
    """Adapter for PyTorch tensors."""

    def __init__(self, array: Array) -> None:
        self._torch = sys.modules["torch"]
        self._tensor = array.detach()
        self.dtype = str(array.dtype).removeprefix("torch.")
        self.shape = tuple(array.shape)
        self.device = array.device.index
        self.stream = stream_at(self._torch.cuda.current_stream(array.device).cuda_stream)

    def elements(self) -> Array:
        return self._tensor.contiguous()

    def empty(self, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype or self.dtype), device=self._tensor.device)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self._torch.zeros(shape, dtype=self._tensor.dtype, device=self._tensor.device)

    def flat(self, array: Array, dtype: DTypeLike, size: int) -> DeviceArray:
        return array_at(array.data_ptr(), dtype, size, owner=array)

    def finished(self, array: Array) -> Array:
        return array

    def to_host(self, array: Array) -> NDArray[np.generic]:
        tensor = array.detach().cpu()
        host: NDArray[np.generic] = (tensor.float() if tensor.dtype == self._torch.bfloat16 else tensor).numpy()
        return host


class CupyKind:
    """Adapter for CuPy arrays."""

    def __init__(self, array: Array) -> None:
        self._cupy = sys.modules["cupy"]
        self._array = array
        self.dtype, self.shape, self.device = str(array.dtype), tuple(array.shape), array.device.id
        with array.device:
            self.stream = stream_at(self._cupy.cuda.get_current_stream().ptr)

    def elements(self) -> Array:
        with self._array.device:
            return self._cupy.ascontiguousarray(self._array)

    def empty(self, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        with self._array.device:
            return self._cupy.empty(shape, dtype or self._array.dtype)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        with self._array.device:
            return self._cupy.zeros(shape, self._array.dtype)

    def flat(self, array: Array, dtype: DTypeLike, size: int) -> DeviceArray:
        return array_at(array.data.ptr, dtype, size, owner=array)

    def finished(self, array: Array) -> Array:
        return array

    def to_host(self, array: Array) -> NDArray[np.generic]:
        host: NDArray[np.generic] = array.get()
        return host


class NumbaKind:
    """Adapter for arrays of Numba, or of a library that is not known here."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._view = _numba_array(array)
        if not self._view.is_c_contiguous():
            raise DTypeError(
                f"a {type(array).__name__} on a CUDA device must be in C order without gaps; copy it first"
            )
        self.dtype, self.shape = str(self._view.dtype), tuple(self._view.shape)
        self.device = _device_of(array)
        self.stream = self._view.stream or cuda.default_stream()

    def elements(self) -> Array:
        return self._view

    def empty(self, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        return cuda.device_array(shape, dtype or self._view.dtype, stream=self._view.stream)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return cuda.to_device(np.zeros(shape, self._view.dtype), self.stream)

    def flat(self, array: Array, dtype: DTypeLike, size: int) -> DeviceArray:
        return array.reshape(array.size).view(dtype)[:size]

    def finished(self, array: Array) -> Array:
        if self._view is self._array or not hasattr(self._array, "__array_namespace__"):
            return array
        self.stream.synchronize()  # an unknown library does not know this stream
        return self._array.__array_namespace__().asarray(array)

    def to_host(self, array: Array) -> NDArray[np.generic]:
        host: NDArray[np.generic] = _numba_array(array).copy_to_host()
        return host


KINDS: dict[str, type[Kind]] = {"torch": TorchKind, "cupy": CupyKind}
"""Adapters by the package of the array's type; `NumbaKind` for all others."""


def kind_of(array: Array) -> Kind:
    """Return the adapter for an array on a device."""
    return KINDS.get(type(array).__module__.split(".")[0], NumbaKind)(array)


def _numba_array(array: Array) -> DeviceArray:
    if getattr(array, "__cuda_ndarray__", False):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        return cuda.as_cuda_array(array)
    return array_from_dlpack(array)


def _device_of(array: Array) -> int:
    if not getattr(array, "__cuda_ndarray__", False) and hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[1])
    return int(cuda.current_context().device.id) if hasattr(cuda.current_context().device, "id") else 0
