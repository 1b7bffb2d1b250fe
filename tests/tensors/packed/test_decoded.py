"""The decoded view of a checkpoint, and packed weights whose parts are damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.packed import decoded as view
from qdqcli.tensors.packed import decoder
from tests.conftest import Qdq
from tests.tensors.packed.golden import GOLDEN, Change, Stored, array_of, arrays, changed, decoded, load, save
from tests.tensors.packed.samples import sparse

PACK = GOLDEN / "compressed-tensors-pack-quantized"
Tensors = dict[str, Stored]


def without(name: str) -> Change:
    return lambda tensors: tensors.pop(name)


def shaped(name: str, *shape: int) -> Change:
    def change(tensors: Tensors) -> None:
        dtype, _, data = tensors[name]
        tensors[name] = dtype, shape, data[: len(data) * int(np.prod(shape)) // int(np.prod(tensors[name][1]))]

    return change


def element(name: str, dtype: str, index: int, value: Any) -> Change:
    def change(tensors: Tensors) -> None:
        array = array_of(tensors[name], dtype)
        array.flat[index] = value
        tensors[name] = (*tensors[name][:2], array.tobytes())

    return change


ORDER = "b4actorder.weight_g_idx"
DAMAGED: list[tuple[str, Change, str, str]] = [
    ("pack-quantized", without("b4.weight_scale"), "b4.weight_packed", "there is no 'b4.weight_scale'"),
    ("pack-quantized", shaped("b4.weight_scale", 5, 1), "b4.weight_scale", "groups of 32 are declared"),
    ("pack-quantized", shaped("b4.weight_scale", 3, 2), "b4.weight_scale", "its shape is 3x2, which does not fit"),
    ("pack-quantized", element("b4.weight_scale", "<f4", 3, np.nan), "b4.weight_scale", "NaN or infinite elements"),
    ("pack-quantized", element("b4.weight_shape", "<i8", 1, 65), "b4.weight_packed", "8 words in a row do not hold 65"),
    ("pack-quantized", element("b4.weight_shape", "<i8", 0, -5), "b4.weight_shape", "it is [-5, 64]"),
    ("pack-quantized", element("b4.weight_shape", "<i8", 0, 6), "b4.weight_packed", "5 rows, but its shape is [6, 64]"),
    ("pack-quantized", shaped("b4.weight_shape", 1), "b4.weight_shape", "1 sizes of a weight with 2"),
    ("pack-quantized", element(ORDER, "<i4", 3, 2), ORDER, "index 2 of a group; there are 2"),
    ("pack-quantized", element(ORDER, "<i4", 3, -2), ORDER, "index -2 of a group; there are 2"),
    ("pack-quantized", shaped(ORDER, 63), ORDER, "its shape is 63, expected 64"),
    ("pack-quantized", shaped("b4asymmetric.weight_zero_point", 4, 2), "b4asymmetric.weight_zero_point",
     "its shape is 4x2, expected 5x2"),
    ("nvfp4", element("a.weight_scale", "u1", 4, 0x7F), "a.weight_scale", "NaN or infinite elements"),
    ("nvfp4", element("a.weight_global_scale", "<f4", 0, 0), "a.weight_global_scale", "it is 0 and divides"),
    ("nvfp4", element("a.weight_global_scale", "<f4", 0, np.inf), "a.weight_global_scale", "NaN or infinite"),
    ("mxfp4", element("a.weight_scale", "u1", 4, 0xFF), "a.weight_scale", "NaN or infinite elements"),
]  # fmt: skip
"""Golden checkpoint of compressed-tensors, damage, and the tensor and the reason that the error names."""


@pytest.mark.parametrize(("name", "change", "tensor", "reason"), DAMAGED)
def test_a_damaged_part_is_named(tmp_path: Path, qdq: Qdq, name: str, change: Change, tensor: str, reason: str) -> None:
    folder = GOLDEN / f"compressed-tensors-{name}"
    outcome = qdq("compare", folder / "original.safetensors", changed(folder, tmp_path / "packed", change))
    assert outcome.code == 3, outcome.err
    assert f"'{tensor}'" in outcome.error
    assert reason in outcome.error


def typed(name: str, dtype: str) -> Change:
    return lambda tensors: tensors.update({name: (dtype, *tensors[name][1:])})


def empty(tensors: Tensors) -> None:
    for part in ("qweight", "qzeros", "scales"):
        dtype, (rows, _), _ = tensors[f"b4.{part}"]
        tensors[f"b4.{part}"] = dtype, (rows, 0), b""


def scalar(name: str) -> Change:
    return lambda tensors: tensors.update({name: (tensors[name][0], (), tensors[name][2][:4])})


def unpacked_zero_points(tensors: Tensors) -> None:
    tensors["b4asymmetric.weight_zero_point"] = "I8", (5, 2), bytes(10)


def nested(**settings: Any) -> Change:
    """Settings of a quant_state of bitsandbytes."""

    def change(tensors: Tensors) -> None:
        name = "nf4nested.weight.quant_state.bitsandbytes__nf4"
        data = json.dumps({**json.loads(tensors[name][2]), **settings}).encode()
        tensors[name] = "U8", (len(data),), data

    return change


def declares(**settings: Any) -> Callable[[Any], object]:
    return lambda config: next(iter(config.values())).update(settings)


def act_order(config: Any) -> None:
    for group in config["quantization_config"]["config_groups"].values():
        if group["targets"] == ["b4actorder"]:
            group["weights"]["actorder"] = "group"


QUANT_STATE = "nf4nested.weight.quant_state.bitsandbytes__nf4"
CONTRADICTING: list[tuple[str, Change, Callable[[Any], object], str, str]] = [
    ("gptq", typed("b4.qzeros", "F32"), declares(), "b4.qzeros", "its dtype is F32, expected I32"),
    ("gptq", typed("b4.g_idx", "F32"), declares(), "b4.g_idx", "its dtype is F32, expected I32"),
    ("gptq", without("b4.qzeros"), declares(), "b4.qweight", "no qzeros beside it"),
    ("gptq", without("b4order.g_idx"), declares(desc_act=True), "b4order.qweight", "no g_idx beside it"),
    ("gptq", empty, declares(), "b4.qweight", "its shape is 8x0: it has no elements"),
    ("gptq", lambda tensors: (without("b4.g_idx")(tensors), scalar("b4.qzeros")(tensors)), declares(), "b4.qweight",
     "codes of 0 bits, by the shapes of its parts"),
    ("bitsandbytes-4bit", nested(nested_blocksize=10**30), declares(), QUANT_STATE, "nested_blocksize is 1000"),
    ("bitsandbytes-4bit", nested(nested_offset=10**400), declares(), QUANT_STATE, "nested_offset is 1000"),
    ("mlx", scalar("b6.scales"), declares(), "b6.scales", "its shape is scalar, expected a scale per group"),
    ("compressed-tensors-pack-quantized", scalar("b4.weight_packed"), declares(), "b4.weight_packed",
     "it has no dimensions"),
    ("compressed-tensors-pack-quantized", unpacked_zero_points, declares(),
     "b4asymmetric.weight_zero_point", "its dtype is I8, expected I32"),
    ("mlx", lambda _: None, declares(b2={"group_size": 32, "bits": 7}), "b2.weight", "configuration says 7"),
    ("compressed-tensors-pack-quantized", without("b4asymmetric.weight_zero_point"), declares(),
     "b4asymmetric.weight_packed", "no weight_zero_point beside it"),
    ("compressed-tensors-int-quantized", without("asymmetric.weight_zero_point"), declares(), "asymmetric.weight",
     "no weight_zero_point beside it"),
    ("compressed-tensors-pack-quantized", without(ORDER), act_order, "b4actorder.weight_packed",
     "no weight_g_idx beside it"),
    ("comfyui", lambda tensors: tensors.update({"nvfp4.comfy_quant": ("U8", (17,), b'{"convrot": true}')}), declares(),
     "nvfp4.comfy_quant", "it says convrot: rotated weights are not decoded"),
    ("comfyui", shaped("nvfp4.weight_scale", 128, 8), declares(), "nvfp4.weight_scale", "128x8, expected 256x8"),
    ("modelopt-nvfp4", shaped("experts.down_proj_weight_scale", 2, 1, 10), declares(),
     "experts.down_proj_weight_scale", "its shape is 2x1x10, expected 2x2x10"),
]  # fmt: skip
"""Golden checkpoint, damage, what its configuration declares too; the tensor and the reason that the error names."""


@pytest.mark.parametrize(("name", "change", "config", "tensor", "reason"), CONTRADICTING)
def test_an_optional_part_that_the_configuration_asks_for(
    tmp_path: Path, qdq: Qdq, name: str, change: Change, config: Callable[[Any], object], tensor: str, reason: str
) -> None:
    folder = changed(GOLDEN / name, tmp_path / "packed", change, config)
    outcome = qdq("compare", GOLDEN / name / "original.safetensors", folder)
    assert outcome.code == 3, outcome.err
    assert f"'{tensor}'" in outcome.error
    assert reason in outcome.error


def test_values_beyond_the_dtype_are_refused(tmp_path: Path, qdq: Qdq) -> None:
    folder = changed(PACK, tmp_path / "packed", element("b4.weight_scale", "<f4", 3, 1e6))
    outcome = qdq("decode", folder, "-o", tmp_path / "out", "--dtype", "f16")
    assert outcome.code == 3
    assert "tensor 'b4.weight': values beyond those of F16; decode to f32" in outcome.error
    assert qdq("decode", folder, "-o", tmp_path / "out", "--dtype", "bf16").code == 0

    folder = changed(PACK, tmp_path / "infinite", element("b4.weight_scale", "<f4", 3, 3e38))
    outcome = qdq("decode", folder, "-o", tmp_path / "out2")
    assert outcome.code == 3
    assert "tensor 'b4.weight': values that are NaN or infinite; decode to f32" in outcome.error
    assert qdq("decode", folder, "-o", tmp_path / "out3", "--dtype", "f32").code == 0


def test_rows_too_long_to_decode_whole_are_refused(tmp_path: Path, qdq: Qdq) -> None:
    path = sparse(tmp_path / "m.safetensors", {"w": ("F8_E4M3", (1, view.MAX_WIDTH + 1)), "w_scale": ("F32", ())})
    outcome = qdq("decode", path, "-o", tmp_path / "out.safetensors")
    assert outcome.code == 3
    assert "tensor 'w', codes of FP8: a row has 4,194,305 elements; at most 4,194,304 are decoded" in outcome.error


@pytest.mark.parametrize(("text", "reason"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
def test_a_configuration_that_cannot_be_read_is_an_error(tmp_path: Path, qdq: Qdq, text: str, reason: str) -> None:
    """It may say that GPTQ's zero points are those of version 2."""
    folder = changed(GOLDEN / "gptq", tmp_path / "packed", lambda _: None)
    (folder / "config.json").write_text(text)
    for candidate in (folder, folder / "model.safetensors"):
        outcome = qdq("compare", GOLDEN / "gptq/original.safetensors", candidate)
        assert outcome.code == 3
        assert f"config.json: {reason}" in outcome.error
    assert "GPTQ" in qdq("inspect", folder).err


