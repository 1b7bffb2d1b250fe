"""The op on arrays in memory, with the op's own name and signature."""

from importlib import import_module
from types import ModuleType
from typing import Any, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import DTypeError, SpecError, UnavailableError
from qdqcli.op import kernels
from qdqcli.op.backend import missing_for_cuda
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.given_ranges import given_ranges, gradient_ranges
from qdqcli.op.jit.kernel import VECTOR_SIZE, StaticBool
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.minmax import MinMax
from qdqcli.op.on_device import is_on_device
from qdqcli.op.params import STORAGE, Floats, QuantParams, Stored, cuts, op_and_codes
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.op.threads import available_threads, run_parts

Array = Any
"""A NumPy array, or anything with `__array__` or DLPack; on a CUDA device, anything `op/cuda/interop.py` accepts."""

DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.float16): "F16"} | {
    np.dtype(ml_dtypes.bfloat16): "BF16"
}
PARALLEL_ELEMENTS = 1 << 21
"""Size from which threads are used: below it, to wake them and to wait for the last takes longer than they save."""
PART_ELEMENTS = 1 << 18
"""Least elements of a part, 60 us of work: to begin one takes 20 us."""
_BATCH = 1 << 16
"""Elements whose range is measured just before they are quantized, while they are in a core's cache."""


def quantize_and_dequantize_v4(
    input: Array,  # noqa: A002  # the op's own name
    input_min: Array = None,
    input_max: Array = None,
    signed_input: bool = True,
    num_bits: int = 8,
    range_given: bool = False,
    round_mode: str = "HALF_TO_EVEN",
    narrow_range: bool = False,
    axis: int = -1,
    compute_dtype: str = "native",
) -> NDArray[Any]:
    """Quantize and dequantize `input`, bit for bit like TensorFlow's QuantizeAndDequantizeV4.

    Args:
        input: bfloat16 (ml_dtypes), float16, float32 or float64, any shape; it is not modified.
        input_min: lower end of the range, used only with `range_given`: a scalar for axis -1, otherwise one value per
            index along `axis`.
        input_max: upper end of the range, like `input_min`.
        signed_input: use signed codes; the input may be negative in any case.
        num_bits: 1 to 61, or 62 for unsigned codes.
        range_given: take the range from the arguments and clamp to it, instead of measuring it (ignoring NaN).
        round_mode: "HALF_TO_EVEN" or "HALF_UP".
        narrow_range: signed codes start at -2^(num_bits-1) + 1; no effect on unsigned ones.
        axis: -1 for one range for the whole tensor (not the last axis), else the dimension with one range per index.
        compute_dtype: "native", every operation in the input's dtype like the op, or "float32": 16-bit input is
            converted to float32 and the output rounded once. No effect on float32 and float64.

    Returns:
        A new C-contiguous array of the input's shape and dtype. Degenerate ranges follow the formulas, even to NaN. An
        input on a CUDA device (PyTorch, CuPy, Numba, anything with `__cuda_array_interface__` or DLPack) gives an array
        of the same kind, enqueued on the caller's current stream.

    Raises:
        SpecError: (a ValueError) an attribute has a value that the op does not accept.
        DTypeError: (a TypeError) the input has another dtype.
        UnavailableError: the input is on a CUDA device, and CUDA does not work here, or the device failed.
    """
    on_device = is_on_device(input)
    x, dtype = (input, "") if on_device else as_array(input)
    spec = QuantSpec(
        num_bits=num_bits,
        signed_input=signed_input,
        narrow_range=narrow_range,
        round_mode=cast(RoundMode, round_mode),
        axis=axis,
        range_given=range_given,
        compute_dtype=cast(ComputeDType, compute_dtype),
    )
    if on_device:
        return cast(NDArray[Any], _cuda_arrays().quantize_and_dequantize(input, input_min, input_max, spec))
    layout = Layout.of(x.shape, spec)
    ranges = None
    if spec.range_given:
        ranges = given_ranges(_given("input_min", input_min), _given("input_max", input_max), spec, layout, dtype)
    stored = np.ascontiguousarray(x).reshape(-1).view(STORAGE[dtype])
    return fake_quantized(stored, layout, spec, ranges, dtype).view(x.dtype).reshape(x.shape)


