"""One checkpoint for each packed format: names, dtypes and shapes as the format's own tools write them; no data.

The shapes are those of published models (Llama 3.1 8B where nothing else is said); files are sparse.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from qdqcli.tensors.tensor import DTYPES

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype and shape."""

Q = "model.layers.0.self_attn.q_proj"
FLOAT: Tensors = {
    "model.norm.weight": ("BF16", (4096,)),
    "lm_head.weight": ("BF16", (128256, 4096)),
    f"{Q}.bias": ("BF16", (4096,)),
}
"""What packed checkpoints leave in float."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A checkpoint, and what is to be recognised in it."""

    titles: Mapping[str, int]
    tensors: Tensors
    weights: tuple[str, ...] = (f"{Q}.weight",)
    config: Mapping[str, Any] | None = None
    config_name: str = "config.json"
    metadata: Mapping[str, str] = field(default_factory=dict)
    undeclared: str | None = None
    """The title without config.json, where it is another; "" for none."""


def declared(method: str, **more: Any) -> dict[str, Any]:
    return {"model_type": "llama", "quantization_config": {"quant_method": method, **more}}


def write(folder: Path, sample: Sample, *, with_config: bool = True) -> Path:
    """The checkpoint, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sparse(folder / "model.safetensors", {**sample.tensors, **FLOAT}, sample.metadata)
    if with_config and sample.config is not None:
        (folder / sample.config_name).write_text(json.dumps(sample.config))
    return folder


def sparse(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file of zeros that takes no room on the disk."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * DTYPES[dtype].bits // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


E = "model.layers.0.mlp.experts"
D = "double_blocks.0.img_attn.qkv"
SAMPLES: dict[str, Sample] = {
    "compressed-tensors w4a16, symmetric": Sample(
        titles={"compressed-tensors pack-quantized": 1},
        config=declared("compressed-tensors", format="pack-quantized"),
        tensors={
            f"{Q}.weight_packed": ("I32", (4096, 512)),
            f"{Q}.weight_scale": ("BF16", (4096, 32)),
            f"{Q}.weight_shape": ("I64", (2,)),
        },
    ),
    "compressed-tensors w4a16, asymmetric, act-order": Sample(
        titles={"compressed-tensors pack-quantized": 1},
        config=declared("compressed-tensors", format="pack-quantized"),
        tensors={
            f"{Q}.weight_packed": ("I32", (4096, 512)),
            f"{Q}.weight_scale": ("F16", (4096, 32)),
            f"{Q}.weight_zero_point": ("I32", (512, 32)),
            f"{Q}.weight_g_idx": ("I32", (4096,)),
            f"{Q}.weight_shape": ("I64", (2,)),
        },
    ),
    "compressed-tensors w8a8 int": Sample(
        titles={"compressed-tensors int-quantized with a scale per row": 1},
        config=declared("compressed-tensors", format="int-quantized"),
        tensors={f"{Q}.weight": ("I8", (4096, 4096)), f"{Q}.weight_scale": ("BF16", (4096, 1))},
    ),
    "compressed-tensors fp8 dynamic": Sample(
        titles={"compressed-tensors float-quantized with a scale per row": 1},
        undeclared="FP8 with a scale per row",
        config=declared("compressed-tensors", format="float-quantized"),
        tensors={f"{Q}.weight": ("F8_E4M3", (4096, 4096)), f"{Q}.weight_scale": ("BF16", (4096, 1))},
    ),
    "compressed-tensors fp8 block": Sample(
        titles={"compressed-tensors float-quantized with a scale per 128x128 block": 1},
        undeclared="FP8 with a scale per 128x128 block",
        config=declared("compressed-tensors", format="float-quantized"),
        tensors={f"{Q}.weight": ("F8_E4M3", (4096, 4096)), f"{Q}.weight_scale": ("BF16", (32, 32))},
    ),
    "compressed-tensors nvfp4": Sample(
        titles={"compressed-tensors nvfp4-pack-quantized": 1},
        config=declared("compressed-tensors", format="nvfp4-pack-quantized"),
        tensors={
            f"{Q}.weight_packed": ("U8", (4096, 2048)),
            f"{Q}.weight_scale": ("F8_E4M3", (4096, 256)),
            f"{Q}.weight_global_scale": ("F32", (1,)),
            f"{Q}.input_global_scale": ("F32", (1,)),
        },
    ),
    "compressed-tensors mxfp4": Sample(
        titles={"compressed-tensors mxfp4-pack-quantized": 1},
        config=declared("compressed-tensors", format="mxfp4-pack-quantized"),
        tensors={f"{Q}.weight_packed": ("U8", (4096, 2048)), f"{Q}.weight_scale": ("U8", (4096, 128))},
    ),
    "compressed-tensors mxfp8": Sample(
        titles={"compressed-tensors mxfp8-quantized with a scale per group of 32": 1},
        config=declared("compressed-tensors", format="mxfp8-quantized"),
        tensors={f"{Q}.weight": ("F8_E4M3", (4096, 4096)), f"{Q}.weight_scale": ("U8", (4096, 128))},
    ),
    "fp8 per tensor, with scales of activations and of the cache": Sample(
        titles={"FP8 with a scale per tensor": 1},
        config=declared("fp8", activation_scheme="static"),
        tensors={
            f"{Q}.weight": ("F8_E4M3", (4096, 4096)),
            f"{Q}.weight_scale": ("F32", (1,)),
            f"{Q}.input_scale": ("F32", (1,)),
            "model.layers.0.self_attn.k_scale": ("F32", ()),
            "model.layers.0.self_attn.v_proj.output_scale": ("F32", (1,)),
        },
    ),
    "fbgemm fp8 per row": Sample(
        titles={"FP8 with a scale per row": 1},
        config=declared("fbgemm_fp8"),
        tensors={f"{Q}.weight": ("F8_E4M3", (16384, 16384)), f"{Q}.weight_scale": ("F32", (16384, 1))},
    ),
    "DeepSeek V3": Sample(
        titles={"FP8 with a scale per 128x128 block": 2},
        config=declared("fp8", fmt="e4m3", weight_block_size=[128, 128]),
        weights=("model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"),
        tensors={
            "model.layers.0.self_attn.q_a_proj.weight": ("F8_E4M3", (1536, 7168)),
            "model.layers.0.self_attn.q_a_proj.weight_scale_inv": ("F32", (12, 56)),
            "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": ("F8_E4M3", (576, 7168)),
            "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv": ("F32", (5, 56)),
        },
    ),
    "fused FP8 experts": Sample(
        titles={"FP8 with a scale per matrix": 1},
        config=declared("fp8"),
        weights=(f"{E}.gate_up_proj",),
        tensors={
            f"{E}.gate_up_proj": ("F8_E4M3", (128, 4096, 4096)),
            f"{E}.gate_up_proj_scale_inv": ("F32", (128, 1, 1)),
            f"{E}.gate_up_proj_activation_scale": ("F32", ()),
        },
    ),
    "DeepSeek V4": Sample(
        titles={"DeepSeek V4": 1, "DeepSeek V4 with a scale per 128x128 block": 1},
        config=declared("fp8", scale_fmt="ue8m0", weight_block_size=[128, 128]),
        weights=("layers.0.attn.wq_a.weight", "layers.0.ffn.experts.0.w1.weight"),
        tensors={
            "layers.0.attn.wq_a.weight": ("F8_E4M3", (1024, 4096)),
            "layers.0.attn.wq_a.scale": ("F8_E8M0", (8, 32)),
            "layers.0.ffn.experts.0.w1.weight": ("I8", (2048, 2048)),
            "layers.0.ffn.experts.0.w1.scale": ("F8_E8M0", (2048, 128)),
        },
    ),
    "Mistral's own names": Sample(
        titles={"Mistral FP8 with a scale per tensor": 1},
        weights=("layers.0.attention.wq.weight",),
        tensors={
            "layers.0.attention.wq.weight": ("F8_E4M3", (4096, 5120)),
            "layers.0.attention.wq.qscale_weight": ("F32", ()),
            "layers.0.attention.wq.qscale_act": ("F32", ()),
        },
    ),
    "ModelOpt NVFP4 (DeepSeek R1)": Sample(
        titles={"ModelOpt NVFP4": 1},
        config={"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": []}},
        config_name="hf_quant_config.json",
        weights=("model.layers.0.mlp.down_proj.weight",),
        tensors={
            "model.layers.0.mlp.down_proj.weight": ("U8", (7168, 9216)),
            "model.layers.0.mlp.down_proj.weight_scale": ("F8_E4M3", (7168, 1152)),
            "model.layers.0.mlp.down_proj.weight_scale_2": ("F32", ()),
            "model.layers.0.mlp.down_proj.input_scale": ("F32", ()),
            "model.layers.0.mlp.down_proj.pre_quant_scale": ("BF16", (18432,)),
        },
    ),
    "ModelOpt NVFP4, fused experts (Llama 4 Scout)": Sample(
        titles={"ModelOpt NVFP4": 1},
        config=declared("modelopt"),
        weights=("language_model.model.layers.0.feed_forward.experts.gate_up_proj",),
        tensors={
            "language_model.model.layers.0.feed_forward.experts.gate_up_proj": ("U8", (16, 2560, 16384)),
            "language_model.model.layers.0.feed_forward.experts.gate_up_proj_weight_scale": (
                "F8_E4M3",
                (16, 320, 16384),
            ),
            "language_model.model.layers.0.feed_forward.experts.gate_up_proj_weight_scale_2": ("F32", ()),
            "language_model.model.layers.0.feed_forward.experts.gate_up_proj_input_scale": ("F32", ()),
        },
    ),
    "ModelOpt MXFP4": Sample(
        titles={"ModelOpt MXFP4": 1},
        config={"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "mxfp4"}},
        config_name="hf_quant_config.json",
        tensors={f"{Q}.weight": ("U8", (4096, 2048)), f"{Q}.weight_scale": ("U8", (4096, 128))},
    ),
    "ModelOpt FP8": Sample(
        titles={"ModelOpt FP8 with a scale per tensor": 1},
        undeclared="FP8 with a scale per tensor",
        config={"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
        config_name="hf_quant_config.json",
        tensors={
            f"{Q}.weight": ("F8_E4M3", (4096, 4096)),
            f"{Q}.weight_scale": ("F32", ()),
            f"{Q}.input_scale": ("F32", ()),
            "model.layers.0.self_attn.k_proj.k_scale": ("F32", ()),
        },
    ),
    "gpt-oss 20b": Sample(
        titles={"gpt-oss MXFP4": 2},
        config=declared("mxfp4", modules_to_not_convert=["lm_head"]),
        weights=(f"{E}.gate_up_proj", f"{E}.down_proj"),
        tensors={
            f"{E}.gate_up_proj_blocks": ("U8", (32, 5760, 90, 16)),
            f"{E}.gate_up_proj_scales": ("U8", (32, 5760, 90)),
            f"{E}.down_proj_blocks": ("U8", (32, 2880, 90, 16)),
            f"{E}.down_proj_scales": ("U8", (32, 2880, 90)),
        },
    ),
    "GPTQ 4 bits": Sample(
        titles={"GPTQ": 1},
        config=declared("gptq", bits=4, group_size=128, checkpoint_format="gptq"),
        tensors={
            f"{Q}.qweight": ("I32", (512, 4096)),
            f"{Q}.qzeros": ("I32", (32, 512)),
            f"{Q}.scales": ("F16", (32, 4096)),
            f"{Q}.g_idx": ("I32", (4096,)),
        },
    ),
    "GPTQ 3 bits, one group": Sample(
        titles={"GPTQ": 1},
        config={"bits": 3, "group_size": -1},
        config_name="quantize_config.json",
        tensors={
            f"{Q}.qweight": ("I32", (384, 4096)),
            f"{Q}.qzeros": ("I32", (1, 384)),
            f"{Q}.scales": ("F16", (1, 4096)),
            f"{Q}.g_idx": ("I32", (4096,)),
        },
    ),
    "auto-round": Sample(
        titles={"auto-round, GPTQ packing": 1},
        undeclared="GPTQ",
        config=declared("auto-round", bits=4, packing_format="auto_round:auto_gptq"),
        tensors={
            f"{Q}.qweight": ("I32", (512, 4096)),
            f"{Q}.qzeros": ("I32", (32, 512)),
            f"{Q}.scales": ("F16", (32, 4096)),
        },
    ),
    "auto-round, AWQ packing": Sample(
        titles={"auto-round, AWQ packing": 1},
        undeclared="AWQ",
        config=declared("auto-round", bits=4, packing_format="auto_round:auto_awq"),
        tensors={
            f"{Q}.qweight": ("I32", (4096, 512)),
            f"{Q}.qzeros": ("I32", (32, 512)),
            f"{Q}.scales": ("F16", (32, 4096)),
        },
    ),
    "AWQ": Sample(
        titles={"AWQ": 1},
        config=declared("awq", bits=4, group_size=128, version="gemm"),
        tensors={
            f"{Q}.qweight": ("I32", (4096, 512)),
            f"{Q}.qzeros": ("I32", (32, 512)),
            f"{Q}.scales": ("F16", (32, 4096)),
        },
    ),
    "MLX 4 bits": Sample(
        titles={"MLX": 2},
        config={"quantization": {"group_size": 64, "bits": 4}},
        metadata={"format": "mlx"},
        weights=("model.embed_tokens.weight", f"{Q}.weight"),
        tensors={
            "model.embed_tokens.weight": ("U32", (128256, 512)),
            "model.embed_tokens.scales": ("BF16", (128256, 64)),
            "model.embed_tokens.biases": ("BF16", (128256, 64)),
            f"{Q}.weight": ("U32", (4096, 512)),
            f"{Q}.scales": ("BF16", (4096, 64)),
            f"{Q}.biases": ("BF16", (4096, 64)),
        },
    ),
    "MLX mxfp4": Sample(
        titles={"MLX": 1},
        config={"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}},
        metadata={"format": "mlx"},
        tensors={f"{Q}.weight": ("U32", (4096, 512)), f"{Q}.scales": ("U8", (4096, 128))},
    ),
    "bitsandbytes NF4, double quantization": Sample(
        titles={"bitsandbytes 4-bit": 1},
        config=declared("bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        tensors={
            f"{Q}.weight": ("U8", (8388608, 1)),
            f"{Q}.weight.absmax": ("U8", (262144,)),
            f"{Q}.weight.quant_map": ("F32", (16,)),
            f"{Q}.weight.nested_absmax": ("F32", (1024,)),
            f"{Q}.weight.nested_quant_map": ("F32", (256,)),
            f"{Q}.weight.quant_state.bitsandbytes__nf4": ("U8", (160,)),
        },
    ),
    "bitsandbytes FP4": Sample(
        titles={"bitsandbytes 4-bit": 1},
        config=declared("bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="fp4"),
        tensors={
            f"{Q}.weight": ("U8", (8388608, 1)),
            f"{Q}.weight.absmax": ("F32", (262144,)),
            f"{Q}.weight.quant_map": ("F32", (16,)),
            f"{Q}.weight.quant_state.bitsandbytes__fp4": ("U8", (90,)),
        },
    ),
    "bitsandbytes int8": Sample(
        titles={"bitsandbytes int8 with a scale per row": 1},
        config=declared("bitsandbytes", load_in_8bit=True),
        tensors={
            f"{Q}.weight": ("I8", (4096, 4096)),
            f"{Q}.SCB": ("F32", (4096,)),
            f"{Q}.weight_format": ("U8", ()),
        },
    ),
    "torchao Int4Tensor": Sample(
        titles={"torchao": 1},
        config=declared("torchao", quant_type={"default": {"_type": "Int4WeightOnlyConfig"}}),
        metadata={"tensor_names": f'["{Q}.weight"]', f"{Q}.weight": '{"_type": "Int4Tensor"}'},
        tensors={
            f"{Q}._weight_qdata": ("U8", (4096, 2048)),
            f"{Q}._weight_scale": ("BF16", (32, 4096)),
            f"{Q}._weight_zero_point": ("BF16", (32, 4096)),
        },
    ),
    "torchao Float8Tensor": Sample(
        titles={"torchao with a scale per row": 1},
        metadata={"tensor_names": f'["{Q}.weight"]', f"{Q}.weight": '{"_type": "Float8Tensor"}'},
        tensors={f"{Q}._weight_qdata": ("F8_E4M3", (4096, 4096)), f"{Q}._weight_scale": ("F32", (4096, 1))},
    ),
    "ComfyUI, scale_weight (FLUX)": Sample(
        titles={"ComfyUI with a scale per tensor": 1},
        weights=(f"{D}.weight",),
        tensors={
            "scaled_fp8": ("F8_E4M3", (2,)),
            f"{D}.weight": ("F8_E4M3", (9216, 3072)),
            f"{D}.scale_weight": ("F32", ()),
            f"{D}.scale_input": ("F32", ()),
        },
    ),
    "ComfyUI, comfy_quant": Sample(
        titles={"ComfyUI with a scale per tensor": 1, "ComfyUI NVFP4": 1},
        weights=(f"{D}.weight", "double_blocks.0.img_mlp.0.weight"),
        tensors={
            f"{D}.weight": ("F8_E4M3", (9216, 3072)),
            f"{D}.weight_scale": ("F32", ()),
            f"{D}.comfy_quant": ("U8", (27,)),
            "double_blocks.0.img_mlp.0.weight": ("U8", (12288, 1536)),
            "double_blocks.0.img_mlp.0.weight_scale": ("F8_E4M3", (12288, 192)),
            "double_blocks.0.img_mlp.0.weight_scale_2": ("F32", ()),
            "double_blocks.0.img_mlp.0.comfy_quant": ("U8", (19,)),
        },
    ),
    "ComfyUI, header metadata": Sample(
        titles={"ComfyUI with a scale per tensor": 1, "ComfyUI NVFP4": 1},
        metadata={"_quantization_metadata": '{"format_version": "1.0", "layers": {}}'},
        weights=(f"{D}.weight", "double_blocks.0.img_mlp.0.weight"),
        tensors={
            f"{D}.weight": ("F8_E4M3", (9216, 3072)),
            f"{D}.weight_scale": ("F32", ()),
            f"{D}.input_scale": ("F32", ()),
            "double_blocks.0.img_mlp.0.weight": ("U8", (12288, 1536)),
            "double_blocks.0.img_mlp.0.weight_scale": ("F8_E4M3", (12288, 192)),
            "double_blocks.0.img_mlp.0.weight_scale_2": ("F32", ()),
        },
    ),
    "ComfyUI MXFP8": Sample(
        titles={"ComfyUI MXFP8": 1},
        metadata={"_quantization_metadata": '{"format_version": "1.0", "layers": {}}'},
        weights=(f"{D}.weight",),
        tensors={f"{D}.weight": ("F8_E4M3", (9216, 3072)), f"{D}.weight_scale": ("U8", (9216, 96))},
    ),
    "GPTQ in bit planes": Sample(
        titles={"GPTQ": 1},
        config=declared("gptq", bits=5, group_size=128, checkpoint_format="gptq_p"),
        tensors={
            f"{Q}.qweight": ("I32", (640, 4096)),
            f"{Q}.qzeros": ("I32", (32, 640)),
            f"{Q}.scales": ("F16", (32, 4096)),
            f"{Q}.g_idx": ("I32", (4096,)),
        },
    ),
    "torchao Int4TilePackedTo4dTensor": Sample(
        titles={"torchao": 1},
        metadata={"tensor_names": f'["{Q}.weight"]', f"{Q}.weight": '{"_type": "Int4TilePackedTo4dTensor"}'},
        tensors={
            f"{Q}._weight_qdata": ("I32", (512, 32, 32, 4)),
            f"{Q}._weight_scale_and_zero": ("BF16", (32, 4096, 2)),
        },
    ),
    "EXL3, 4 bits": Sample(
        titles={"EXL3": 1},
        config=declared("exl3", bits=4.0),
        tensors={
            f"{Q}.trellis": ("I16", (256, 256, 64)),
            f"{Q}.suh": ("F16", (4096,)),
            f"{Q}.svh": ("F16", (4096,)),
            f"{Q}.mcg": ("I32", ()),
        },
    ),
    "EXL2": Sample(
        titles={"EXL2": 1},
        config=declared("exl2", bits=4.0),
        tensors={
            f"{Q}.q_weight": ("I32", (532, 4096)),
            f"{Q}.q_scale": ("I32", (32, 512)),
            f"{Q}.q_scale_max": ("F16", (32,)),
            f"{Q}.q_groups": ("I16", (64,)),
            f"{Q}.q_invperm": ("I32", (4096,)),
        },
    ),
    "HQQ": Sample(
        titles={"HQQ": 1},
        config=declared("hqq"),
        tensors={
            f"{Q}.W_q": ("U8", (131072, 64)),
            f"{Q}.scale": ("F16", (262144, 1)),
            f"{Q}.zero": ("F16", (262144, 1)),
            f"{Q}.nbits": ("I64", ()),
            f"{Q}.shape": ("I64", (2,)),
        },
    ),
    "HQQ, codes viewed as floats": Sample(
        titles={"HQQ": 1},
        config=declared("hqq"),
        tensors={
            f"{Q}.W_q": ("BF16", (65536, 64)),
            f"{Q}.scale": ("BF16", (262144, 1)),
            f"{Q}.zero": ("BF16", (262144, 1)),
        },
    ),
    "quanto int8": Sample(
        titles={"quanto with a scale per row": 1},
        config=declared("quanto", weights="int8"),
        tensors={
            f"{Q}.weight._data": ("I8", (4096, 4096)),
            f"{Q}.weight._scale": ("BF16", (4096, 1)),
            f"{Q}.input_scale": ("BF16", ()),
            f"{Q}.output_scale": ("BF16", ()),
        },
    ),
    "quanto int4": Sample(
        titles={"quanto": 1},
        config=declared("quanto", weights="int4"),
        tensors={
            f"{Q}.weight._data._data": ("U8", (65536, 128)),
            f"{Q}.weight._scale": ("BF16", (131072, 1)),
            f"{Q}.weight._shift": ("BF16", (131072, 1)),
        },
    ),
    "Quark": Sample(
        titles={"Quark": 1},
        undeclared="integers with weight_scale",
        config=declared("quark"),
        tensors={f"{Q}.weight": ("U8", (4096, 2048)), f"{Q}.weight_scale": ("BF16", (4096, 32))},
    ),
    "BitNet": Sample(
        titles={"BitNet": 1},
        undeclared="integers with weight_scale",
        config=declared("bitnet"),
        tensors={f"{Q}.weight": ("U8", (640, 2560)), f"{Q}.weight_scale": ("BF16", (1,))},
    ),
    "compressed-tensors marlin-24": Sample(
        titles={"compressed-tensors marlin-24": 1},
        config=declared("compressed-tensors", format="marlin-24"),
        tensors={
            f"{Q}.weight_packed": ("I32", (128, 8192)),
            f"{Q}.scale_packed": ("F16", (32, 4096)),
            f"{Q}.meta": ("I16", (4096, 256)),
        },
    ),
    "Marlin": Sample(
        titles={"Marlin": 1},
        config=declared("gptq", checkpoint_format="marlin"),
        tensors={f"{Q}.B": ("I32", (256, 8192)), f"{Q}.s": ("F16", (32, 4096))},
    ),
    "AQLM": Sample(
        titles={"AQLM": 1},
        config=declared("aqlm"),
        tensors={
            f"{Q}.codes": ("I16", (4096, 512, 1)),
            f"{Q}.codebooks": ("F16", (1, 65536, 1, 8)),
            f"{Q}.scales": ("F16", (4096, 1, 1, 1)),
        },
    ),
    "VPTQ": Sample(
        titles={"VPTQ": 1},
        config=declared("vptq"),
        tensors={
            f"{Q}.indices": ("I32", (1, 512, 1365)),
            f"{Q}.centroids.weight": ("BF16", (1, 524288)),
            f"{Q}.weight_scale": ("BF16", (4096,)),
            f"{Q}.weight_bias": ("BF16", (4096,)),
        },
    ),
    "codes and scales of which nothing is declared": Sample(
        titles={"integers with weight_scale": 1},
        tensors={f"{Q}.weight": ("U8", (4096, 2048)), f"{Q}.weight_scale": ("BF16", (4096, 32))},
    ),
    "a method that this version does not know": Sample(
        titles={"higgs, unknown layout": 1},
        undeclared="",
        weights=(Q,),
        config=declared("higgs"),
        tensors={
            f"{Q}.codes": ("I16", (4096, 128)),
            f"{Q}.tables": ("BF16", (256, 2)),
            f"{Q}.grid.points": ("BF16", (256,)),
        },
    ),
    "a known method in a layout that is not known": Sample(
        titles={"gptq, unknown layout": 1},
        undeclared="",
        weights=(Q,),
        config=declared("gptq", checkpoint_format="of tomorrow"),
        tensors={f"{Q}.packed": ("I32", (256, 8192)), f"{Q}.factors": ("F16", (32, 4096))},
    ),
}
"""By what they are."""
