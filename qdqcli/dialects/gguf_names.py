"""Names of weights in GGUF files, from those of Hugging Face checkpoints.

The families of Llama (Qwen, Mistral, Gemma, Phi, DeepSeek, Mixtral), BERT and Falcon. Source: `tensor_mapping.py` of
gguf 0.19, against which `tests/peers/dialects.py` checks the table. GPT-2 is left out: its matrices are transposed.
"""

import re

_BLOCK = r"(?:model\.language_model|language_model\.model|model)\.layers\.(\d+)\."
_BERT = r"(?:bert\.|model\.)?encoder\.layer\.(\d+)\."
_FALCON = r"transformer\.h\.(\d+)\."
_EXPERT = r"(?:mlp|block_sparse_moe|feed_forward)\.experts\.\d+\."
_TABLE = {
    r"(?:model\.|language_model\.model\.|model\.language_model\.|(?:bert\.)?embeddings\.|transformer\.)"
    r"(?:embed_tokens|word_embeddings)": "token_embd",
    r"(?:bert\.)?embeddings\.position_embeddings": "position_embd",
    r"(?:bert\.)?embeddings\.token_type_embeddings": "token_types",
    r"(?:language_model\.)?lm_head": "output",
    rf"{_BLOCK}self_attn\.(q|k|v)_proj": r"blk.\1.attn_\2",
    rf"{_BLOCK}self_attn\.qkv_proj": r"blk.\1.attn_qkv",
    rf"{_BLOCK}self_attn\.o_proj": r"blk.\1.attn_output",
    rf"{_BLOCK}self_attn\.(q_a|q_b|kv_b)_proj": r"blk.\1.attn_\2",
    rf"{_BLOCK}self_attn\.kv_a_proj_with_mqa": r"blk.\1.attn_kv_a_mqa",
    rf"{_BLOCK}mlp\.(gate|up|down)_proj": r"blk.\1.ffn_\2",
    rf"{_BLOCK}mlp\.gate_up_proj": r"blk.\1.ffn_up",
    rf"{_BLOCK}(?:mlp|block_sparse_moe)\.gate": r"blk.\1.ffn_gate_inp",
    rf"{_BLOCK}mlp\.shared_expert_gate": r"blk.\1.ffn_gate_inp_shexp",
    rf"{_BLOCK}mlp\.shared_experts?\.(gate|up|down)_proj": r"blk.\1.ffn_\2_shexp",
    rf"{_BLOCK}{_EXPERT}(gate|up|down)_proj": r"blk.\1.ffn_\2_exps",
    rf"{_BLOCK}{_EXPERT}w1": r"blk.\1.ffn_gate_exps",
    rf"{_BLOCK}{_EXPERT}w2": r"blk.\1.ffn_down_exps",
    rf"{_BLOCK}{_EXPERT}w3": r"blk.\1.ffn_up_exps",
    rf"{_BERT}attention\.self\.query": r"blk.\1.attn_q",
    rf"{_BERT}attention\.self\.key": r"blk.\1.attn_k",
    rf"{_BERT}attention\.self\.value": r"blk.\1.attn_v",
    rf"{_BERT}attention\.output\.dense": r"blk.\1.attn_output",
    rf"{_BERT}intermediate\.dense": r"blk.\1.ffn_up",
    rf"{_BERT}output\.dense": r"blk.\1.ffn_down",
    rf"{_FALCON}self_attention\.query_key_value": r"blk.\1.attn_qkv",
    rf"{_FALCON}self_attention\.dense": r"blk.\1.attn_output",
    rf"{_FALCON}mlp\.dense_h_to_4h": r"blk.\1.ffn_up",
    rf"{_FALCON}mlp\.dense_4h_to_h": r"blk.\1.ffn_down",
}
"""Expression for a whole module name -> name in GGUF files. The weights of all experts of a layer become one tensor."""
_EXPRESSIONS = [(re.compile(expression), name) for expression, name in _TABLE.items()]


def gguf_name(module: str) -> str | None:
    """Return the name of a module's weight in a GGUF file; None where the table has none."""
    for expression, name in _EXPRESSIONS:
        if found := expression.fullmatch(module):
            return f"{found.expand(name)}.weight"
    return None
