"""Slips of writers and readers of packed weights: each is recognised in a file that has exactly this slip."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qdqcli.op.arrays import quantize_and_dequantize_v4
from qdqcli.report.table import MAX_NAME
from qdqcli.run import input_scales
from qdqcli.run.slips import find_slip
from qdqcli.tensors.packed.storage import CodeGrid
from tests.conftest import Qdq
from tests.tensors.packed.golden import Stored, load, save

RNG = np.random.default_rng(7)
ROWS, COLUMNS, GROUP = 64, 128, 32
Array = NDArray[np.float32]


def original() -> Array:
    """A square-free weight whose groups differ in size, as trained ones do."""
    sizes = np.exp(RNG.normal(0, 0.6, (ROWS, COLUMNS // GROUP, 1)))
    values = 0.02 * sizes * RNG.standard_normal((ROWS, COLUMNS // GROUP, GROUP))
    return values.reshape(ROWS, COLUMNS).astype(np.float32)


X = original()
GROUPS = X.reshape(ROWS, -1, GROUP)
SCALES = np.abs(GROUPS).max(-1, keepdims=True) / np.float32(7)
CODES = np.clip(np.round(GROUPS / SCALES), -8, 7).astype(np.int32)
INPUT_SCALE = np.exp(RNG.normal(0, 0.4, COLUMNS)).astype(np.float32)
ORTHOGONAL = np.linalg.qr(RNG.standard_normal((COLUMNS, COLUMNS)))[0].astype(np.float32)


def quantized(x: Array, size: int = GROUP) -> tuple[NDArray[np.int32], Array]:
    """Codes and scales of the weight (rows, groups, columns)."""
    groups = x.reshape(ROWS, -1, size)
    scales = np.abs(groups).max(-1, keepdims=True) / np.float32(7)
    return np.clip(np.round(groups / scales), -8, 7).astype(np.int32), scales


def permuted(codes: NDArray[np.int32], scales: Array) -> tuple[NDArray[np.int32], Array]:
    """Rows of two halves interleaved, as tools do for the rotary embedding of q and k."""
    order = np.arange(ROWS).reshape(2, -1).T.ravel()
    return codes[order], scales[order]


def finer() -> tuple[NDArray[np.int32], Array]:
    """Codes in groups of half the size, of whose scales every second one is stored."""
    halves, sizes = quantized(X, GROUP // 2)
    return halves.reshape(CODES.shape), sizes[:, ::2]


SLIPS: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "inverted": (lambda: (CODES, 1 / SCALES), "scales inverted"),
    "squared": (lambda: (CODES, SCALES**2), "scales squared"),
    "nibbles": (lambda: (CODES.reshape(ROWS, -1, GROUP // 2, 2)[..., ::-1].reshape(CODES.shape), SCALES),
                "nibbles of each byte swapped"),
    "scale grid": (finer,
                   "scale grid of the wrong size: scales would fit groups of 16, not groups of 32"),
    "scales of others": (lambda: (CODES, SCALES[RNG.permutation(ROWS)]), "scales of other rows or groups"),
    "zero point": (lambda: (np.minimum(CODES + 1, 7), SCALES), "zero points off by one"),
    "rows": (lambda: permuted(CODES, SCALES), "rows permuted"),
    "byte order": (lambda: (CODES.reshape(ROWS, -1, 4, 2)[:, :, ::-1].reshape(CODES.shape), SCALES),
                   "columns permuted"),
    "zeros": (lambda: (CODES, SCALES * 0), "every value is 0"),
    "factor": (lambda: (CODES, SCALES * np.float32(1.25)), "a constant factor of 1.2"),
    "previous layer": (lambda: quantized(X * INPUT_SCALE), "scaled per input channel by the layer before"),
    "rotated": (lambda: quantized(X @ ORTHOGONAL), "rotated (QuaRot, SpinQuant)"),
    "transposed": (lambda: quantized(np.block([[X[:, :ROWS].T, X[:, ROWS:]]])), "transposed"),
}  # fmt: skip
"""Codes and scales that a file with this slip holds, and what `compare` says."""


def packed(folder: Path, codes: NDArray[np.int32], scales: Array) -> Path:
    """The weight as compressed-tensors packs it."""
    rows = len(codes)
    nibbles = (codes.reshape(rows, -1) + 8).astype(np.uint8)
    words = (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).tobytes()
    tensors: dict[str, Stored] = {
        "a.weight_packed": ("I32", (rows, COLUMNS // 8), words),
        "a.weight_scale": ("F32", (rows, COLUMNS // GROUP), scales.astype("<f4").tobytes()),
        "a.weight_shape": ("I64", (2,), np.array([rows, COLUMNS], "<i8").tobytes()),
    }
    folder.mkdir()
    save(folder / "model.safetensors", tensors)
    scheme = {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": GROUP, "symmetric": True}}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": scheme}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def compared(tmp_path: Path, qdq: Qdq, x: Array, codes: NDArray[np.int32], scales: Array) -> tuple[Any, str]:
    save(tmp_path / "original.safetensors", {"a.weight": ("F32", x.shape, x.astype("<f4").tobytes())})
    folder = packed(tmp_path / "packed", codes, scales)
    report = qdq("compare", tmp_path / "original.safetensors", folder, "--report", tmp_path / "r.json")
    assert report.code == 0, report.err
    (row,) = json.loads((tmp_path / "r.json").read_text())["tensors"]
    return row["packed"], report.out


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_named(tmp_path: Path, qdq: Qdq, name: str) -> None:
    make, text = SLIPS[name]
    found, shown = compared(tmp_path, qdq, X, *make())
    assert found["slip"] is not None
    assert found["slip"].startswith(text)
    assert text in shown.replace("\n", " ") or "warning" in shown
    if name not in ("rotated", "zeros"):
        assert found["slip_sqnr_db"] > 10


def test_a_weight_without_a_slip_has_none(tmp_path: Path, qdq: Qdq) -> None:
    found, _ = compared(tmp_path, qdq, X, CODES, SCALES)
    assert found["slip"] is None
    assert found["slip_sqnr_db"] is None


def test_what_is_said_of_input_channels_is_shown_whole() -> None:
    texts = input_scales.IN_NORM, input_scales.IN_LINEAR, input_scales.NOWHERE, input_scales.UNEQUAL
    assert max(map(len, texts)) <= MAX_NAME


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_other_weights_are_no_slip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((64, 128))
    for y in (x + rng.standard_normal(x.shape), rng.standard_normal(x.shape) * rng.uniform(2, 5), x + np.inf):
        assert find_slip(x, y, CodeGrid(4, (1, 32))) is None


def test_plain_rounding_of_a_large_weight_is_measured_on_some_rows(tmp_path: Path, qdq: Qdq) -> None:
    """On 16 blocks of 262,144 elements, from the first rows to the last."""
    copies, block_rows = 640, (1 << 18) // COLUMNS
    x = np.concatenate([X * np.float32(2.0) ** -(i % 9) + np.float32(i) * X.std() for i in range(copies)])
    groups = x.reshape(len(x), -1, GROUP)
    scales = np.abs(groups).max(-1, keepdims=True) / np.float32(7)
    found, _ = compared(tmp_path, qdq, x, np.clip(np.round(groups / scales), -8, 7).astype(np.int32), scales)
    left = len(x) - 16 * block_rows
    rows = np.concatenate([np.arange(block_rows) + i * block_rows + left * i // 15 for i in range(16)])
    y = quantize_and_dequantize_v4(x[rows].reshape(-1, GROUP), 0.0, 0.0, num_bits=4, axis=0).reshape(-1, COLUMNS)
    exact = x[rows].astype(np.float64)
    assert 0 < left < len(x) / 2
    assert found["expected_sqnr_db"] == pytest.approx(
        10 * np.log10((exact**2).sum() / ((exact - y) ** 2).sum()), abs=1e-4
    )


def test_what_a_second_quantization_does(tmp_path: Path, qdq: Qdq) -> None:
    """The op's own grid survives; one whose largest codes are not used does not."""
    y = quantize_and_dequantize_v4(X.reshape(-1, GROUP), 0.0, 0.0, num_bits=4, axis=0).reshape(GROUPS.shape)
    scales = np.maximum(y.max(-1, keepdims=True) / np.float32(7), -y.min(-1, keepdims=True) / np.float32(8))
    (tmp_path / "a").mkdir()
    same, shown = compared(tmp_path / "a", qdq, X, np.round(y / scales).astype(np.int32), scales)
    assert same["is_idempotent"] is True
    assert "int4, groups of 32, symmetric: 1 of 1 weight unchanged if rounded to their grid again" in shown
    (tmp_path / "b").mkdir()
    other, _ = compared(tmp_path / "b", qdq, X, np.clip(CODES, -5, 5), SCALES)
    assert other["is_idempotent"] is False
    (tmp_path / "c").mkdir()
    narrow, _ = compared(tmp_path / "c", qdq, X, np.clip(CODES, -7, 7), SCALES)
    assert narrow["is_idempotent"] is True


