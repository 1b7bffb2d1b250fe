"""Names of GGUF's tensors in a Hugging Face checkpoint, and how the two differ in order and values.

Of architectures that are not listed the names stay as they are. Source: llama.cpp's `conversion/`, gguf 0.19's
`tensor_mapping.py`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from qdqcli.escape import MalformedError, escape_name

_ROOT = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
_NORMS_AROUND = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BERT_ROOT = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}
_BERT_BLOCK = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


class Architecture(NamedTuple):
    """Names and layout of one architecture."""

    block: Mapping[str, str]
    """Names within a block; `{}` is the number of an expert."""
    root: Mapping[str, str] = _ROOT
    blocks: str = "model.layers"
    is_interleaved: bool = False
    """Rows of q and k are in the order of ggml's rotary embedding."""
    adds_one: bool = False
    """Norms are stored plus one."""


_LLAMA = Architecture({**_BLOCK, **_MIXTRAL}, is_interleaved=True)
_PLAIN = Architecture(_BLOCK)
_GEMMA = Architecture({**_BLOCK, **_NORMS_AROUND}, adds_one=True)
_MOE = Architecture({**_BLOCK, **_EXPERTS})
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral3": _LLAMA,
    "arcee": _LLAMA,
    "granite": _LLAMA,
    "minicpm": _LLAMA,
    "smollm3": _LLAMA,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "stablelm": _PLAIN,
    "seed_oss": _PLAIN,
    "qwen2moe": Architecture({**_BLOCK, **_EXPERTS, **_SHARED_EXPERT}),
    "qwen3moe": _MOE,
    "olmoe": _MOE,
    "phi3": Architecture({**_BLOCK, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}),
    "starcoder2": Architecture({**_BLOCK, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}),
    "olmo2": Architecture({**_BLOCK, **_NORMS_AROUND}),
    "gemma": Architecture(_BLOCK, adds_one=True),
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "bert": Architecture(_BERT_BLOCK, root=_BERT_ROOT, blocks="encoder.layer"),
}
"""`general.architecture` -> what its tensors are called."""

_MAX_EXPERTS = 4096
_PART = re.compile(r"(?P<stem>.+-)\d{5}(?P<of>-of-\d{5}\.gguf)", re.IGNORECASE | re.DOTALL)
_IN_BLOCK = re.compile(r"blk\.(?P<number>\d+)\.(?P<name>\w+)(?P<end>\.weight|\.bias)", re.ASCII)
_IN_ROOT = re.compile(r"(?P<name>\w+)(?P<end>\.weight|\.bias)", re.ASCII)


def model_of(name: str) -> str:
    """Return the name of the first of the files that a model is split into; that of a single file is its own."""
    part = _PART.fullmatch(name)
    return f"{part['stem']}00001{part['of']}" if part else name


class Model(NamedTuple):
    """Metadata that decides names and order."""

    architecture: Architecture | None
    heads: int | list[int] = 0
    kv_heads: int | list[int] = 0
    """A number for all blocks, or one per block."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Model":
        """Take the model from a file's metadata."""
        name = values.get("general.architecture")
        heads = values.get(f"{name}.attention.head_count", 0)
        return cls(ARCHITECTURES.get(str(name)), heads, values.get(f"{name}.attention.head_count_kv", heads))


class Named(NamedTuple):
    """A tensor, or one expert's part of it."""

    name: str
    shape: tuple[int, ...]
    part: int = 0
    parts: int = 1
    """Part `part` of `parts` equal ones along the first axis."""
    heads: int = 0
    """Heads whose rows are interleaved; 0 where they are not."""
    added: float = 0.0
    """Number that was added to each element."""


def names_of(name: str, shape: tuple[int, ...], model: Model) -> Iterator[Named]:
    """Yield the tensors of a Hugging Face checkpoint that a GGUF tensor holds."""
    known = model.architecture
    block, root = _IN_BLOCK.fullmatch(name), _IN_ROOT.fullmatch(name)
    if known is not None and block and block["name"] in known.block:
        new = f"{known.blocks}.{int(block['number'])}.{known.block[block['name']]}{block['end']}"
        if "{}" in new and len(shape) == 3 and shape[0] <= _MAX_EXPERTS:
            yield from (Named(new.format(n), shape[1:], n, shape[0]) for n in range(shape[0]))
            return
        heads = _heads_of(model, block["name"], int(block["number"])) if known.is_interleaved else 0
        if heads and shape[0] % (2 * heads):
            raise MalformedError(f"tensor '{escape_name(name)}': its {shape[0]} rows are not those of {heads} heads")
        yield Named(new.replace(".{}", ""), shape, heads=heads, added=_added(known, block["name"]))
    elif known is not None and root and root["name"] in known.root:
        yield Named(known.root[root["name"]] + root["end"], shape, added=_added(known, root["name"]))
    else:
        yield Named(name, shape)


def _added(known: Architecture, name: str) -> float:
    return 1.0 if known.adds_one and name.endswith("_norm") else 0.0


def _heads_of(model: Model, name: str, block: int) -> int:
    """Return the heads of q or k in a block; 0 for other tensors.

    Raises:
        MalformedError: they are not known, and so neither is the order of the rows.
    """
    if name not in ("attn_q", "attn_k"):
        return 0
    heads = model.heads if name == "attn_q" else model.kv_heads
    if isinstance(heads, list):
        heads = heads[block] if block < len(heads) else 0
    if not isinstance(heads, int) or heads < 1:
        raise MalformedError(
            f"the number of heads of block {block} (attention.head_count) is missing or no count; rows of "
            f"'{escape_name(name)}' are in an order that depends on it"
        )
    return heads
