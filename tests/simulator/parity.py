"""One tensor through every method of two back ends: the same bits, whatever the device."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from qdqcli.op.backend import Backend, backend
from qdqcli.op.columns import INPUT_MAX, INPUT_MIN
from qdqcli.op.layout import Layout
from qdqcli.op.params import FLOAT_TYPE, STORAGE, SettingsParams, empty_order_keys, ranges_of_order_keys
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode

NUMPY = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
ARITHMETICS = [(dtype, ComputeDType.NATIVE) for dtype in NUMPY] + [
    ("BF16", ComputeDType.FLOAT32),
    ("F16", ComputeDType.FLOAT32),
]
SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"num_bits": 8}, "plain"),
    ({"num_bits": 4, "round_mode": RoundMode.HALF_UP, "range_given": True}, "nan"),
    ({"num_bits": 11, "round_mode": RoundMode.HALF_UP, "signed_input": False}, "infinite"),
    ({"num_bits": 3, "signed_input": False}, "subnormal"),
]
"""Attributes, and what is among the elements."""


def stored(shape: tuple[int, ...], dtype: str, kind: str, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape).reshape(-1)
    values[::7] *= 1e-3
    if values.size > 8:
        values[5] = -0.0
        values[3] = {"nan": np.nan, "infinite": np.inf, "subnormal": -1e-40}.get(kind, values[3])
    return values.astype(NUMPY[dtype]).view(STORAGE[dtype])


def assert_same(got: Any, want: Any, what: object) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype
    same = (got == want) | ((got != got) & (want != want))
    assert got.shape == want.shape
    assert same.all(), f"{what}: {got[~same][:5]}, expected {want[~same][:5]}"
    signs = np.signbit(got) == np.signbit(want) if got.dtype.kind == "f" else np.True_
    assert np.all(signs | (got != got)), f"{what}: signs of zeros"


def compare(cuda: Backend, spec: QuantSpec, shape: tuple[int, ...], dtype: str, kind: str) -> None:
    """Keys, qparams, values, sums and gradients of one tensor by `cuda` and by the CPU."""
    cpu = backend("cpu")
    x, layout = stored(shape, dtype, kind), Layout.of(shape, spec)
    everything = (0, x.size, layout)
    found = []
    for worker in (cpu, cuda):
        order_keys = empty_order_keys(layout.num_slices, dtype)
        worker.measure_range(x, *everything, 0, order_keys, dtype)
        found.append(order_keys)
    assert_same(found[1], found[0], "order keys")
    ranges = ranges_of_order_keys(found[0], dtype)
    if spec.range_given:
        ranges = np.tile(np.array([[-0.7], [0.9]], FLOAT_TYPE[dtype]), layout.num_slices)
    ours, theirs = (worker.quant_params(ranges, spec, layout, 0, dtype) for worker in (cuda, cpu))
    y, want = np.empty_like(x), np.empty_like(x)
    (rows,) = cuda.quantize_and_sum(x, y, 0, *everything, SettingsParams(each=[ours]), keep=True)
    (want_rows,) = cpu.quantize_and_sum(x, want, 0, *everything, SettingsParams(each=[theirs]), keep=True)
    want_rows[0, [INPUT_MIN, INPUT_MAX]] = cpu.extremes(x, dtype)
    assert_same(y, want, "values")
    assert_same(rows + 0.0, want_rows + 0.0, "sums")
    assert_same(ours.degenerate, theirs.degenerate, "degenerate slices")
    y[:] = 0
    cuda.quantize(x, y, 0, *everything, ours)
    assert_same(y, want, "values alone")
    found = None if spec.range_given else cuda.fake_quantize_and_sum(x, y, 0, *everything, [spec], dtype, keep=True)
    for done in found or ():
        assert_same(done.sums + 0.0, want_rows + 0.0, "sums at once")
        assert_same(done.ranges, ranges, "ranges at once")
        assert_same(done.degenerate, theirs.degenerate, "degenerate slices at once")
        assert_same(y, want, "values at once")
    gradients, outs = stored(shape, dtype, "nan", 1), (np.empty_like(x), np.empty_like(x))
    outside = [
        worker.differentiate(gradients, x, out, 0, layout, ranges, dtype)
        for worker, out in zip((cuda, cpu), outs, strict=True)
    ]
    assert_same(*outs, "gradients")
    assert outside[0] == outside[1]
