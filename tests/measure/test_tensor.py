"""One tensor through real files: bits of the output against the oracle and the public API, statistics against NumPy.

And the promise on which everything else rests: neither the size of a block nor the number of threads changes a bit.
"""

from collections.abc import Iterator
from functools import cache
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from qdqcli.errors import Interrupted, UsageError
from qdqcli.interrupt import Interruption
from qdqcli.measure.sums import Measurement, error_sums, sums_of_each
from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import DEFAULT_MAX_MEMORY, LARGEST_BLOCK_BYTES, Workers
from qdqcli.op.columns import MAX_ABS_ERROR, SUM_COLUMNS
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.metrics import METRICS
from qdqcli.stats.sums import CHUNK_ELEMENTS, ErrorSums, value_of
from qdqcli.tensors.checkpoint import open_checkpoint
from tests import reference
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import DTYPES, read_safetensors, sample, write_safetensors, write_sparse
from tests.run.slices import expected_output, indices_of_slices

FLOATS = ("BF16", "F16", "F32", "F64")
COMPUTED = (
    ("BF16", ComputeDType.NATIVE),
    ("BF16", ComputeDType.FLOAT32),
    ("F16", ComputeDType.NATIVE),
    ("F16", ComputeDType.FLOAT32),
    ("F32", ComputeDType.FLOAT32),
    ("F64", ComputeDType.NATIVE),
)
"""Dtypes of tensors with those that compute; for F32 and F64 there is one."""


def quantize(
    path: Path,
    output: Path | None = None,
    *,
    threads: int = 2,
    max_memory: int = DEFAULT_MAX_MEMORY,
    block: int = LARGEST_BLOCK_BYTES,
    interruption: Interruption | None = None,
    void_dtype: str | None = None,
    given_range: tuple[float, float] | None = None,
    per_slice: bool = False,
    **attributes: Any,
) -> Measurement:
    """The only tensor of the file at `path`, written to `output`."""
    (shard,) = open_checkpoint(path, void_dtype=void_dtype).shards
    (info,) = shard.tensors
    with shard.open() as reader, Workers(threads, max_memory, interruption, largest_block=block) as workers:
        writer = None if output is None else shard.create(output, reader)
        try:
            job = TensorJob(
                info=info,
                spec=QuantSpec(range_given=given_range is not None, **attributes),
                given_range=given_range,
                per_slice=per_slice,
                reader=reader,
                writer=writer,
            )
            measured = quantize_tensor(job, workers)
            if writer is not None:
                writer.commit()
        finally:
            if writer is not None:
                writer.abort()
    return measured


def quantize_array(folder: Path, x: np.ndarray, **settings: Any) -> tuple[np.ndarray, Measurement]:
    """The array through a safetensors file and back."""
    source = write_safetensors(folder / "in.safetensors", {"w": x})
    output = folder / "out.safetensors"
    output.unlink(missing_ok=True)
    measured = quantize(source, output, **settings)
    return read_safetensors(output)["w"], measured


def sums_by_name(sums: ErrorSums) -> dict[str, float]:
    """Under the names of `reference.ordered_sums`."""
    return {f"sum_{name}": value_of(getattr(sums, name)) for name in
            ("error", "abs_error", "sq_error", "sq_input", "sq_output")}  # fmt: skip


def assert_metrics_agree(sums: ErrorSums, expected: dict[str, float]) -> None:
    """As far as sums of float32 terms allow."""
    for name, want in expected.items():
        got = METRICS[name].value(sums)
        if not np.isfinite(want):
            assert got is None, name
            continue
        assert got == pytest.approx(want, rel=0, abs=reference.tolerance_for(name, expected)), name


# The bits that are written


