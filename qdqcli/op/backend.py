"""The protocol of a back end and the registry of them: where parts of a tensor are worked on, CPU or CUDA device.

The same bits come from each. To add one: a class that keeps the contract, and a line in `BACKENDS`.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from qdqcli.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdqcli.op.histogram import PatternHistogram
    from qdqcli.op.layout import Layout
    from qdqcli.op.params import Floats, Keys, QuantParams
    from qdqcli.op.span import BlockSums, Neighbours, NeighbourSums, Span
    from qdqcli.op.spec import QuantSpec

AUTO = "auto"
"""A CUDA device where there is one, else the CPU."""
BACKENDS = {"cpu": "qdqcli.op.cpu.backend:CpuBackend", "cuda": "qdqcli.op.cuda.backend:CudaBackend"}
"""Name -> the back end, imported on demand."""


class PatternCounting(Protocol):
    """Counts the patterns of 16-bit elements."""

    def see(self, x: "NDArray[Any]") -> None:
        """Take in stored elements; any thread may call."""

    def histogram(self) -> "PatternHistogram":
        """Everything seen; no part may be under way."""


class FileKernels(Protocol):
    """Kernels that read a span of a tensor for themselves, and write what becomes of it.

    Those that give a number give the element up to which all went well; `span.trouble` says what the system refused.
    """

    def measure_range(self, span: "Span", layout: "Layout", keys: "Keys", dtype: str) -> int:
        """Widen the `keys` (2, slices) of the whole tensor."""

    def quantize(self, span: "Span", layout: "Layout", params: "QuantParams") -> int:
        """Quantize and dequantize from file to file, with one range."""

    def quantize_and_sum(
        self, span: "Span", layout: "Layout", params: "QuantParams", sums: "NDArray[np.float64]"
    ) -> int:
        """The same for any ranges, with the `sums` of chunks; one whose ABS_ERROR is not finite is to be made again."""

    def requantize_and_sum(
        self, span: "Span", x: "NDArray[Any]", y: "NDArray[Any]", base: int, layout: "Layout", spec: "QuantSpec",
        dtype: str, *, keep: bool,
    ) -> "BlockSums | None":  # fmt: skip
        """As `Backend.requantize_and_sum`; `x`, `y` are room for whole slices, of which the first begins at `base`."""

    def requantize_and_sum_each(
        self, neighbours: "Neighbours", max_slices: int, spec: "QuantSpec", dtype: str
    ) -> "NeighbourSums":
        """All of it for many small tensors, with at most `max_slices` slices each, from one read."""


class Backend(Protocol):
    """Works on parts of a tensor in host memory: all that is asked of a processor, and all that those above know of it.

    1. Results are the bits of the CPU: keys, values, and sums in the order of addition of `docs/exactness.md`.
    2. Any thread may call; a method returns when its result is there and the arrays are no longer looked at.
    3. What fails outside this program (a device, its memory) is an `UnavailableError` that says why.

    Elements [start, stop) are those of the flat tensor, of which x[0] and y[0] are element `base`.
    """

    name: str
    """The processor, for people."""
    files: FileKernels | None
    """Kernels that read and write files for themselves, where it has them."""

    def empty(self, nbytes: int) -> "NDArray[np.uint8]":
        """A buffer from which elements are taken fastest."""

    def measure_range(
        self, x: "NDArray[Any]", start: int, stop: int, layout: "Layout", first_slice: int, keys: "Keys", dtype: str
    ) -> None:
        """Widen `keys` (2, slices from `first_slice` on) by the elements [start, stop), which are `x`."""

    def quant_params(
        self, ends: "Floats", spec: "QuantSpec", layout: "Layout", first_slice: int, dtype: str
    ) -> "QuantParams":
        """The grids of the slices from `first_slice` on whose ranges are `ends` (2, slices)."""

    def quantize(
        self, x: "NDArray[Any]", y: "NDArray[Any]", base: int, start: int, stop: int, layout: "Layout", params: Any
    ) -> None:
        """Quantize and dequantize into `y`; `params` are this back end's."""

    def quantize_and_sum(
        self, x: "NDArray[Any]", y: "NDArray[Any]", base: int, start: int, stop: int, layout: "Layout", params: Any, *,
        keep: bool, total_bytes: int = 0,
    ) -> "NDArray[np.float64]":  # fmt: skip
        """`quantize` (if `keep`), and the error sums of each chunk, but for the extremes; `start` begins a chunk.

        Slices that became infinite or NaN are marked in `params.degenerate`. `total_bytes` are those of the
        output that `y` is part of, where it is in memory: of many, no cache need keep any.
        """

    def requantize_and_sum(
        self, x: "NDArray[Any]", y: "NDArray[Any]", base: int, start: int, stop: int, layout: "Layout",
        spec: "QuantSpec", dtype: str, *, keep: bool, total_bytes: int = 0,
    ) -> "BlockSums | None":  # fmt: skip
        """All of it where `x` holds whole slices whose range is measured; None: do it step by step."""

    def errors(self, x: "NDArray[Any]", y: "NDArray[Any]", dtype: str) -> "NDArray[np.float64]":
        """The error sums of each chunk of y - x, which may differ in dtype; clipping is not known.

        The first row has the extremes of all of `x`, of the dtype `dtype`.
        """

    def sum_slices(
        self, x: "NDArray[Any]", y: "NDArray[Any]", base: int, start: int, stop: int, layout: "Layout", params: Any,
        sums: "NDArray[np.float64]",
    ) -> None:  # fmt: skip
        """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""

    def extremes(self, x: "NDArray[Any]", dtype: str) -> tuple[float, float]:
        """The smallest and the largest finite element; (inf, -inf) where there is none."""

    def differentiate(
        self, gradients: "NDArray[Any]", x: "NDArray[Any]", out: "NDArray[Any]", start: int, layout: "Layout",
        ends: "Floats", dtype: str,
    ) -> int:  # fmt: skip
        """The op's gradient of the elements from `start` on, into `out`; the number of them outside `ends`."""

    def pattern_counter(self, dtype: str) -> PatternCounting:
        """A counter of the patterns of a BF16 or F16 tensor."""


def backend(name: str) -> Backend:
    """The back end of that name, one of `BACKENDS` or `AUTO`.

    Raises:
        UnavailableError: it does not work here; says why and what to do.
    """
    if name == AUTO:
        name = "cpu" if missing_for_cuda() else "cuda"
    reason = missing_for_cuda() if name == "cuda" else None
    if reason is not None:
        raise UnavailableError(reason)
    module, attribute = BACKENDS[name].split(":")
    found: Backend = getattr(import_module(module), attribute)()
    return found


@cache
def missing_for_cuda() -> str | None:
    """Why CUDA cannot be used here, and what to do; None where it can."""
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
        return f"numba-cuda does not work here ({error}); install it anew: pip install 'qdqcli[cuda]'"
    return None