def test_weights_of_one_kind_that_are_packed_in_some_layers_only(tmp_path: Path, qdq: Qdq) -> None:
    folder = packed(tmp_path / "packed", CODES, SCALES)

    tensors = {name.replace("a.", "layers.0.q."): value for name, value in load(folder / "model.safetensors").items()}
    plain: Stored = ("F32", X.shape, X.astype("<f4").tobytes())
    save(folder / "model.safetensors", {**tensors, "layers.1.q.weight": plain, "head.weight": plain})
    both = {f"layers.{i}.q.weight": plain for i in range(2)}
    save(tmp_path / "original.safetensors", {**both, "head.weight": plain})
    outcome = qdq("compare", tmp_path / "original.safetensors", folder)
    text = " ".join(outcome.out.split())
    assert "layers.1.q.weight: left in float, though others of the kind are packed" in text
    assert "head.weight: left" not in text


def test_a_quantization_that_is_declared_but_not_there(tmp_path: Path, qdq: Qdq) -> None:
    (tmp_path / "float").mkdir()
    save(tmp_path / "float/model.safetensors", {"a.weight": ("F32", X.shape, X.astype("<f4").tobytes())})
    (tmp_path / "float/config.json").write_text('{"quantization_config": {"quant_method": "gptq", "bits": 4}}')
    packed_side = packed(tmp_path / "packed", CODES, SCALES)
    outcome = qdq("compare", packed_side, tmp_path / "float", "--format", "json")
    (note,) = outcome.report["notes"]
    assert (note["kind"], note["severity"]) == ("not-packed", "warning")
    assert "float: its configuration declares 'gptq', but no weight is packed" in f"{note['file']}: {note['message']}"