SETTINGS: dict[str, dict[str, Any]] = {
    "the whole tensor": {},
    "axis 0": {"axis": 0},
    "a middle axis": {"axis": 1},
    "the last axis": {"axis": 2},
    "groups": {"group_size": 3},
    "groups of a whole row": {"group_size": 6},
    "ragged groups": {"group_size": 4, "ragged_groups": True},
    "groups longer than a row": {"group_size": 50, "ragged_groups": True},
    "a given range": {"given_range": (-0.7, 1.3)},
    "a given range per index": {"given_range": (-0.3, 0.1), "axis": 1},
    "a given range for groups": {"given_range": (-0.3, 0.1), "group_size": 2},
    "a range that is a point": {"given_range": (0.6, 0.6)},
    "unsigned, 3 bits, half up": {"signed_input": False, "num_bits": 3, "round_mode": RoundMode.HALF_UP, "axis": 0},
    "narrow, 4 bits": {"narrow_range": True, "num_bits": 4, "axis": 2},
    "more bits than the dtype has": {"num_bits": 30},
}


def pairs() -> Iterator[Any]:
    """Every setting with every dtype; 16-bit tensors are computed natively in one setting, in float32 in the next."""
    for number, (name, settings) in enumerate(SETTINGS.items()):
        for dtype, compute_dtype in (COMPUTED[number % 2], COMPUTED[3 - number % 2], *COMPUTED[4:]):
            yield pytest.param(dtype, settings, compute_dtype, id=f"{dtype}-{name}-{compute_dtype}")


@pytest.mark.parametrize(("dtype", "settings", "compute_dtype"), list(pairs()))
def test_the_written_tensor_is_the_oracles(
    tmp_path: Path, dtype: str, settings: dict[str, Any], compute_dtype: ComputeDType
) -> None:
    x = sample((3, 4, 6), dtype)
    got, _ = quantize_array(tmp_path, x, compute_dtype=compute_dtype, **settings)
    if "given_range" in settings and compute_dtype is ComputeDType.FLOAT32 and x.dtype.itemsize == 2:
        # An option is a number, which float32 arithmetic takes as it is; the oracle rounds ends to the tensor's dtype.
        want = expected_output(reference.quantize_and_dequantize_v4, x.astype(np.float32), **settings).astype(x.dtype)
    else:
        want = expected_output(reference.quantize_and_dequantize_v4, x, compute_dtype=str(compute_dtype), **settings)
    assert_same_bits(got, want, x)


@pytest.mark.parametrize("end", [0.3, 0.1, 0.7, 1 / 3, 1.7])
@pytest.mark.parametrize(("dtype", "compute_dtype"), COMPUTED)
def test_a_given_range_is_rounded_as_the_public_function_rounds_it(
    tmp_path: Path, dtype: str, end: float, compute_dtype: ComputeDType
) -> None:
    x = np.linspace(-2, 2, 500).astype(DTYPES[dtype])
    got, _ = quantize_array(tmp_path, x, given_range=(-end, end), compute_dtype=compute_dtype)
    want = quantize_and_dequantize_v4(x, -end, end, range_given=True, compute_dtype=str(compute_dtype))
    assert_same_bits(got, want, x)


def test_special_values_go_through_a_file_as_through_the_oracle(tmp_path: Path) -> None:
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    rows = [
        [0.0, 0.0, 0.0, 0.0],
        [-0.0, -0.0, 0.0, -0.0],
        [np.nan, 1.0, 2.0, np.nan],
        [np.nan] * 4,
        [np.inf, 1.0, -1.0, 0.5],
        [-np.inf, 1.0, -1.0, 0.5],
        [3.4028235e38, 1.0, 0.0, -1.0],
        [tiny, 2 * tiny, 0.0, -tiny],
    ]
    x = np.array(rows, np.float32)
    for attributes in ({}, {"signed_input": False}, {"round_mode": RoundMode.HALF_UP}, {"given_range": (-1.0, 1.0)}):
        got, _ = quantize_array(tmp_path, x, axis=0, **attributes)
        assert_same_bits(got, expected_output(reference.quantize_and_dequantize_v4, x, axis=0, **attributes), x)
        (tmp_path / "out.safetensors").unlink()


