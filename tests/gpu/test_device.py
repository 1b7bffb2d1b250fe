"""A CUDA device against the CPU, bit for bit: golden vectors, random tensors, every 16-bit pattern, 4 GiB, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad
from qdqcli.errors import UnavailableError
from qdqcli.op.backend import backend
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.sums import CHUNK_ELEMENTS
from tests.conformance.golden import FULL, SUBSET, Golden
from tests.conftest import Qdq
from tests.op.bits import as_bits, assert_same_bits
from tests.run.checkpoints import DTYPES, sample, write_safetensors
from tests.simulator.parity import ARITHMETICS, NUMPY, SETTINGS, compare

pytestmark = pytest.mark.gpu

ODD = CHUNK_ELEMENTS + 17
LAYOUTS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((255,), {}),
    ((3 * CHUNK_ELEMENTS + 257,), {}),
    ((5, ODD), {"axis": 0}),
    ((1001, 37), {"axis": 0}),
    ((ODD, 3), {"axis": 1}),
    ((33, 4099), {"axis": 1}),
    ((7, 65, 301), {"axis": 1}),
    ((5, 301, 64), {"axis": 2}),
    ((300, 1024), {"group_size": 128}),
    ((301, 1030), {"group_size": 128, "ragged_groups": True}),
    ((2, 100_003), {"group_size": 40_000, "ragged_groups": True}),
    ((4001, 12), {"group_size": 4}),
]


def forward(x: np.ndarray, *arguments: Any, **attributes: Any) -> np.ndarray:
    from numba import cuda

    return quantize_and_dequantize_v4(cuda.to_device(x), *arguments, **attributes).copy_to_host()


def grad(gradients: np.ndarray, x: np.ndarray, *arguments: Any, **attributes: Any) -> tuple[np.ndarray, ...]:
    from numba import cuda

    on_device = cuda.to_device(gradients), cuda.to_device(x)
    return tuple(
        result.copy_to_host() for result in quantize_and_dequantize_v4_grad(*on_device, *arguments, **attributes)
    )


@pytest.mark.parametrize("kind", ["forward", "grad", "error"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_conformance(dtype: str, kind: str) -> None:
    golden = Golden(FULL if FULL.is_dir() else SUBSET)
    wrong = [text for case in golden.select(dtype, kind) if (text := golden.mismatch(case, forward, grad))]
    assert not wrong, "\n".join(wrong[:10])


@pytest.mark.parametrize(("shape", "attributes"), LAYOUTS, ids=str)
@pytest.mark.parametrize(("dtype", "compute_dtype"), ARITHMETICS)
def test_parity_of_every_kernel(
    dtype: str, compute_dtype: ComputeDType, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    cuda = backend("cuda")
    for settings, kind in SETTINGS:
        compare(cuda, QuantSpec(compute_dtype=compute_dtype, **attributes, **settings), shape, dtype, kind)


@pytest.mark.parametrize("round_mode", RoundMode)
@pytest.mark.parametrize("compute_dtype", ComputeDType)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_pattern(dtype: str, compute_dtype: ComputeDType, round_mode: RoundMode) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(NUMPY[dtype])
    finite = x[np.isfinite(x.astype(np.float32))]
    settings = {"compute_dtype": str(compute_dtype), "round_mode": str(round_mode)}
    for num_bits in (1, 4, 8, 12, 17):
        for limit in (3e-39, 1e-6, 1e-3, 0.7, 1.0, 300.0, 6e4):
            given = {**settings, "num_bits": num_bits, "range_given": True}
            assert_same_bits(forward(x, -limit, limit, **given), quantize_and_dequantize_v4(x, -limit, limit, **given))
        assert_same_bits(
            forward(finite, num_bits=num_bits, **settings),
            quantize_and_dequantize_v4(finite, num_bits=num_bits, **settings),
        )
    ranges = np.float32(-0.5), np.float32(0.25)
    assert_same_bits(
        grad(x[::-1].copy(), x, *ranges)[0], quantize_and_dequantize_v4_grad(x[::-1].copy(), x, *ranges)[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        (((1 << 30) + 3,), {}),
        (((1 << 14) + 1, (1 << 16) + 1), {"axis": 0}),
        (((1 << 14) + 1, (1 << 16) + 1), {"axis": 1, "round_mode": "HALF_UP"}),
    ],
    ids=["tensor", "axis 0", "axis 1"],
)
def test_more_than_four_gib(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """Indices beyond 2^30, which a launch does not have, and bytes beyond 2^32."""
    size = int(np.prod(shape))
    x = np.resize(np.random.default_rng(5).standard_normal(1_000_003, np.float32), size)
    x[-1], x[1 << 29] = 7.0, -9.0  # what sets the range is far from the beginning
    x = x.reshape(shape)
    assert np.array_equal(as_bits(forward(x, **attributes)), as_bits(quantize_and_dequantize_v4(x, **attributes)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Tensors of every dtype, one of them of several blocks and with awkward values."""
    tensors = {dtype: sample((601, 1024), dtype, 3) for dtype in ("F16", "F32", "F64")}
    tensors["BF16"] = sample((4097, 1024), "BF16", 4)
    tensors["odd"] = sample((3, 1_000_003), "F32", 5)
    tensors["odd"][1, 5::1000], tensors["odd"][2, 7] = np.nan, np.inf
    tensors["small"] = sample((3, 5), "BF16", 6)
    return write_safetensors(tmp_path / "model.safetensors", tensors | {"ids": np.arange(5)})


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--axis", "0", "--round-mode", "HALF_UP", "--compute-dtype", "native", "--per-channel"),
        ("--axis", "last", "--num-bits", "4", "--threads", "5"),
        ("--group-size", "64", "--ragged-groups", "--max-memory", "20MiB"),
        ("--input-min", "-0.5", "--input-max", "0.7"),
        ("--axis", "0", "--exclude", "odd", "--estimator", "percentile"),
    ],
    ids=" ".join,
)
def test_files(qdq: Qdq, model: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    outputs = {name: tmp_path / f"{name}.safetensors" for name in ("cuda", "cpu")}
    reports = {}
    for name, output in outputs.items():
        outcome = qdq("run", model, "-o", output, *settings, "--format", "json", "--device", name)
        assert outcome.code == 0, outcome.err
        reports[name] = json.loads(outcome.out)["tensors"]
        gradients = qdq("grad", model, model, "-o", tmp_path / f"g-{name}", "--axis", "last", "--device", name)
        assert gradients.code == 0, gradients.err
    assert reports["cuda"] == reports["cpu"]
    assert outputs["cuda"].read_bytes() == outputs["cpu"].read_bytes()
    assert (tmp_path / "g-cuda").read_bytes() == (tmp_path / "g-cpu").read_bytes()


def test_torch_tensors_stay_on_their_stream() -> None:
    torch = pytest.importorskip("torch")
    for dtype, numbers in ((torch.float32, DTYPES["F32"]), (torch.bfloat16, DTYPES["BF16"])):
        x = sample((300, 1000), "F32", 8)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            there = torch.tensor(x, device="cuda").to(dtype)
            for _ in range(20):  # work that is still under way when the op is put behind it
                there = there * 1.0
            got = quantize_and_dequantize_v4(there.T, num_bits=4, axis=1)
            ranges = torch.full((300,), -0.5, device="cuda"), torch.full((300,), 0.25, device="cuda")
            given = quantize_and_dequantize_v4(there, *ranges, range_given=True, axis=0)
            back, *zeros = quantize_and_dequantize_v4_grad(there, there, *ranges, axis=0)
            host = [tensor.float().cpu().numpy().astype(numbers) for tensor in (there, got, given, back)]
        assert type(got) is torch.Tensor
        assert got.is_cuda
        assert [tuple(zero.shape) for zero in zeros] == [(300,), (300,)]
        y = host[0]
        limits = np.full(300, -0.5, np.float32), np.full(300, 0.25, np.float32)
        assert_same_bits(host[1], quantize_and_dequantize_v4(np.ascontiguousarray(y.T), num_bits=4, axis=1))
        assert_same_bits(host[2], quantize_and_dequantize_v4(y, *limits, range_given=True, axis=0))
        assert_same_bits(host[3], quantize_and_dequantize_v4_grad(y, y, *limits, axis=0)[0])


def test_cupy_arrays_stay_cupy_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    x = sample((300, 1000), "F32", 9)
    with cupy.cuda.Stream(non_blocking=True):
        got = quantize_and_dequantize_v4(cupy.asarray(x)[::2], num_bits=4, axis=0)
        assert isinstance(got, cupy.ndarray)
        assert_same_bits(got.get(), quantize_and_dequantize_v4(x[::2], num_bits=4, axis=0))


def test_an_array_that_offers_dlpack_alone() -> None:
    torch = pytest.importorskip("torch")

    class Capsule:
        """As a library that is not known by name."""

        def __init__(self, tensor: Any) -> None:
            self._tensor = tensor

        def __dlpack__(self, **arguments: Any) -> Any:
            return self._tensor.__dlpack__(**arguments)

        def __dlpack_device__(self) -> Any:
            return self._tensor.__dlpack_device__()

    x = sample((30, 100), "F32", 10)
    got = quantize_and_dequantize_v4(Capsule(torch.tensor(x, device="cuda")), num_bits=4)
    assert_same_bits(got.copy_to_host(), quantize_and_dequantize_v4(x, num_bits=4))


def test_no_memory_left_is_told() -> None:
    from numba import cuda

    from qdqcli.op.cuda.target import device_errors

    free = cuda.current_context().get_memory_info().free
    with pytest.raises(UnavailableError, match="out of memory"), device_errors():
        cuda.device_array((2 * free,), np.uint8)
    assert_same_bits(forward(np.ones(9, np.float32)), np.ones(9, np.float32))  # the device goes on