def test_a_shard_with_scales_that_is_missing_is_named(tmp_path: Path, qdq: Qdq) -> None:
    folder = split(tmp_path / "packed", lambda name: name == "b4.weight_scale")
    (folder / "b.safetensors").unlink()
    outcome = qdq("compare", PACK / "original.safetensors", folder)
    assert outcome.code == 3
    assert "b.safetensors" in outcome.error


def split(folder: Path, is_second: Callable[[str], bool]) -> Path:
    """A golden checkpoint in two shards with an index."""
    changed(PACK, folder, lambda _: None)
    tensors = load(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: "b.safetensors" if is_second(name) else "a.safetensors" for name in tensors}
    for file in set(names.values()):
        save(folder / file, {name: tensors[name] for name in tensors if names[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def test_parts_may_be_in_another_shard(tmp_path: Path) -> None:
    found = arrays(decoded(split(tmp_path / "packed", lambda name: name.endswith(("_scale", "_g_idx")))))
    expected = arrays(decoded(PACK / "packed"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values)


def test_a_read_of_any_piece_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks begin and end within rows, and rows are decoded a few at a time."""
    monkeypatch.setattr(view, "STEP_ELEMENTS", 150)
    checkpoint = decoded(PACK / "packed")
    expected = arrays(checkpoint)
    (shard,) = checkpoint.shards
    with shard.open() as reader:
        for info in shard.tensors:
            whole = expected[info.name].tobytes()
            for start, stop in (
                (0, 4),
                (4, 260),
                (252, 260),
                (100, info.nbytes),
                (info.nbytes - 4, info.nbytes),
                (8, 8),
            ):
                piece = bytearray(stop - start)
                reader.read_into(info, start, memoryview(piece))
                assert piece == whole[start:stop]


@pytest.mark.parametrize(
    ("scheme", "block"), [({"group_size": 48}, (1, 48)), ({"block_structure": [3, 48]}, (3, 48)), ({}, (1, 64))]
)
def test_groups_that_are_no_power_of_two(tmp_path: Path, scheme: Any, block: tuple[int, int]) -> None:
    """Two scales for 96 columns: the configuration says that each is of 48, not of 64 and the rest."""
    height, width = block
    scales = np.arange(1, 2 * 6 // height + 1, dtype=np.float32).reshape(-1, 2)
    save(tmp_path / "model.safetensors", {
        "a.weight": ("I8", (6, 96), np.ones((6, 96), np.int8).tobytes()),
        "a.weight_scale": ("F32", scales.shape, scales.tobytes()),
    })  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, **scheme}}}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    view = decoded(tmp_path)
    expected = scales.repeat(height, axis=0).repeat(width, axis=1)[:, :96]
    np.testing.assert_array_equal(arrays(view)["a.weight"], expected)
    what = f"group of {width}" if height == 1 else f"{height}x{width} block"
    assert [storage.format for storage in view.storage.values()] == [
        f"compressed-tensors int-quantized with a scale per {what}"
    ]


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_parts_that_are_read_in_strips_of_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of one to a few columns; a read begins and ends within them."""
    expected = arrays(decoded(GOLDEN / name / "packed"))
    monkeypatch.setattr(view, "STEP_ELEMENTS", 320)
    monkeypatch.setattr(decoder, "CACHED_BYTES", 64)
    for size in (1, 96, 900):
        monkeypatch.setattr(decoder, "STRIP_BYTES", size)
        for key, values in arrays(decoded(GOLDEN / name / "packed")).items():
            np.testing.assert_array_equal(values, expected[key])


def test_a_weight_that_is_there_twice_is_refused(tmp_path: Path, qdq: Qdq) -> None:
    def add(tensors: Tensors) -> None:
        tensors["b4.weight"] = "F32", (5, 64), bytes(5 * 64 * 4)

    outcome = qdq("compare", PACK / "original.safetensors", changed(PACK, tmp_path / "packed", add))
    assert outcome.code == 3
    assert "tensor 'b4.weight' is there twice: in float, and packed as compressed-tensors" in outcome.error


def test_a_weight_that_is_packed_twice_or_in_float_in_another_shard_is_refused(tmp_path: Path, qdq: Qdq) -> None:
    def add(tensors: Tensors) -> None:
        gptq = load(GOLDEN / "gptq/packed/model.safetensors")
        tensors.update({name: value for name, value in gptq.items() if name.startswith("b4.")})

    outcome = qdq("compare", PACK / "original.safetensors", changed(PACK, tmp_path / "packed", add))
    assert outcome.code == 3
    assert "tensor 'b4.weight' is there twice: packed as compressed-tensors pack-quantized, and packed as GPTQ" in (
        outcome.error
    )

    folder = split(tmp_path / "shards", lambda name: name.startswith("b3."))
    other = load(folder / "b.safetensors")
    save(folder / "b.safetensors", {**other, "b4.weight": ("F32", (5, 64), bytes(5 * 64 * 4))})
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**names, "b4.weight": "b.safetensors"}}))
    outcome = qdq("decode", folder, "-o", tmp_path / "out")
    assert outcome.code == 3
    assert "tensor 'b4.weight' is in a.safetensors and in b.safetensors: in float, and packed" in outcome.error


