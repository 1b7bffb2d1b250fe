"""Protocol and registry of back ends, which process parts of a tensor on the CPU or on a CUDA device.

All return the same bits. To add one: a class that implements `Backend`, and a line in `BACKENDS`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from qdqcli.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from qdqcli.op.columns import BatchSums, BlockSums
    from qdqcli.op.layout import Layout
    from qdqcli.op.params import Floats, OrderKeys, QuantParams, SettingsParams, Stored
    from qdqcli.op.spec import QuantSpec

AUTO = "auto"
"""A CUDA device if there is one, else the CPU."""
BACKENDS = {"cpu": "qdqcli.op.cpu.dispatch:CpuBackend", "cuda": "qdqcli.op.cuda.backend:CudaBackend"}
"""Name -> back end, imported on demand."""


class Backend(Protocol):
    """Operations on parts of a tensor in host memory: the whole interface between a processor and its callers.

    1. Results are the bits of the CPU: keys, values, and sums in the order of addition of `docs/exactness.md`.
    2. All methods are thread-safe; a method returns when its result is there and the arrays are no longer in use.
    3. Failures outside this program (a device, its memory) raise `UnavailableError` with the reason.

    Elements [start, stop) are those of the flat tensor; x[0] and y[0] are element `base`.
    """

    name: str
    """Display name of the processor."""
    takes_batches: bool
    """True where `fake_quantize_and_sum_each` is implemented."""

    def empty(self, nbytes: int) -> NDArray[np.uint8]:
        """Return a buffer from which elements are transferred fastest."""

    def measure_range(
        self, x: Stored, start: int, stop: int, layout: Layout, first_slice: int, order_keys: OrderKeys, dtype: str
    ) -> None:
        """Widen `order_keys` (2, slices from `first_slice` on) by the elements [start, stop), which are `x`."""

    def quant_params(
        self, ranges: Floats, spec: QuantSpec, layout: Layout, first_slice: int, dtype: str
    ) -> QuantParams:
        """Return the qparams of the slices from `first_slice` on, with these `ranges` (2, slices)."""

    def quantize(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, params: QuantParams
    ) -> None:
        """Quantize and dequantize into `y`; `params` are from this back end."""

    def quantize_and_sum(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, settings: SettingsParams, *,
        keep: bool, total_bytes: int = 0,
    ) -> Sequence[NDArray[np.float64]]:  # fmt: skip
        """Return the error sums of each chunk under each setting, without extremes; `start` begins a chunk.

        With `keep` there is one setting, and `y` gets its output. Slices whose output became infinite or NaN are marked
        in `degenerate` of their qparams. `total_bytes` is the size of the output in memory that `y` is part of: no
        cache need keep a large one.
        """

    def fake_quantize_and_sum(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout,
        specs: Sequence[QuantSpec], dtype: str, *, keep: bool, total_bytes: int = 0,
    ) -> list[BlockSums] | None:  # fmt: skip
        """Measure, quantize and sum in one call, where `x` holds whole slices; None: go step by step.

        The settings have the same round mode and arithmetic; with `keep`, there is one. `total_bytes` as above.
        """

    def fake_quantize_and_sum_each(
        self, x: Stored, y: Stored, layouts: NDArray[np.int64], max_slices: int, spec: QuantSpec, dtype: str, *,
        keep: bool,
    ) -> BatchSums:  # fmt: skip
        """`fake_quantize_and_sum` for many tensors of at most a chunk and `max_slices` slices, which are parts of `x`.

        `layouts` (tensors, 5): first element, number of elements, and the layout's steps.
        """

    def errors(self, x: Stored, y: Stored, dtype: str) -> NDArray[np.float64]:
        """Return the error sums of each chunk of y - x, which may differ in dtype; clip counts are unknown.

        The first row has the extremes of all of `x`, whose dtype is `dtype`.
        """

    def sum_slices(
        self, x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, params: QuantParams,
        sums: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""

    def extremes(self, x: Stored, dtype: str) -> tuple[float, float]:
        """Return the smallest and the largest finite element; (inf, -inf) where there is none."""

    def differentiate(
        self, gradients: Stored, x: Stored, out: Stored, start: int, layout: Layout, ranges: Floats, dtype: str
    ) -> int:
        """Write the op's gradient of the elements from `start` on to `out`; return the number outside `ranges`."""


def backend(name: str) -> Backend:
    """Return the back end of that name, one of `BACKENDS` or `AUTO`.

    Raises:
        UnavailableError: it does not work here; gives the reason and what to do.
        UsageError: there is none.
    """
    if name == AUTO:
        name = "cpu" if missing_for_cuda() else "cuda"
    reason = missing_for_cuda() if name == "cuda" else None
    if reason is not None:
        raise UnavailableError(reason)
    if name not in BACKENDS:
        raise UsageError(f"there is no device {name!r}; it must be {', '.join(BACKENDS)} or {AUTO}")
    module, attribute = BACKENDS[name].split(":")
    found: Backend = getattr(import_module(module), attribute)()
    return found


@cache
def missing_for_cuda() -> str | None:
    """Return why CUDA cannot be used here, and what to do; None if it can."""
    from numba.core import config

    if vars(config)["ENABLE_CUDASIM"]:
        return None
    if find_spec("numba_cuda") is None:
        return "CUDA needs the package numba-cuda; install it: pip install 'qdqcli[cuda]'"
    try:
        from qdqcli.op.cuda.target import cuda, device_errors

        with device_errors():
            cuda.get_current_device()
    except UnavailableError as error:
        return str(error)
    except ImportError as error:
        return f"numba-cuda does not work here ({error}); reinstall it: pip install 'qdqcli[cuda]'"
    return None
