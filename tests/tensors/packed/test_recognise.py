"""Packed weights are recognised by what is declared and by their tensors; ordinary checkpoints are left in peace."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.packed.recognise import Packed, recognise
from qdqcli.tensors.packed.registry import PACKED
from qdqcli.tensors.tensor import DTYPES
from tests.growth import growth
from tests.tensors.packed.samples import FLOAT, SAMPLES, Q, Sample, Tensors, declared, sparse, write


def packed(path: Path) -> Packed:
    return recognise(open_checkpoint(path))


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_format_weights_and_every_part(tmp_path: Path, sample: Sample) -> None:
    found = packed(write(tmp_path / "m", sample))
    assert found.titles == sample.titles
    assert sorted(found.names) == sorted(sample.weights)
    floats = {name for name, (dtype, _) in sample.tensors.items() if dtype in ("BF16", "F16", "F32")}
    assert floats <= {name for _, name in found.reasons}, "a scale would be quantized"
    assert not {name for _, name in found.reasons} & set(FLOAT)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_a_single_file_without_a_configuration(tmp_path: Path, sample: Sample) -> None:
    found = packed(write(tmp_path / "m", sample, with_config=False) / "model.safetensors")
    if sample.undeclared is None:
        assert found.titles == sample.titles
    else:
        assert found.titles == ({sample.undeclared: 1} if sample.undeclared else {})


def test_every_format_of_the_registry_has_a_sample(tmp_path: Path) -> None:
    seen = {
        weight.format.name
        for number, sample in enumerate(SAMPLES.values())
        for weight in packed(write(tmp_path / str(number), sample)).weights
    }
    assert {known.name for known in PACKED} <= seen | {"GGUF"}  # which is a file format: test_gguf.py


def test_roles(tmp_path: Path) -> None:
    (weight,) = packed(write(tmp_path / "m", SAMPLES["GPTQ 4 bits"])).weights
    assert {role: part.name for role, part in weight.parts.items()} == {
        "codes": f"{Q}.qweight", "scale": f"{Q}.scales", "zero point": f"{Q}.qzeros", "group index": f"{Q}.g_idx",
    }  # fmt: skip
    reasons = packed(tmp_path / "m").reasons
    assert reasons["model.safetensors", f"{Q}.scales"] == "already quantized: GPTQ scale"
    assert reasons["model.safetensors", f"{Q}.qzeros"] == "already quantized: GPTQ zero point"


def test_companions_in_another_shard(tmp_path: Path) -> None:
    sparse(tmp_path / "a.safetensors", {"x.weight": ("F8_E4M3", (256, 256))})
    sparse(tmp_path / "b.safetensors", {"x.weight_scale_inv": ("F32", (2, 2)), "y.weight": ("BF16", (256, 256))})
    found = packed(tmp_path)
    assert found.titles == {"FP8 with a scale per 128x128 block": 1}
    assert set(found.reasons) == {("a.safetensors", "x.weight"), ("b.safetensors", "x.weight_scale_inv")}


def test_each_file_of_a_pipeline_by_itself(tmp_path: Path) -> None:
    fp8: Tensors = {"q.weight": ("F8_E4M3", (64, 64)), "q.weight_scale": ("F32", (64, 1))}
    sparse(tmp_path / "transformer/model.safetensors", fp8)
    sparse(
        tmp_path / "text_encoder/model.safetensors",
        {"q.weight": ("BF16", (64, 64)), "q.weight_scale": ("F32", (64, 1))},
    )
    (tmp_path / "transformer/config.json").write_text(json.dumps(declared("modelopt")))
    found = packed(tmp_path)
    assert found.titles == {"ModelOpt FP8 with a scale per row": 1}
    assert {shard for shard, _ in found.reasons} == {"transformer/model.safetensors"}


@pytest.mark.parametrize(
    "config",
    [
        {"text_config": {"quantization_config": {"quant_method": "AUTO-ROUND"}}},
        {"compression_config": {"quant_method": "auto-round"}},
    ],
)
def test_where_configurations_declare(tmp_path: Path, config: dict[str, object]) -> None:
    sample = SAMPLES["auto-round"]
    folder = write(tmp_path / "m", sample, with_config=False)
    (folder / "config.json").write_text(json.dumps(config))
    assert packed(folder).titles == sample.titles


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"quantization_config": 4}', '{"quantization_config": {"quant_method": []}}']
)
def test_a_configuration_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "m", SAMPLES["GPTQ 4 bits"], with_config=False)
    (folder / "config.json").write_text(text)
    assert packed(folder).titles == {"GPTQ": 1}


ORDINARY: dict[str, Tensors] = {
    "Llama": {f"{Q}.weight": ("BF16", (64, 64)), "model.norm.weight": ("BF16", (64,))},
    "BERT with integer buffers": {
        "embeddings.position_ids": ("I64", (1, 512)),
        "embeddings.word_embeddings.weight": ("F32", (64, 64)),
        "bn.num_batches_tracked": ("I64", ()),
    },
    "norms called scale, Flax": {
        "norm.scale": ("F32", (64,)), "dense.kernel": ("F32", (64, 64)), "dense.scale": ("F32", (64, 64)),
    },
    "biases and scales beside a float weight": {
        "a.weight": ("F32", (64, 64)), "a.biases": ("F32", (64, 2)), "a.scales": ("F32", (64, 2)),
    },
    "weight normalization": {
        "conv.weight_g": ("F32", (64, 1, 1)), "conv.weight_v": ("F32", (64, 64, 3)),
        "lin.weight": ("F32", (64, 64)), "lin.weight_scale": ("F32", (64, 1)), "lin.weight_scale_inv": ("F32", (1, 1)),
    },
    "learned scales of attention": {
        "attn.q_scale": ("F32", (64,)), "attn.k_scale": ("F32", (64,)), "attn.qkv.weight": ("F32", (64, 64)),
        "logit_scale": ("F32", ()),
    },
    "layer scale": {
        "blocks.0.ls1.gamma": ("F32", (64,)), "blocks.0.layer_scale": ("F32", (64,)), "w": ("F32", (64, 64)),
    },
    "Swin's integer buffers": {
        "attn.relative_position_index": ("I64", (49, 49)), "attn.mask": ("U8", (49, 49)), "attn.scale": ("F32", ()),
        "attn.qkv.weight": ("F32", (64, 64)),
    },
    "integer tables beside floats": {
        "tok.weight": ("I32", (64, 64)), "tok.scales": ("I32", (64, 2)), "lut.weight": ("U8", (64, 64)),
        "vq.codebook.weight": ("F32", (64, 64)), "vq.codebook.scale": ("F32", (1,)),
    },
    "GPTQ names without the shapes": {
        "q.qweight": ("I32", (16, 128)), "q.scales": ("F16", (7, 9)), "w": ("F32", (64, 64)),
    },
    "int8 weights with scales of other shapes": {"q.weight": ("I8", (64, 64)), "q.weight_scale": ("F32", (128, 3))},
    "blocks and scales of something else": {
        "unet.down_blocks": ("U8", (4, 4)), "unet.down_scales": ("U8", (3,)), "w": ("F32", (64, 64)),
    },
    "FP8 without a scale, which is a dtype like others": {"t": ("F8_E4M3", (64, 64)), "w": ("BF16", (64, 64))},
    "a vector of FP8": {"table": ("F8_E4M3", (64,)), "w": ("F32", (64, 64))},
}  # fmt: skip


@pytest.mark.parametrize("tensors", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_checkpoints_have_no_packed_weights(tmp_path: Path, tensors: Tensors) -> None:
    sparse(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "quantization_config": null}')
    assert packed(tmp_path) == Packed()


def test_a_declaration_alone_makes_nothing_packed(tmp_path: Path) -> None:
    sparse(tmp_path / "model.safetensors", {**ORDINARY["Llama"], **ORDINARY["BERT with integer buffers"]})
    (tmp_path / "config.json").write_text(json.dumps(declared("fp8")))
    assert packed(tmp_path) == Packed()


def test_masks_beside_a_known_format_are_no_codes(tmp_path: Path) -> None:
    sample = SAMPLES["GPTQ 4 bits"]
    buffers: Tensors = {"h.0.attn.bias": ("U8", (1, 1, 8, 8)), "h.0.position_ids": ("I32", (2, 2))}
    masked = replace(sample, tensors={**sample.tensors, **buffers})
    assert packed(write(tmp_path / "m", masked)).titles == sample.titles


def test_names_of_many_dots_take_no_time(tmp_path: Path) -> None:
    def recognise(dots: int) -> None:
        tensors: Tensors = {f"{i}{'.a' * dots}": ("F32", (2, 2)) for i in range(20)}
        sparse(tmp_path / "model.safetensors", {**tensors, "q.indices": ("I32", (4, 4))})
        (tmp_path / "config.json").write_text(json.dumps(declared("vptq")))
        assert packed(tmp_path).titles == {"vptq, unknown layout": 1}

    assert growth(recognise, 4_000, 40_000) < 40


def test_no_shape_and_no_dtype_breaks_the_recogniser(tmp_path: Path) -> None:
    random = Random(7)
    suffixes = sorted({known.codes for known in PACKED} | {part.suffix for known in PACKED for part in known.parts})
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (8,), (8, 1), (0, 4), (8, 8), (1, 64), (2, 3, 16), (4, 4, 4, 16)]
    dtypes = [name for name, dtype in DTYPES.items() if dtype.bits == 8 or dtype.is_floating or dtype.bits == 32]
    for number in range(200):
        tensors: Tensors = {
            f"{random.choice('ab')}{suffix}": (random.choice(dtypes), random.choice(shapes))
            for suffix in random.sample(suffixes, 25)
        }
        folder = tmp_path / str(number)
        sparse(folder / "model.safetensors", tensors)
        if number % 2:
            method = random.choice(PACKED).methods or ("other",)
            (folder / "config.json").write_text(json.dumps(declared(method[0])))
        found = packed(folder)
        assert {shard for shard, _ in found.reasons} <= {"model.safetensors"}, tensors
        assert sum(found.titles.values()) == len(found.weights), tensors