def test_without_a_configuration_the_width_tells_the_bits(tmp_path: Path) -> None:
    layers = ("b2", "b3", "b4", "b5", "b6")

    def keep(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.split(".")[0] not in layers]:
            del tensors[name]

    folder = changed(PACK, tmp_path / "packed", keep)
    (folder / "config.json").unlink()
    found, expected = arrays(decoded(folder)), arrays(open_checkpoint(PACK / "decoded.safetensors"))
    assert len(found) == len(layers)
    for name, values in found.items():
        assert np.array_equal(values, expected[name])


@pytest.mark.parametrize(
    ("target", "is_right"), [("re:.*b3$", True), ("re:(b+)+$|" + "(x*)*" * 20, False), ("re:[", False)]
)
def test_targets_that_are_patterns(tmp_path: Path, target: str, is_right: bool) -> None:
    """The two layers have 3 and 4 bits, which the width tells where no pattern does."""

    def keep(tensors: Tensors) -> None:
        for name in [name for name in tensors if not name.startswith(("b3.", "b4."))]:
            del tensors[name]

    def retarget(config: Any) -> None:
        groups = config["quantization_config"]["config_groups"]
        for name, group in list(groups.items()):
            if group["targets"] == ["b3"]:
                group["targets"] = [target]
                group["weights"]["num_bits"] = 3 if is_right else 8
            elif group["targets"] != ["b4"]:
                del groups[name]

    folder = changed(PACK, tmp_path / "packed", keep, retarget)
    found, expected = arrays(decoded(folder)), arrays(open_checkpoint(PACK / "decoded.safetensors"))
    assert found.keys() == {"b3.weight", "b4.weight"}
    for name, values in found.items():
        assert np.array_equal(values, expected[name])
