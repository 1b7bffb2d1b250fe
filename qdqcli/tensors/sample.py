"""Sample checkpoint: a tiny llama with outlier channels and a dead one, made from nothing.

The same bytes on every machine. Random bits come from PCG64, whose stream NumPy promises to keep (NEP 19), one stream
per tensor, so that a new tensor leaves the others as they are. What is made of the bits uses sums of integers and the
operations that IEEE 754 rounds correctly (+ - * / sqrt), one element at a time: the last bit of a logarithm or a
cosine, and the order of a float sum, differ between versions of NumPy and between processors.
"""

import json
import math
import zlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qdqcli.tensors.safetensors import header_of

Array = NDArray[np.generic]

SEED = 2026

HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY = 128, 384, 2, 512
HEADS, KEY_VALUE_HEADS, POSITIONS = 4, 2, 256

WEIGHT_STD = 0.02
OUTLIERS = {7: 24.0, 58: 10.0, 101: 16.0}
"""Channel of the hidden state -> how many times larger it is: trained models keep a few such channels in all layers."""

DEAD_TENSOR, DEAD_CHANNEL = "model.layers.1.mlp.up_proj.weight", 200
"""The output channel that is zero throughout."""

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SAFETENSORS_DTYPES = {np.dtype(ml_dtypes.bfloat16): "BF16", np.dtype(np.int64): "I64"}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": WEIGHT_STD,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": POSITIONS,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
GENERATION_CONFIG = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.6, "top_p": 0.9}


def random_bits(name: str, count: int) -> Array:
    """Return the first `count` words of the stream that belongs to `name`, little-endian uint64."""
    seeds = np.random.SeedSequence([SEED, zlib.crc32(name.encode())])
    bits: Array = np.random.PCG64(seeds).random_raw(count)
    return bits.astype("<u8")


def student_t(name: str, shape: tuple[int, ...], degrees: int) -> NDArray[np.float64]:
    """Return heavy-tailed float64 values of variance 1: the fewer degrees of freedom (3 or more), the heavier.

    A normal value is the sum of 12 uniform 16-bit values, less its mean: its variance is 1 and it ends at 6.
    """
    lanes = random_bits(name, (degrees + 1) * math.prod(shape) * 3).view("<u2").reshape(degrees + 1, *shape, 12)
    normals = (lanes.sum(axis=-1, dtype=np.int64) - 6 * 65535) / 65536
    chi_square = np.zeros(shape)
    for normal in normals[1:]:
        chi_square += normal * normal
    values: NDArray[np.float64] = normals[0] / np.sqrt(chi_square / degrees) / math.sqrt(degrees / (degrees - 2))
    return values


def bfloat16(values: Array) -> Array:
    """Round to bfloat16 by way of float32, since versions of ml_dtypes may differ in how they take float64."""
    return values.astype(np.float32).astype(ml_dtypes.bfloat16)


def projection(name: str, shape: tuple[int, int]) -> Array:
    """Return a weight of shape (out, in), with the outlier channels on the side that meets the hidden state.

    o_proj and down_proj write to it, so their outliers are output channels, which `--axis 0` keeps apart; those of
    embed_tokens, q_proj and k_proj are columns, which it does not.
    """
    values = student_t(name, shape, degrees=5) * WEIGHT_STD
    for channel, factor in OUTLIERS.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            values[channel] *= factor
        elif name.endswith(("embed_tokens.weight", "q_proj.weight", "k_proj.weight")):
            values[:, channel] *= factor
    if name == DEAD_TENSOR:
        values[DEAD_CHANNEL] = 0.0
    return bfloat16(values)


def norm(name: str) -> Array:
    """Return the weight of an RMS norm, around 1."""
    return bfloat16(1.0 + 0.15 * student_t(name, (HIDDEN,), degrees=5))


def layer(number: int) -> dict[str, Array]:
    """Return the tensors of one decoder layer."""
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    projections = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (key_value, HIDDEN),
        "self_attn.v_proj": (key_value, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    prefix = f"model.layers.{number}"
    tensors = {f"{prefix}.{name}.weight": shape for name, shape in projections.items()}
    norms = [f"{prefix}.{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")]
    return {name: projection(name, shape) for name, shape in tensors.items()} | {name: norm(name) for name in norms}


def safetensors_bytes(tensors: Mapping[str, Array]) -> bytes:
    """Return a file in the order of the safetensors library: wide dtypes, then names; header padded to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": SAFETENSORS_DTYPES[array.dtype], "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    return header_of(header) + data


def json_bytes(content: Mapping[str, object]) -> bytes:
    """Return JSON as Transformers stores it."""
    return (json.dumps(content, indent=2) + "\n").encode()


def tiny_llama() -> dict[str, bytes]:
    """Return file name -> content of a sharded BF16 checkpoint."""
    embedding = projection("model.embed_tokens.weight", (VOCABULARY, HIDDEN))
    position_ids = np.arange(POSITIONS, dtype=np.int64).reshape(1, POSITIONS)
    first = {"model.embed_tokens.weight": embedding, "model.position_ids": position_ids, **layer(0)}
    second = {
        **layer(1),
        "model.norm.weight": norm("model.norm.weight"),
        "lm_head.weight": projection("lm_head.weight", (VOCABULARY, HIDDEN)),
    }
    shards = dict(zip(SHARDS, (first, second), strict=True))
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in (*first.values(), *second.values()))},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return {
        "config.json": json_bytes(CONFIG),
        "generation_config.json": json_bytes(GENERATION_CONFIG),
        "model.safetensors.index.json": json_bytes(index),
        **{shard: safetensors_bytes(tensors) for shard, tensors in shards.items()},
    }
