"""The only importer of `numba.cuda`: the kernel decorator, and CUDA's versions of the primitives.

Files of `op/cuda/` import it; to import those, first check `backend.missing_for_cuda`. In Numba's simulator the
kernels and the primitives are plain Python.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba.core import config, types
from numba.extending import overload
from numpy.typing import DTypeLike

from qdqcli.errors import UnavailableError
from qdqcli.op import primitives

cuda: Any = _cuda
"""`numba.cuda`."""
DeviceArray = Any
"""An array of `numba.cuda` in device memory."""
Stream = Any
"""A stream of `numba.cuda`."""
Launchable = Any
"""A kernel of `numba.cuda`, also with the shape of a launch."""
_config: Any = config
SIMULATED = bool(vars(config)["ENABLE_CUDASIM"])
"""True where kernels run in Python, with an OS thread for each CUDA thread."""


def device_kernel(function: Callable[..., None]) -> Launchable:
    """Compile a kernel by `numba.cuda.jit`, once for each set of argument types, at the first launch.

    No fast math, so IEEE division and subnormals. NVVM contracts an adjacent multiply and add, and so does ptxas for
    instructions that do not name their rounding: kernels add products with `primitives.add`.
    """
    kernel = cuda.jit(fastmath=False)(function)
    return kernel if SIMULATED else _Kernel(kernel)


class _Kernel:
    """Kernel whose small launches are intended: Numba would warn about each."""

    _changing = Lock()

    def __init__(self, kernel: Launchable) -> None:
        self._kernel = kernel
        self.py_func = kernel.py_func

    def __getitem__(self, shape: tuple[object, ...]) -> Launchable:
        # A warnings filter would apply to the whole process, and would not outlive pytest's own.
        with self._changing:
            before = _config.CUDA_LOW_OCCUPANCY_WARNINGS
            _config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
            try:
                return self._kernel[shape]
            finally:
                _config.CUDA_LOW_OCCUPANCY_WARNINGS = before


def cast(number: primitives.Number, compute_type: primitives.Number) -> primitives.Number:
    """Convert a number to the type of `compute_type`."""
    return compute_type.dtype.type(number)


if not SIMULATED:
    from numba.cuda import libdevice

    def _in_libdevice(function: Callable[..., object], of_float: object, of_double: object) -> None:
        """Make `function(v)` a function of libdevice, for float32 and float64."""

        @overload(function, target="cuda")
        def _typed(v):
            chosen = {types.float32: of_float, types.float64: of_double}.get(v)
            return chosen and (lambda v: chosen(v))

    _in_libdevice(primitives.rint, libdevice.rintf, libdevice.rint)
    _in_libdevice(primitives.floor, libdevice.floorf, libdevice.floor)

    @overload(primitives.add, target="cuda")
    def _add(a, b):
        exact = {types.float32: libdevice.fadd_rn, types.float64: libdevice.dadd_rn}.get(a) if a == b else None
        return exact and (lambda a, b: exact(a, b))

    @overload(cast, target="cuda")
    def _cast(number, compute_type):
        kind = compute_type
        return lambda number, compute_type: kind(number)


# ------------------------------------------------------------------ arrays and streams of other libraries


def stream_at(handle: int) -> Stream:
    """Wrap a stream of another library; 0 is the default stream."""
    return cuda.external_stream(handle) if handle else cuda.default_stream()


def array_at(address: int, dtype: DTypeLike, size: int, owner: object) -> DeviceArray:
    """View device memory of `owner` as a flat array."""
    return _view(address, dtype, (size,), None, owner)


def array_from_dlpack(array: Any) -> DeviceArray:
    """View a C-ordered array that only offers DLPack; its library's work on the default stream is waited for."""
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_dlpack(array, stream_ptr=0)
    itemsize = np.dtype(view.dtype).itemsize
    strides = None if view.strides is None else tuple(stride * itemsize for stride in view.strides)
    return _view(view.ptr, view.dtype, tuple(view.shape), strides, view)


def _view(
    address: int, dtype: DTypeLike, shape: tuple[int, ...], strides: tuple[int, ...] | None, owner: object
) -> DeviceArray:
    interface = {"data": (address, False), "typestr": np.dtype(dtype).str, "shape": shape, "strides": strides}
    return cuda.from_cuda_array_interface(interface | {"version": 3}, owner=owner, sync=False)


# ------------------------------------------------------------------ device errors


_DRIVER = ("numba.cuda.cudadrv.", "numba.cuda.simulator.cudadrv.", "cuda.")
"""Where the exceptions of the driver, the linker and the compiler are defined; numba-cuda launches through `cuda`."""
_TOO_OLD = ("INSUFFICIENT_DRIVER", "UNSUPPORTED_PTX_VERSION", "SYSTEM_DRIVER_MISMATCH", "SYMBOL_NOT_FOUND",
            "COMPAT_NOT_SUPPORTED_ON_DEVICE", "UNSUPPORTED_DEVSIDE_SYNC", "JIT_COMPILER_NOT_FOUND")  # fmt: skip


@contextmanager
def device_errors() -> Iterator[None]:
    """Raise failures of the device, or on the way to it, as `UnavailableError`.

    Raises:
        UnavailableError: gives the reason and what to do.
    """
    try:
        yield
    except Exception as failure:
        if not type(failure).__module__.startswith(_DRIVER):
            raise
        raise UnavailableError(explain(failure)) from failure


def explain(failure: Exception) -> str:
    """Describe a device failure in one line: the reason and what to do."""
    found = re.search(r"CUDA_ERROR_(\w+)", str(failure))
    if found is None:
        text = " ".join(str(failure).split()).removeprefix("Error at driver init: ").rstrip(".: ")
        return f"CUDA does not work here: {text}; or use --device cpu"
    name = found[1]
    if name == "OUT_OF_MEMORY":
        return "the CUDA device is out of memory; lower --max-memory or --threads, or use --device cpu"
    if name in _TOO_OLD:
        return (
            f"the NVIDIA driver is too old for the installed CUDA libraries ({found[0]}); update it, or install "
            "libraries for it: pip install 'numba-cuda[cu12]'"
        )
    if name == "NO_DEVICE":
        return "there is no CUDA device; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
    return f"the CUDA device failed ({found[0]}); nothing of its work was kept: see nvidia-smi, or use --device cpu"
