"""Every CUDA kernel against the CPU's, bit for bit, on a few hundred elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdqcli.op.backend import backend
from qdqcli.op.columns import INPUT_MAX, INPUT_MIN
from qdqcli.op.cuda import launch as cuda_launch
from qdqcli.op.cuda.indexing import LAUNCH_ELEMENTS, slice_at, slice_map_of
from qdqcli.op.layout import Layout
from qdqcli.op.params import SettingsParams, empty_order_keys, ranges_of_order_keys
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.stats.sums import CHUNK_ELEMENTS
from tests.simulator.parity import ARITHMETICS, NUMPY, SETTINGS, assert_same, compare, stored

LAYOUTS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((211,), {}),
    ((3, 61), {"axis": 0}),
    ((41, 5), {"axis": 1}),
    ((2, 3, 33), {"axis": 1}),
    ((6, 24), {"group_size": 8}),
    ((5, 30), {"group_size": 8, "ragged_groups": True}),
    ((2, 1), {"axis": 1}),
]
cpu, cuda = backend("cpu"), backend("cuda")


@pytest.mark.parametrize(("shape", "attributes"), LAYOUTS, ids=str)
@pytest.mark.parametrize(("dtype", "compute_dtype"), ARITHMETICS)
def test_every_kernel_gives_the_bits_of_the_cpu(
    dtype: str, compute_dtype: ComputeDType, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    # Every layout with two of the settings, and all of them with every dtype: the simulator is slow.
    turn = LAYOUTS.index((shape, attributes)) + ARITHMETICS.index((dtype, compute_dtype))
    for settings, kind in (SETTINGS[turn % 4], SETTINGS[(turn + 1) % 4]):
        spec = QuantSpec(compute_dtype=compute_dtype, **attributes, **settings)
        compare(cuda, spec, shape, dtype, kind)


@pytest.mark.parametrize("dtype", NUMPY)
def test_parts_of_a_tensor_give_what_the_whole_gives(dtype: str) -> None:
    shape, spec = (3, 40, 3), QuantSpec(axis=1, num_bits=5)
    x, layout = stored(shape, dtype, "plain"), Layout.of(shape, spec)
    order_keys, want_order_keys = empty_order_keys(40, dtype), empty_order_keys(40, dtype)
    cpu.measure_range(x, 0, x.size, layout, 0, want_order_keys, dtype)
    for start, stop in ((0, 7), (7, 200), (200, x.size)):
        cuda.measure_range(x[start:stop], start, stop, layout, 0, order_keys, dtype)
    assert_same(order_keys, want_order_keys, "order keys")
    ranges = ranges_of_order_keys(order_keys, dtype)
    params, want_params = (worker.quant_params(ranges, spec, layout, 0, dtype) for worker in (cuda, cpu))
    y, want = np.zeros_like(x), np.zeros_like(x)
    cuda.quantize(x[5:], y[5:], 5, 17, 301, layout, params)
    cpu.quantize(x[5:], want[5:], 5, 17, 301, layout, want_params)
    assert_same(y, want, "values")


def test_sums_of_a_later_chunk() -> None:
    """Element 0 of a launch is not element 0 of the tensor."""
    spec, layout = QuantSpec(num_bits=4, range_given=True), Layout.of((2 * CHUNK_ELEMENTS,), QuantSpec())
    x = stored((130,), "F32", "plain")
    ranges = np.array([[-2.0], [2.0]], np.float32)
    ours, theirs = (worker.quant_params(ranges, spec, layout, 0, "F32") for worker in (cuda, cpu))
    start = CHUNK_ELEMENTS
    (rows,), (want,) = (
        worker.quantize_and_sum(x, x, start, start, start + x.size, layout, SettingsParams(each=[params]), keep=False)
        for worker, params in ((cuda, ours), (cpu, theirs))
    )
    want[0, [INPUT_MIN, INPUT_MAX]] = cpu.extremes(x, "F32")
    assert_same(rows, want, "sums")


@pytest.mark.parametrize(
    "layout",
    [
        Layout.of((50, 3, 7), QuantSpec(axis=1)),
        Layout.of((100, 10), QuantSpec(group_size=4, ragged_groups=True)),
        Layout.of((1000,), QuantSpec(axis=0)),
        Layout.of((1000,), QuantSpec()),
        Layout.of((2, 2, 3 << 30), QuantSpec(axis=1)),
        Layout.of((2, 3 << 30), QuantSpec(group_size=1 << 20)),
        Layout.of((5, (1 << 30) // 5, 5), QuantSpec(axis=1)),
    ],
    ids=str,
)
def test_the_slice_of_an_element_is_found_without_division(layout: Layout) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        start = int(random.integers(0, layout.num_elements))
        stop = min(start + int(random.integers(1, LAUNCH_ELEMENTS + 1)), layout.num_elements)
        slice_map = slice_map_of(layout, start, stop, layout.slice_of(start) if layout.is_contiguous else 0)
        first = layout.slice_of(start) if layout.is_contiguous else 0
        inside = [0, stop - start - 1, *random.integers(0, stop - start, 20).tolist()]
        edges = [e - start + d for e in range(start - start % layout.row, stop, layout.row) for d in (-1, 0)][:40]
        for i in inside + [e for e in edges if 0 <= e < stop - start]:
            assert slice_at(i, slice_map) == layout.slice_of(start + i) - first, (start, stop, i)


def test_wide_runs_are_shared_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_launch, "_RUN_PART", 50)
    layout = Layout.of((2, 210), QuantSpec(axis=0))
    x = stored((2, 210), "F32", "nan")
    order_keys, want = empty_order_keys(2, "F32"), empty_order_keys(2, "F32")
    cuda.measure_range(x, 0, x.size, layout, 0, order_keys, "F32")
    cpu.measure_range(x, 0, x.size, layout, 0, want, "F32")
    assert_same(order_keys, want, "order keys")