NPY_SETTINGS = {name: SETTINGS[name] for name in
                ("the whole tensor", "axis 0", "a middle axis", "the last axis", "a given range")}  # fmt: skip


@pytest.mark.parametrize("settings", NPY_SETTINGS.values(), ids=NPY_SETTINGS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("descr", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_an_npy_file_keeps_its_byte_order_and_its_memory_order(
    tmp_path: Path, descr: str, order: str, settings: dict[str, Any]
) -> None:
    x = sample((3, 4, 6), np.dtype(descr))
    np.save(tmp_path / "in.npy", np.asarray(x, order=order))
    quantize(tmp_path / "in.npy", tmp_path / "out.npy", **settings)
    got = np.load(tmp_path / "out.npy")
    assert got.dtype.str == descr
    assert got.flags.f_contiguous == (order == "F")
    native = np.ascontiguousarray(x).astype(x.dtype.newbyteorder("="))
    want = expected_output(quantize_and_dequantize_v4, native, **settings)
    assert_same_bits(got.astype(native.dtype, order="C"), want, native)


@pytest.mark.parametrize("group_size", [3, 6])
def test_groups_of_a_big_endian_file(tmp_path: Path, group_size: int) -> None:
    x = sample((5, 6), np.dtype(">f4"))
    np.save(tmp_path / "in.npy", x)
    quantize(tmp_path / "in.npy", tmp_path / "out.npy", group_size=group_size)
    want = expected_output(quantize_and_dequantize_v4, x.astype(np.float32), group_size=group_size)
    assert_same_bits(np.load(tmp_path / "out.npy").astype(np.float32), want)


def test_groups_of_a_fortran_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.asfortranarray(sample((5, 6))))
    with pytest.raises(UsageError, match="Fortran order"):
        quantize(tmp_path / "in.npy", group_size=3)


def test_a_fortran_vector_is_an_ordinary_vector(tmp_path: Path) -> None:
    x = sample((6,))
    np.save(tmp_path / "in.npy", np.asfortranarray(x))
    quantize(tmp_path / "in.npy", tmp_path / "out.npy", group_size=3)
    assert_same_bits(np.load(tmp_path / "out.npy"), expected_output(quantize_and_dequantize_v4, x, group_size=3))


def test_bfloat16_in_an_npy_file(tmp_path: Path) -> None:
    x = sample((4, 6), "BF16")
    np.save(tmp_path / "in.npy", x.view("V2"))
    quantize(tmp_path / "in.npy", tmp_path / "out.npy", void_dtype="BF16", axis=0)
    got = np.load(tmp_path / "out.npy")
    assert got.dtype.str == "|V2"
    assert_same_bits(got.view(x.dtype), quantize_and_dequantize_v4(x, axis=0), x)


# Statistics of small tensors: every dtype against plain NumPy


@pytest.mark.parametrize(("dtype", "compute_dtype"), COMPUTED)
@pytest.mark.parametrize("settings", [{}, {"axis": 0}, {"axis": 1}, {"given_range": (-0.5, 0.25)}], ids=str)
def test_statistics_are_those_of_the_file_that_was_written(
    tmp_path: Path, dtype: str, settings: dict[str, Any], compute_dtype: ComputeDType
) -> None:
    x = sample((40, 25), dtype)
    y, measured = quantize_array(tmp_path, x, num_bits=4, compute_dtype=compute_dtype, **settings)
    axis = settings.get("axis", -1)
    ends = settings.get("given_range", (None, None))
    represented = reference.representable_range(
        x, *ends, num_bits=4, axis=axis, range_given="given_range" in settings, compute_dtype=str(compute_dtype)
    )
    assert_metrics_agree(
        measured.sums, reference.error_statistics(x, y, represented.min_range, represented.max_range, axis)
    )
    assert sums_by_name(measured.sums) == reference.ordered_sums(x, y)


def test_the_range_is_the_union_of_the_slices_and_ignores_nan(tmp_path: Path) -> None:
    x = np.array([[np.nan, 1.0, 2.0], [-3.0, np.nan, 0.5]], np.float32)
    for axis in (-1, 0, 1):
        _, measured = quantize_array(tmp_path, x, axis=axis)
        assert measured.overall_range == (-3.0, 2.0)


def test_the_range_of_nothing_but_nan_is_nan(tmp_path: Path) -> None:
    _, measured = quantize_array(tmp_path, np.full((2, 3), np.nan, np.float32), axis=0)
    assert np.isnan(measured.overall_range).all()
    assert measured.sums.num_nonfinite == 6
    assert METRICS["mse"].value(measured.sums) is None


def test_a_given_range_is_the_range(tmp_path: Path) -> None:
    _, measured = quantize_array(tmp_path, sample((5, 4)), given_range=(-0.5, 0.25), axis=1)
    assert measured.overall_range == (-0.5, 0.25)


def test_elements_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    x = sample((6, 10))
    x[1, 2] = np.nan
    x[3, 4] = np.inf  # spoils its row: scale 0
    x[5, 6] = -np.inf
    y, measured = quantize_array(tmp_path, x, axis=0, per_slice=True)
    assert measured.sums.num_nonfinite == 3
    assert measured.sums.num_nonfinite_output == int((np.isfinite(x) & ~np.isfinite(y)).sum()) == 18
    assert measured.sums.num_degenerate == 2
    assert measured.slice_sums is not None
    assert [row.num_nonfinite for row in measured.slice_sums] == [0, 1, 0, 1, 0, 1]
    assert [row.num_nonfinite_output for row in measured.slice_sums] == [0, 0, 0, 9, 0, 9]
    finite = np.where(np.isfinite(x), x, np.nan)  # also elements whose output is not finite
    assert [row.input_min for row in measured.slice_sums] == np.nanmin(finite, 1).tolist()
    assert [row.input_max for row in measured.slice_sums] == np.nanmax(finite, 1).tolist()
    assert (measured.sums.input_min, measured.sums.input_max) == (np.nanmin(finite), np.nanmax(finite))
    assert [row.num_degenerate for row in measured.slice_sums] == [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_the_datas_range_is_that_of_every_finite_input(tmp_path: Path, axis: int) -> None:
    x = np.array([[np.inf, -7.0, 9.0], [0.5, np.nan, 1.0]], np.float32)
    _, measured = quantize_array(tmp_path, x, axis=axis)
    assert (measured.sums.input_min, measured.sums.input_max) == (-7.0, 9.0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        *(((0,), {}), ((0,), {"axis": 0}), ((3, 0), {"axis": 0}), ((3, 0), {"axis": 1}), ((0, 4), {"axis": 1})),
        *(((0, 4), {"group_size": 2}), ((3, 0), {"group_size": 2}), ((2, 0, 3), {"given_range": (-1.0, 1.0)})),
    ],
    ids=str,
)
def test_an_empty_tensor_has_nothing_to_measure(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    y, measured = quantize_array(tmp_path, np.zeros(shape, DTYPES[dtype]), per_slice=True, **settings)
    assert y.shape == shape
    assert measured.sums == ErrorSums()
    assert measured.num_slices == 0
    assert not measured.slice_sums


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("settings", [{}, {"group_size": 1}, {"group_size": 8, "ragged_groups": True}], ids=str)
def test_a_tensor_of_rank_0_is_one_slice(tmp_path: Path, dtype: str, settings: dict[str, Any]) -> None:
    x = np.array(3.7, DTYPES[dtype])
    y, measured = quantize_array(tmp_path, x, per_slice=True, **settings)
    assert_same_bits(y, quantize_and_dequantize_v4(x), x)
    assert (measured.num_slices, measured.sums.num_elements) == (1, 1)
    assert measured.slice_sums == [measured.sums]


def test_progress_is_told_of_every_byte(tmp_path: Path) -> None:
    x = sample((150_000,))
    path = write_safetensors(tmp_path / "in.safetensors", {"w": x})
    (shard,) = open_checkpoint(path).shards
    told: list[int] = []
    with shard.open() as reader, Workers(2, 1 << 20) as workers:
        job = TensorJob(info=shard.tensors[0], spec=QuantSpec(), reader=reader, on_bytes=told.append)
        quantize_tensor(job, workers)
    assert sum(told) == x.nbytes
    assert len(told) == 3


# Many blocks: nothing depends on where they end


LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "the whole tensor": ((300_001,), {}),
    "axis 0, rows longer than a block": ((3, 100_001), {"axis": 0}),
    "axis 0, rows of a good part of a block": ((9, 33_333), {"axis": 0}),
    "axis 0, short rows": ((3001, 100), {"axis": 0}),
    "axis 0, rows that end with the blocks": ((600, 512), {"axis": 0}),
    "a middle axis": ((40, 61, 130), {"axis": 1}),
    "the last axis": ((3001, 101), {"axis": 1}),
    "the only axis": ((200_001,), {"axis": 0}),
    "groups": ((1001, 288), {"group_size": 96}),
    "groups as long as a block": ((3, 131_072), {"group_size": 65_536}),
    "long groups": ((5, 60_000), {"group_size": 20_000}),
    "ragged groups": ((1001, 290), {"group_size": 100, "ragged_groups": True}),
    "groups longer than a row": ((2001, 150), {"group_size": 1 << 20, "ragged_groups": True}),
}
BLOCKS = (CHUNK_ELEMENTS * 4, 3 * CHUNK_ELEMENTS * 4, LARGEST_BLOCK_BYTES)
"""Bytes of a block of float32."""


@cache
def many_elements(shape: tuple[int, ...]) -> np.ndarray:
    """With a few elements in every place that is not finite and a few that are zero."""
    x = sample(shape, "F32", 7)
    flat = x.reshape(-1)
    flat[[5, CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, 140_003]] = np.nan
    flat[[17, 65_000, 131_072]] = 0.0
    flat[190_000] = np.inf
    return x


@pytest.fixture
def layout_file(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, np.ndarray, dict[str, Any]]:
    shape, settings = LAYOUTS[request.param]
    x = many_elements(shape)
    return write_safetensors(tmp_path / "in.safetensors", {"w": x}), x, settings


every_layout = pytest.mark.parametrize("layout_file", LAYOUTS, indirect=True)


@every_layout
def test_blocks_and_threads_change_no_bit(tmp_path: Path, layout_file: tuple[Path, np.ndarray, dict[str, Any]]) -> None:
    path, x, settings = layout_file
    want = expected_output(quantize_and_dequantize_v4, x, **settings)
    indices = indices_of_slices(x.shape, **settings)
    per_slice = len(indices) < 100_000
    seen: list[Measurement] = []
    for block in BLOCKS:
        for threads in (1, 2, 5):
            output = tmp_path / f"{block}-{threads}.safetensors"
            seen.append(quantize(path, output, threads=threads, block=block, per_slice=per_slice, **settings))
            assert_same_bits(read_safetensors(output)["w"], want, x, (block, threads))
            output.unlink()
    assert all(measured == seen[0] for measured in seen)
    assert seen[0].num_slices == len(indices)
    assert sums_by_name(seen[0].sums) == reference.ordered_sums(x, want)


@every_layout
def test_slices_change_neither_the_sums_nor_the_range(
    layout_file: tuple[Path, np.ndarray, dict[str, Any]],
) -> None:
    path, _, settings = layout_file
    plain, detailed = (quantize(path, block=BLOCKS[0], per_slice=wanted, **settings) for wanted in (False, True))
    for name in Measurement._fields:
        if name != "slice_sums":
            assert getattr(plain, name) == getattr(detailed, name), name


@every_layout
def test_metrics_of_many_blocks_agree_with_numpy(layout_file: tuple[Path, np.ndarray, dict[str, Any]]) -> None:
    path, x, settings = layout_file
    y = expected_output(quantize_and_dequantize_v4, x, **settings)
    expected = reference.error_statistics(x, y)
    for name in ("clipped_fraction", "input_min", "input_max"):  # tests of small tensors have them
        del expected[name]
    assert_metrics_agree(quantize(path, max_memory=32 << 20, **settings).sums, expected)


@every_layout
def test_each_slice_is_added_element_after_element(layout_file: tuple[Path, np.ndarray, dict[str, Any]]) -> None:
    path, x, settings = layout_file
    y = expected_output(quantize_and_dequantize_v4, x, **settings)
    measured = quantize(path, per_slice=True, max_memory=64 << 20, **settings)
    slices = measured.slice_sums
    assert slices is not None
    if measured.num_slices == 1:  # the tensor is its only slice: its sums are added in the order of a tensor's
        assert slices == [measured.sums]
        return
    flat_x, flat_y = x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
    indices = indices_of_slices(x.shape, **settings)
    for index in range(0, len(indices), max(len(indices) // 500, 1)):
        a, b = flat_x[indices[index]], flat_y[indices[index]]
        sums = slices[index]
        assert sums.num_elements == a.size
        assert sums.num_nonfinite == (~np.isfinite(a)).sum()
        assert sums.num_nonfinite_output == (np.isfinite(a) & ~np.isfinite(b)).sum()
        finite = a[np.isfinite(a)]
        assert (sums.input_min, sums.input_max) == (min(finite, default=np.inf), max(finite, default=-np.inf))
        kept = np.isfinite(a) & np.isfinite(b)
        a, b = a[kept], b[kept]
        e = b - a
        assert sums_by_name(sums) == {
            "sum_error": one_after_another(e),
            "sum_abs_error": one_after_another(abs(e)),
            "sum_sq_error": one_after_another(e * e),
            "sum_sq_input": one_after_another(a * a),
            "sum_sq_output": one_after_another(b * b),
        }
        assert sums.max_abs_error == max(abs(e), default=0.0)
        assert sums.num_zeroed == ((a != 0) & (b == 0)).sum()


def one_after_another(terms: np.ndarray) -> float:
    """`np.cumsum` adds in sequence, where `np.sum` adds in pairs."""
    return float(np.cumsum(terms)[-1]) if terms.size else 0.0


@pytest.mark.parametrize("per_slice", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_degenerate_slice_is_counted_once_wherever_blocks_cut_it(tmp_path: Path, block: int, per_slice: bool) -> None:
    x = sample((3001, 100), "F32", 8)
    cut = [CHUNK_ELEMENTS * i // 100 for i in range(1, 5)]  # rows with elements in two blocks
    for i, row in enumerate(cut, start=1):
        assert row * 100 < CHUNK_ELEMENTS * i < row * 100 + 100
    x[cut[0]] = 0.0  # known from the range alone
    x[cut[1], 0] = np.finfo(np.float32).max  # infinite after quantization, which the block before shows
    x[cut[2], 99] = np.finfo(np.float32).max  # which the block behind shows
    x[cut[3], [0, 99]] = np.finfo(np.float32).max  # which both show
    x[[0, 7, 3000]] = 0.0
    _, measured = quantize_array(tmp_path, x, block=block, axis=0, per_slice=per_slice)
    assert measured.sums.num_degenerate == 7
    assert measured.sums.num_nonfinite_output == 4
    if per_slice:
        assert measured.slice_sums is not None
        found = [i for i, sums in enumerate(measured.slice_sums) if sums.num_degenerate]
        assert found == sorted([*cut, 0, 7, 3000])


@pytest.mark.parametrize("block", BLOCKS)
def test_a_degenerate_column_is_counted_once_over_all_blocks(tmp_path: Path, block: int) -> None:
    x = sample((3001, 100), "F32", 9)
    x[:, 3] = 0.0
    x[2999, 5] = np.finfo(np.float32).max
    _, measured = quantize_array(tmp_path, x, block=block, axis=1)
    assert measured.sums.num_degenerate == 2


# Limits


def test_ranges_that_need_more_than_the_memory_are_refused_before_reading(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "in.safetensors", (1000, 6_000_000))
    with pytest.raises(UsageError, match=r"'w' has 6,000,000 ranges.* MiB of memory.*--max-memory"):
        quantize(path, axis=1)


def test_statistics_of_each_of_many_slices_need_memory_too(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "in.safetensors", (8_000_000, 16))
    with pytest.raises(UsageError, match=r"8,000,000 ranges.*--per-channel"):
        quantize(path, group_size=16, per_slice=True)


def test_an_interrupted_tensor_raises(tmp_path: Path) -> None:
    interruption = Interruption()
    interruption.request(15)
    with pytest.raises(Interrupted) as raised:
        quantize_array(tmp_path, sample((300_001,)), interruption=interruption)
    assert raised.value.exit_code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_the_oracle_of_this_file_sees_slices(tmp_path: Path) -> None:
    x = sample((4, 6))
    whole, _ = quantize_array(tmp_path, x)
    assert not isnan(whole.sum())
    outputs = [expected_output(quantize_and_dequantize_v4, x, **settings).tobytes() for settings in
               ({}, {"axis": 0}, {"axis": 1}, {"group_size": 3}, {"group_size": 4, "ragged_groups": True})]  # fmt: skip
    assert len(set(outputs)) == 5


@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 1}, {"group_size": 20}], ids=str)
def test_subnormal_elements_outside_the_range_count_as_clipped_in_every_layout(
    tmp_path: Path, attributes: dict[str, int]
) -> None:
    """The op flushes the measured end to -0, which lies in [0, 1]; the element itself does not."""
    x = np.ones((2, 40), np.float32)
    x[0, 3] = x[1, 7] = -1e-40
    path = write_safetensors(tmp_path / "x.safetensors", {"w": x})
    assert quantize(path, signed_input=False, **attributes).sums.num_clipped == 2


def test_sums_of_many_slices_are_those_of_each_alone() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (40, SUM_COLUMNS)) * 0.75
    rows[::3] = -rows[::3]  # among them zeros of both signs
    rows[:, MAX_ABS_ERROR] = abs(rows[:, MAX_ABS_ERROR])
    rows[5, :5], rows[6, :5] = np.inf, np.nan
    alone = [error_sums([row[None]], number, 2 * number) for number, row in enumerate(rows)]
    together = sums_of_each(rows, list(range(40)), list(range(0, 80, 2)))
    assert repr(together) == repr(alone)


@pytest.mark.parametrize("per_slice", [False, True])
def test_extremes_count_every_finite_element(tmp_path: Path, per_slice: bool) -> None:
    """Those that become infinite, too: of a slice as of the whole tensor."""
    x = sample((3, 100), "F32", 8)
    x[1, 5] = np.finfo(np.float32).max
    x[2, 7], x[2, 8] = np.nan, -np.inf
    path = write_safetensors(tmp_path / "in.safetensors", {"w": x})
    measured = quantize(path, axis=0, per_slice=per_slice)
    finite = x[np.isfinite(x)]
    assert (measured.sums.input_min, measured.sums.input_max) == (finite.min(), finite.max())
    assert measured.sums.num_nonfinite_output > 0
    if per_slice:
        assert measured.slice_sums is not None
        rows = [row[np.isfinite(row)] for row in x]
        assert [(s.input_min, s.input_max) for s in measured.slice_sums] == [(row.min(), row.max()) for row in rows]