def awq_like(folder: Path, scales: dict[str, Array], norm: Array) -> tuple[Path, Path]:
    """A block whose weights are packed, times a scale per input channel each, and its original."""
    layer = "model.layers.0."
    names = {name: f"{layer}self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")}
    gain = np.full(COLUMNS, 2.0, np.float32)
    float_norm = {f"{layer}input_layernorm.weight": ("F32", (COLUMNS,), gain.tobytes())}
    original: dict[str, Stored] = {name: ("F32", X.shape, X.astype("<f4").tobytes()) for name in names.values()}
    folder.mkdir()
    save(folder / "original.safetensors", original | float_norm)
    tensors: dict[str, Stored] = {f"{layer}input_layernorm.weight": ("F32", (COLUMNS,), (gain * norm).tobytes())}
    for name, full in names.items():
        own = packed(folder / name, *quantized(X * scales[name]))
        tensors |= {key.replace("a.weight", full): value for key, value in load(own / "model.safetensors").items()}
    candidate = packed(folder / "packed", CODES, SCALES)
    save(candidate / "model.safetensors", tensors)
    return folder / "original.safetensors", candidate


OTHER = INPUT_SCALE[::-1].copy()


@pytest.mark.parametrize(
    ("scales", "norm", "text"),
    [
        ((INPUT_SCALE, INPUT_SCALE, INPUT_SCALE), 1 / INPUT_SCALE, "; its inverse is in the norm before"),
        (
            (INPUT_SCALE, INPUT_SCALE, INPUT_SCALE),
            INPUT_SCALE * 0 + 1,
            ", but no norm or linear layer has its inverse",
        ),
        (
            (INPUT_SCALE, OTHER, INPUT_SCALE),
            1 / INPUT_SCALE,
            ", but weights of one input have other factors",
        ),
        ((INPUT_SCALE, INPUT_SCALE**0, INPUT_SCALE), 1 / INPUT_SCALE, ", but weights of one input have"),
    ],
    ids=["cancels", "not in the norm", "other factors", "one without"],
)
def test_factors_per_input_channel_and_their_inverse(
    tmp_path: Path, qdq: Qdq, scales: tuple[Array, Array, Array], norm: Array, text: str
) -> None:
    sides = awq_like(tmp_path / "m", dict(zip(("q_proj", "k_proj", "v_proj"), scales, strict=True)), norm)
    outcome = qdq("compare", *sides, "--format", "json")
    assert outcome.code == 0, outcome.err
    rows = {row["name"].split(".")[-2]: row for row in outcome.report["tensors"]}
    assert rows["q_proj"]["packed"]["slip"] == rows["v_proj"]["packed"]["slip"]
    assert rows["q_proj"]["packed"]["slip"].startswith(
        f"scaled per input channel by the layer before (AWQ, SmoothQuant){text}"
    )


def test_the_inverse_in_the_linear_layer_before(tmp_path: Path, qdq: Qdq) -> None:
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    before = RNG.standard_normal((COLUMNS, 40)).astype(np.float32)
    after = before / INPUT_SCALE[:, None]
    original: dict[str, Stored] = {down: ("F32", X.shape, X.astype("<f4").tobytes()),
                                   up: ("F32", before.shape, before.tobytes())}  # fmt: skip
    save(tmp_path / "original.safetensors", original)
    folder = packed(tmp_path / "packed", *quantized(X * INPUT_SCALE))
    tensors = {key.replace("a.weight", down): value for key, value in load(folder / "model.safetensors").items()}
    save(folder / "model.safetensors", tensors | {up: ("F32", after.shape, after.astype("<f4").tobytes())})
    outcome = qdq("compare", tmp_path / "original.safetensors", folder, "--format", "json")
    (slip,) = {row["packed"]["slip"] for row in outcome.report["tensors"] if "packed" in row}
    assert slip.endswith("; its inverse is in the linear layer before")
