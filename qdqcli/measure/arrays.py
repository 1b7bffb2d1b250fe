"""Op and error statistics on an array in memory, with the results of `qdq` on a file."""

from dataclasses import replace
from typing import Any, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import DTypeError, SpecError
from qdqcli.measure.blocks import InMemory, cut
from qdqcli.measure.given_range import GivenRange
from qdqcli.measure.tensor import TensorSetting, TensorWork
from qdqcli.measure.workers import Workers
from qdqcli.op.arrays import Array, aligned, as_array
from qdqcli.op.given_ranges import real_numbers
from qdqcli.op.layout import Layout
from qdqcli.op.on_device import is_on_device
from qdqcli.op.params import STORAGE, Stored
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.metrics import ErrorStats
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.tensor import DTYPES, TensorInfo

BLOCK_ELEMENTS = 1 << 21
"""Block of a thread: whole chunks."""


class SpecSettings(TypedDict, total=False):
    """The fields of `QuantSpec`, as keywords."""

    num_bits: int
    signed_input: bool
    narrow_range: bool
    round_mode: RoundMode | str
    axis: int
    group_size: int | None
    ragged_groups: bool
    compute_dtype: ComputeDType | str
    estimator: str
    percentile: float | None


def quantize_and_measure(
    input: Array,  # noqa: A002  # as the op names it
    spec: QuantSpec | None = None,
    given_range: GivenRange | None = None,
    **settings: Unpack[SpecSettings],
) -> tuple[NDArray[Any], ErrorStats]:
    """Quantize and dequantize `input`, and sum the errors, bit for bit as `qdq run` does with a file.

    Args:
        input: bfloat16 (ml_dtypes), float16, float32 or float64, any shape; it is not modified.
        spec: the settings; by default 8 bits, one range. `compute_dtype` is native by default here, float32 on the
            command line.
        given_range: (input_min, input_max) instead of a measured range, or the one in `spec`: scalars, or one value
            per channel or group each.
        **settings: fields of `QuantSpec`, in place of those of `spec`: `num_bits=4, axis=0`.

    Returns:
        A new C-contiguous array of the input's shape and dtype, and the sums with the metrics that follow from them:
        `sums.sqnr_db`, `sums.metrics()`. The same bits for every number of threads.

    Raises:
        SpecError: (a ValueError) an attribute or a range does not fit the input.
        DTypeError: (a TypeError) the input has another dtype, or is on a device.
    """
    if is_on_device(input):
        raise DTypeError("the input is on a device; statistics are for arrays in memory, copy it there first")
    x, dtype = as_array(input)
    chosen = cast(dict[str, Any], settings)  # accepts enum names too
    if spec is not None and not isinstance(spec, QuantSpec):
        raise SpecError(f"spec is of type {type(spec).__name__}; give a QuantSpec, or settings by keyword")
    spec = QuantSpec(**chosen) if spec is None else replace(spec, **chosen)
    if given_range is not None:
        spec = replace(spec, range_given=True)
    elif spec.range_given:
        given_range = spec.given_range
        if given_range is None:
            raise SpecError("the range is to be given: pass given_range")
    layout = Layout.of(x.shape, spec)
    if given_range is not None:
        _check_range(given_range, layout)
    stored = np.ascontiguousarray(x).reshape(-1).view(STORAGE[dtype])
    y = aligned(stored.size, stored.dtype)
    with Workers() as workers:
        sums = fake_quantize_and_measure(stored, y, layout, spec, given_range, dtype, workers)
    return y.view(x.dtype).reshape(x.shape), ErrorStats(*sums)


def _check_range(given_range: GivenRange, layout: Layout) -> None:
    for name, end in zip(("input_min", "input_max"), given_range, strict=False):
        values = real_numbers(name, end)
        if values.ndim > 1 or (values.ndim and values.size != layout.num_ranges):
            raise SpecError(f"{name} has shape {list(values.shape)}; it takes a scalar or {layout.num_ranges} values")


def fake_quantize_and_measure(
    x: Stored, y: Stored, layout: Layout, spec: QuantSpec, given_range: GivenRange | None, dtype: str, workers: Workers
) -> ErrorSums:
    """Like `quantize_and_measure`, into an existing `y`; `y` begins at a multiple of VECTOR_SIZE elements."""
    info, memory = TensorInfo("input", DTYPES[dtype], x.shape, "", 0, x.nbytes), InMemory(x, y)
    blocks = cut(x.size, BLOCK_ELEMENTS)
    work = TensorWork(info=info, reader=memory, writer=memory, workers=workers, blocks=blocks, total_bytes=y.nbytes)
    return work.measure([TensorSetting(spec=spec, given=given_range, layout=layout)])[0].sums
