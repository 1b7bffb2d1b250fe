"""Names of weights in GGUF files, from those of Hugging Face checkpoints: the inverse of `tensors/gguf_names.py`.

Prefixes of models with several modalities, DeepSeek's attention and Falcon are known too. GPT-2 is left out: its
matrices are transposed. `tests/peers/dialects.py` compares the names with those of gguf.
"""

import re

from qdqcli.tensors.gguf_names import ARCHITECTURES

_BLOCK = re.compile(r"(?:language_model\.|bert\.)?(?:model\.(?:language_model\.)?)?"
                    r"(?:layers|encoder\.layer|transformer\.h)\.(\d+)\.(.+)", re.ASCII)  # fmt: skip
_PREFIX = re.compile(r"(?:language_model\.)?(?:model\.)?(?:language_model\.|transformer\.|bert\.)?", re.ASCII)
_EXPERT = re.compile(r"(?<=\bexperts\.)\d+(?=\.)", re.ASCII)
_PARTS = {part: name for known in ARCHITECTURES.values() for name, part in known.block.items()} | {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
"""Module within a block -> its name in GGUF files. The weights of all experts of a layer become one tensor."""
_ROOTS = {
    part.removeprefix("model."): name for known in ARCHITECTURES.values() for name, part in known.root.items()
} | {
    "word_embeddings": "token_embd",
}


def gguf_name(module: str) -> str | None:
    """Return the name of a module's weight in a GGUF file; None where none is known."""
    block = _BLOCK.fullmatch(module)
    if block is None:
        name = _ROOTS.get(_PREFIX.sub("", module, count=1))
        return None if name is None else f"{name}.weight"
    part = _EXPERT.sub("{}", block[2]).replace("shared_experts", "shared_expert")
    name = _PARTS.get(part)
    return None if name is None else f"blk.{block[1]}.{name}.weight"
