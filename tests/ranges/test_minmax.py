"""The range that elements span: the same bits in whatever parts, order and threads they are seen."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from qdqcli.measure.workers import Workers
from qdqcli.op.layout import Layout
from qdqcli.op.minmax import MinMax
from qdqcli.op.params import STORAGE
from qdqcli.op.spec import QuantSpec
from tests import reference
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import DTYPES, sample
from tests.run.slices import indices_of_slices

ORACLE = dict(zip(("BF16", "F16", "F32", "F64"), reference.FORMATS.values(), strict=True))
SETTINGS: list[dict[str, Any]] = [{}, {"axis": 0}, {"axis": 1}, {"group_size": 5, "ragged_groups": True}]
SHAPE = (6, 7)


def with_specials(dtype: str) -> np.ndarray:
    x = sample(SHAPE, dtype, 11)
    x[0] = 0.0
    x[0, 1] = -0.0
    x[1] = -0.0
    x[2] = np.nan
    x[3, :2] = np.nan, np.inf
    x[4, 5] = -np.inf
    return x


def ranges_of(x: np.ndarray, dtype: str, settings: dict[str, Any], parts: list[tuple[int, int]]) -> np.ndarray:
    layout = Layout.of(x.shape, QuantSpec(**settings))
    estimate = MinMax(layout, dtype, 0, layout.num_slices)
    stored = x.reshape(-1).view(STORAGE[dtype])
    for start, stop in parts:
        estimate.see(stored[start:stop], start, stop)
    return estimate.ranges()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", ORACLE)
def test_the_ends_are_the_oracles(dtype: str, settings: dict[str, Any]) -> None:
    x = with_specials(dtype)
    got = ranges_of(x, dtype, settings, [(0, x.size)])
    flat = [float(v) for v in x.reshape(-1)]
    want = [
        reference.measured_range(ORACLE[dtype], [flat[i] for i in indices])
        for indices in indices_of_slices(x.shape, **settings)
    ]
    assert_same_bits(got, np.array(want, got.dtype).T)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", ORACLE)
def test_parts_in_any_order_change_nothing(dtype: str, settings: dict[str, Any]) -> None:
    x = with_specials(dtype)
    whole = ranges_of(x, dtype, settings, [(0, x.size)])
    rng = np.random.default_rng(12)
    for _ in range(20):
        cuts = sorted({0, x.size, *rng.integers(1, x.size, 6).tolist()})
        parts = list(pairwise(cuts))
        rng.shuffle(parts)
        assert_same_bits(ranges_of(x, dtype, settings, parts), whole)


def test_threads_change_nothing() -> None:
    x = sample((501, 1001), "F32", 13)
    layout = Layout.of(x.shape, QuantSpec(axis=1))
    estimate = MinMax(layout, "F32", 0, layout.num_slices)
    flat = x.reshape(-1)
    parts = list(pairwise([*range(0, flat.size, 7919), flat.size]))
    with Workers(5) as workers:
        workers.map(lambda part: estimate.see(flat[slice(*part)], *part), parts)
    assert_same_bits(estimate.ranges(), np.stack([x.min(axis=0), x.max(axis=0)]))


@pytest.mark.parametrize("dtype", ORACLE)
def test_some_slices_alone(dtype: str) -> None:
    x = np.arange(42, dtype=DTYPES[dtype]).reshape(SHAPE)
    layout = Layout.of(x.shape, QuantSpec(axis=0))
    estimate = MinMax(layout, dtype, 2, 3)
    estimate.see(x.reshape(-1).view(STORAGE[dtype])[14:35], 14, 35)
    assert estimate.ranges().tolist() == [[14, 21, 28], [20, 27, 34]]


def test_a_slice_that_was_not_seen_has_no_range() -> None:
    x = np.ones(SHAPE, np.float32)
    ranges = ranges_of(x, "F32", {"axis": 0}, [(0, 14)])
    assert ranges[:, :2].tolist() == [[1, 1], [1, 1]]
    assert np.isnan(ranges[:, 2:]).all()
