"""Formats whose library does not run here, against an independent reading in NumPy of the published layout."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tensors.packed.golden import Stored, arrays, decoded, save

RNG = np.random.default_rng(20261129)
E2M1 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
FP8 = RNG.integers(0, 0x7F, (10, 64), dtype=np.uint8) | (RNG.integers(0, 2, (10, 64), dtype=np.uint8) << 7)
VALUES = FP8.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
POWERS = RNG.integers(110, 130, (10, 2), dtype=np.uint8)
NIBBLES = RNG.integers(0, 256, (10, 32), dtype=np.uint8)
INT8 = RNG.integers(-128, 128, (10, 64), dtype=np.int8)


def stored(dtype: str, array: NDArray[Any]) -> Stored:
    return dtype, array.shape, array.tobytes()


def scale(*shape: int) -> NDArray[np.float32]:
    return RNG.uniform(0.001, 0.01, shape).astype(np.float32)


ONE, ROW, BLOCK, INPUT = scale(), scale(10, 1), scale(3, 4), scale(64)
POWER = 2.0 ** (POWERS.astype(np.float32) - 127)
FP4 = E2M1[np.stack([NIBBLES & 15, NIBBLES >> 4], -1).reshape(10, 64)]
TILES = np.repeat(np.repeat(BLOCK, 4, 0), 16, 1)[:10]

Reading = tuple[dict[str, Stored], dict[str, Any], NDArray[np.float32]]
"""Tensors, configuration, and values."""


def narrow(*, is_dense: bool) -> Reading:
    """Rows of 20 codes of 3 bits: two words in both layouts."""
    codes, words = RNG.integers(0, 8, (10, 20)), np.zeros(10, np.uint64)
    for column in range(20):
        bit = 3 * column if is_dense else column // 10 * 32 + column % 10 * 3
        words |= codes[:, column].astype(np.uint64) << np.uint64(bit)
    tensors = {
        "a.weight_packed": stored("I32", words.view(np.int32).reshape(10, 2)),
        "a.weight_scale": stored("F32", ROW), "a.weight_shape": stored("I64", np.array([10, 20])),
    }  # fmt: skip
    scheme = {"targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "channel"}}
    return (
        tensors,
        {"quant_method": "compressed-tensors", "config_groups": {"g": scheme}},
        (codes - 4).astype(np.float32) * ROW,
    )


READINGS: dict[str, Reading] = {
    "DeepSeek V4, FP8 with powers of two": (
        {"a.weight": stored("F8_E4M3", FP8), "a.scale": stored("F8_E8M0", POWERS)},
        {"quant_method": "fp8"},
        VALUES * np.repeat(POWER, 32, 1),
    ),
    "DeepSeek V4, FP4 in bytes": (
        {"a.weight": stored("I8", NIBBLES), "a.scale": stored("F8_E8M0", POWERS)},
        {"quant_method": "fp8"},
        FP4 * np.repeat(POWER, 32, 1),
    ),
    "FP8, blocks at the edge are smaller": (
        {"a.weight": stored("F8_E4M3", FP8), "a.weight_scale_inv": stored("F32", BLOCK)},
        {"quant_method": "fp8", "weight_block_size": [4, 16]},
        VALUES * TILES,
    ),
    "FP8, undeclared": (
        {"a.weight": stored("F8_E4M3", FP8), "a.weight_scale": stored("F32", ROW)},
        {},
        VALUES * ROW,
    ),
    "Mistral FP8": (
        {"a.weight": stored("F8_E4M3", FP8), "a.qscale_weight": stored("F32", ONE)},
        {},
        VALUES * ONE,
    ),
    "ComfyUI, scale_weight": (
        {"a.weight": stored("F8_E4M3", FP8), "a.scale_weight": stored("F32", ONE.reshape(1))},
        {},
        VALUES * ONE,
    ),
    "ComfyUI, weight_scale with a mark": (
        {"a.weight": stored("I8", INT8), "a.weight_scale": stored("F32", ROW),
         "a.comfy_quant": stored("U8", np.frombuffer(b'{"format": "int8"}', np.uint8))},
        {},
        INT8.astype(np.float32) * ROW,
    ),
    "GPTQ, version 1, zero points of 0 that borrow from their neighbours": (
        {"a.qweight": stored("I32", np.full((8, 8), 0x33333333, np.int32)),
         "a.qzeros": stored("I32", np.array([[0x21020100 - 0x11111111]], np.int32)),
         "a.scales": stored("F32", np.ones((1, 8), np.float32))},
        {"quant_method": "gptq", "bits": 4, "sym": False},
        np.repeat(np.array([[3], [3], [2], [3], [1], [3], [2], [1]], np.float32), 64, 1),
    ),
    "GPTQ, version 1, zero points of 0 at 3 bits": (
        {"a.qweight": stored("I32", np.zeros((3, 32), np.int32)),
         "a.qzeros": stored("I32", np.full((1, 3), -1, np.int32)),
         "a.scales": stored("F32", np.ones((1, 32), np.float32))},
        {"quant_method": "gptq", "bits": 3, "sym": False},
        np.zeros((32, 32), np.float32),
    ),
    "compressed-tensors, a narrow weight in dense words": narrow(is_dense=True),
    "compressed-tensors, a narrow weight in padded words": narrow(is_dense=False),
    "ModelOpt NVFP4 with AWQ": (
        {"a.weight": stored("U8", NIBBLES), "a.weight_scale": stored("F8_E4M3", FP8[:, :4] & 0x7F),
         "a.weight_scale_2": stored("F32", ONE), "a.pre_quant_scale": stored("F32", INPUT)},
        {"quant_method": "modelopt"},
        FP4 * np.repeat(np.abs(VALUES[:, :4]) * ONE, 16, 1) * INPUT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READINGS)
def test_a_weight_is_what_the_layout_says(tmp_path: Path, name: str) -> None:
    tensors, config, expected = READINGS[name]
    (tmp_path / "m").mkdir()
    save(tmp_path / "m" / "model.safetensors", tensors)
    if config:
        (tmp_path / "m" / "config.json").write_text(json.dumps({"quantization_config": config}))
    found = arrays(decoded(tmp_path / "m"))
    assert list(found) == ["a.weight"]
    assert np.array_equal(found["a.weight"], expected)
