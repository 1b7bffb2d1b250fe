"""Compile the kernels that files go through, so that no later process has to: a cache folder in an image, say."""

from collections.abc import Iterator

import numpy as np

from qdqcli.op import cpu
from qdqcli.op.histogram import PatternCounter
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE, empty_keys, ends_of_keys
from qdqcli.op.spec import ComputeDType, QuantSpec

_SHAPE = (2, 32)
_SPECS = (QuantSpec(axis=0), QuantSpec(axis=1), QuantSpec())
"""Rows, columns, the whole tensor: between them they take every loop."""


def warm_up() -> Iterator[str]:
    """Compile, a dtype and its arithmetic at a time; names each before it begins."""
    for dtype in STORAGE:
        for compute_dtype in ComputeDType if dtype in ("BF16", "F16") else (ComputeDType.NATIVE,):
            yield f"{dtype}, arithmetic {compute_dtype}"
            _compile(dtype, compute_dtype)


def _compile(dtype: str, compute_dtype: ComputeDType) -> None:
    x = np.zeros(_SHAPE, STORAGE[dtype]).reshape(-1)
    y = np.empty_like(x)
    everything = (0, 0, x.size)
    for spec in (QuantSpec(axis=s.axis, compute_dtype=compute_dtype) for s in _SPECS):
        layout = Layout.of(_SHAPE, spec)
        keys = empty_keys(layout.num_slices, dtype)
        cpu.measure_range(x, 0, x.size, layout, 0, keys, dtype)
        params = cpu.quant_params(ends_of_keys(keys, dtype), spec, layout, 0, dtype)
        cpu.quantize_and_sum(x, y, *everything, layout, params, keep=True)
        cpu.quantize(x, y, *everything, layout, params)
        cpu.requantize_and_sum(x, y, *everything, layout, spec, dtype, keep=True)
        if dtype in ("BF16", "F16") and layout.num_slices == 1:
            counter = PatternCounter(dtype)
            counter.see(x)
            counter.histogram().error_sums(params)
