"""GGUF files, written by the package `gguf`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

Array = NDArray[np.float32]

HEADS, KV_HEADS, HIDDEN, FEED_FORWARD, EXPERTS = 4, 2, 256, 512, 3


def write_gguf(
    path: Path, tensors: Mapping[str, NDArray[Any] | tuple[Type, NDArray[np.uint8]]], architecture: str = "llama",
    **numbers: int | list[int],
) -> Path:  # fmt: skip
    """A file of arrays, and of blocks of a type."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("none")
    writer.add_token_list([f"token {i}" for i in range(300)])
    for key, value in numbers.items():
        name = f"{architecture}.attention.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    for name, array in tensors.items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[1], raw_dtype=array[0])
        else:
            writer.add_tensor(name, array)
    finish(writer)
    return path


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(x: Array, heads: int) -> Array:
    """Rows as llama.cpp's converter puts them: those of a head's two halves in turn."""
    order = [head * len(x) // heads + half * len(x) // heads // 2 + row
             for head in range(heads) for row in range(len(x) // heads // 2) for half in range(2)]  # fmt: skip
    return x[order]


def blocks(x: Array, kind: Type) -> tuple[Type, NDArray[np.uint8]]:
    return kind, gguf.quants.quantize(x, kind)


def weight(seed: int, *shape: int) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(np.float32)


def original() -> dict[str, Array]:
    """A small model with the names of a Hugging Face checkpoint."""
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (16, HIDDEN),
        f"{layer}.input_layernorm.weight": (HIDDEN,),
        f"{layer}.self_attn.q_proj.weight": (HEADS * 8, HIDDEN),
        f"{layer}.self_attn.k_proj.weight": (KV_HEADS * 8, HIDDEN),
        f"{layer}.self_attn.k_proj.bias": (KV_HEADS * 8,),
        f"{layer}.self_attn.v_proj.weight": (KV_HEADS * 8, HIDDEN),
        f"{layer}.self_attn.o_proj.weight": (HIDDEN, HEADS * 64),
        f"{layer}.block_sparse_moe.gate.weight": (EXPERTS, HIDDEN),
        **{f"{layer}.block_sparse_moe.experts.{e}.w1.weight": (32, HIDDEN) for e in range(EXPERTS)},
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (16, HIDDEN),
    }
    return {name: weight(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}


def stored(x: Mapping[str, Array]) -> dict[str, Any]:
    """The model as llama.cpp's converter stores it, in several types."""
    layer = "model.layers.0"
    experts = np.stack([x[f"{layer}.block_sparse_moe.experts.{e}.w1.weight"] for e in range(EXPERTS)])
    return {
        "token_embd.weight": blocks(x["model.embed_tokens.weight"], Type.Q4_0),
        "blk.0.attn_norm.weight": x[f"{layer}.input_layernorm.weight"],
        "blk.0.attn_q.weight": blocks(interleaved(x[f"{layer}.self_attn.q_proj.weight"], HEADS), Type.Q5_1),
        "blk.0.attn_k.weight": interleaved(x[f"{layer}.self_attn.k_proj.weight"], KV_HEADS).astype(np.float16),
        "blk.0.attn_k.bias": interleaved(x[f"{layer}.self_attn.k_proj.bias"], KV_HEADS),
        "blk.0.attn_v.weight": blocks(x[f"{layer}.self_attn.v_proj.weight"], Type.Q8_0),
        "blk.0.attn_output.weight": blocks(x[f"{layer}.self_attn.o_proj.weight"], Type.Q4_1),
        "blk.0.ffn_gate_inp.weight": x[f"{layer}.block_sparse_moe.gate.weight"],
        "blk.0.ffn_gate_exps.weight": blocks(experts, Type.Q5_0),
        "output_norm.weight": x["model.norm.weight"],
        "output.weight": blocks(x["lm_head.weight"], Type.BF16),
    }


def decoded(x: Mapping[str, Array]) -> dict[str, Array]:
    """What the package gives for the model, with names and order of the original."""
    layer = "model.layers.0"
    kinds = {"model.embed_tokens.weight": Type.Q4_0, f"{layer}.self_attn.q_proj.weight": Type.Q5_1,
             f"{layer}.self_attn.k_proj.weight": Type.F16, f"{layer}.self_attn.v_proj.weight": Type.Q8_0,
             f"{layer}.self_attn.o_proj.weight": Type.Q4_1, "lm_head.weight": Type.BF16}  # fmt: skip
    kinds |= {f"{layer}.block_sparse_moe.experts.{e}.w1.weight": Type.Q5_0 for e in range(EXPERTS)}
    return {
        name: gguf.quants.dequantize(gguf.quants.quantize(array, kinds[name]), kinds[name]) if name in kinds else array
        for name, array in x.items()
    }


def write_model(folder: Path) -> tuple[dict[str, Array], Path]:
    """The original, and its GGUF file."""
    x = original()
    return x, write_gguf(folder / "m.gguf", stored(x), head_count=HEADS, head_count_kv=KV_HEADS)