def quantize_and_dequantize_v4_grad(
    gradients: Array,
    input: Array,  # noqa: A002  # the op's own name
    input_min: Array,
    input_max: Array,
    axis: int = -1,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the gradient of the op: `gradients` where input_min <= input <= input_max, else 0 times them.

    The range is the one given here, not the adjusted one. For an op that measured its range, pass the measured minimum
    and maximum: TensorFlow's own gradient passes the op's ignored arguments instead, which masks nearly everything.

    Args:
        gradients: gradients of the output; dtype and shape of `input`.
        input: the op's input.
        input_min: scalar for axis -1, else one value per index along `axis`; input_min > input_max or NaN masks all.
        input_max: like `input_min`.
        axis: as in `quantize_and_dequantize_v4`.

    Returns:
        (input_backprop, input_min_backprop, input_max_backprop): the last two are zeros of the shape of the ends.

    Raises:
        SpecError: (a ValueError) shapes or axis do not match.
        DTypeError: (a TypeError) the input has another dtype, or `gradients` and `input` differ in dtype.
    """
    if is_on_device(input):
        return cast(
            tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
            _cuda_arrays().differentiate(gradients, input, input_min, input_max, QuantSpec(axis=axis)),
        )
    x, dtype = as_array(input)
    g, gradients_dtype = as_array(gradients)
    if dtype != gradients_dtype:
        raise DTypeError(f"gradients are {g.dtype} and input is {x.dtype}; they must have one dtype")
    spec = QuantSpec(axis=axis)
    layout = Layout.of(x.shape, spec)
    if g.shape != x.shape:
        raise SpecError(f"gradients have shape {list(g.shape)}; the input has {list(x.shape)}")
    given = _given("input_min", input_min), _given("input_max", input_max)
    ranges = gradient_ranges(*given, spec, layout, dtype)
    stored, stored_g = (np.ascontiguousarray(array).reshape(-1).view(STORAGE[dtype]) for array in (x, g))
    out = np.empty_like(stored)
    if stored.size:
        cpu.differentiate(stored_g, stored, out, 0, layout, ranges, dtype)
    zeros = [np.zeros(np.shape(end), x.dtype) for end in (input_min, input_max)]
    return out.view(x.dtype).reshape(x.shape), zeros[0], zeros[1]


def fake_quantized(stored: Stored, layout: Layout, spec: QuantSpec, ranges: Floats | None, dtype: str) -> Stored:
    """Quantize and dequantize into a new array; `ranges` (2, slices) where the range is given."""
    out = aligned(stored.size, stored.dtype)
    if stored.size:
        fake_quantize(stored, out, layout, spec, ranges, dtype)
    return out


def fake_quantize(x: Stored, y: Stored, layout: Layout, spec: QuantSpec, ranges: Floats | None, dtype: str) -> None:
    """`fake_quantized` into existing memory, aligned to VECTOR_SIZE elements."""
    parts = _num_parts(x.size)
    if ranges is None and layout.is_contiguous and layout.inner <= _BATCH and layout.num_slices >= parts:
        _fake_quantize_slices(x, y, layout, spec, parts, dtype)
        return
    if ranges is None:
        bounds, measured = cuts(x.size, parts), MinMax(layout, dtype, 0, layout.num_slices)
        run_parts(lambda part: measured.see(x[slice(*bounds[part : part + 2])], *bounds[part : part + 2]), parts)
        ranges = measured.ranges()
    _quantize_parts(x, y, layout, cpu.quant_params(ranges, spec, layout, 0, dtype), parts)


def _quantize_parts(x: Stored, y: Stored, layout: Layout, params: QuantParams, num_parts: int) -> None:
    """Quantize in parallel parts."""
    bounds, nontemporal = cuts(len(x), num_parts), _nontemporal(y, layout)

    def quantize_part(part: int) -> None:
        elements = Elements(0, *bounds[part : part + 2])
        kernels.quantize(x, y, *params.arguments(elements, layout), params.op, nontemporal)

    run_parts(quantize_part, num_parts)


def _fake_quantize_slices(x: Stored, y: Stored, layout: Layout, spec: QuantSpec, num_parts: int, dtype: str) -> None:
    """Measure and quantize slices of one run each, some at a time, in one pass over memory."""
    batch = max(_BATCH // layout.inner // VECTOR_SIZE, 1) * VECTOR_SIZE
    bounds, nontemporal = cuts(layout.num_slices, num_parts), _nontemporal(y, layout)
    op, codes = op_and_codes(spec, dtype)

    def quantize_part(part: int) -> None:
        measuring = cpu.measuring_of(x, batch, batch, layout, [codes], dtype)
        first, last = bounds[part : part + 2]
        kernels.fake_quantize_slices(x, y, first, last, layout.steps(), measuring, op, nontemporal)

    run_parts(quantize_part, num_parts)


def _nontemporal(y: Stored, layout: Layout) -> StaticBool:
    """True for non-temporal stores to `y`: larger than the caches, with runs or rows aligned to whole vectors."""
    if y.nbytes < cpu.NONTEMPORAL_BYTES or VECTOR_SIZE * y.itemsize < cpu.LINE_BYTES:
        return None
    is_columnar = cpu.is_columnar(layout)
    whole_runs = layout.inner % VECTOR_SIZE == 0 or is_columnar
    runs_align = layout.num_slices == 1 or (whole_runs and layout.row % VECTOR_SIZE == 0)
    aligned = y.ctypes.data % (VECTOR_SIZE * y.itemsize) == 0
    in_turn = not is_columnar or cpu.writes_whole_lines()
    return True if aligned and runs_align and in_turn else None


def aligned(size: int, dtype: np.dtype) -> NDArray[Any]:
    """Return a new array aligned to VECTOR_SIZE elements, as non-temporal stores require."""
    alignment = VECTOR_SIZE * dtype.itemsize
    buffer = np.empty(size * dtype.itemsize + alignment, np.uint8)
    begin = -buffer.ctypes.data % alignment
    return buffer[begin : begin + size * dtype.itemsize].view(dtype)


def _num_parts(size: int) -> int:
    """Number of parts for the threads."""
    return 1 if size < PARALLEL_ELEMENTS else min(2 * available_threads(), max(size // PART_ELEMENTS, 1))


def as_array(array: Array) -> tuple[NDArray[Any], str]:
    """Return a NumPy array, of the same memory where possible, and its dtype by its safetensors name.

    Raises:
        DTypeError: it is not an array, or has a dtype that the op does not accept.
    """
    if not isinstance(array, np.ndarray):
        try:
            array = np.from_dlpack(array) if not hasattr(array, "__array__") else np.asarray(array)
        except (TypeError, AttributeError, BufferError, RuntimeError) as error:
            known = "NumPy array, or one with __array__ or DLPack"
            raise DTypeError(f"cannot take {type(array).__name__} as an array ({error}); give a {known}") from error
    if array.dtype not in DTYPES:
        raise DTypeError(f"input has dtype {array.dtype}; the op takes bfloat16, float16, float32 and float64")
    return array, DTYPES[array.dtype]


def _cuda_arrays() -> ModuleType:
    """Import the op for device arrays, on first use."""
    reason = missing_for_cuda()
    if reason is not None:
        raise UnavailableError(reason)
    return import_module("qdqcli.op.cuda.arrays")


def _given(name: str, end: Array) -> Array:
    if end is None:
        raise SpecError(f"{name} is missing; range_given needs both ends")
    return end
