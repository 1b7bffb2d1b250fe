"""Fused layers: tensors that inference engines store under one setting, by their names.

As in llm-compressor (`FUSED_LAYER_NAMES`), vLLM's packed modules and ModelOpt's `quant_grouping_rules`; the routed
experts of a layer are one matrix each in their fused kernels.
"""

import re

FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_a", "in_proj_b"),
)
"""Sibling modules that are fused, by the last part of their names."""

_FUSED_WITH = {name: "+".join(names) for names in FUSED for name in names}
_EXPERT = re.compile(r"(?P<layer>.*\bexperts)\.\d+\..*")


def fused_key(name: str) -> str | None:
    """Return a key that fused tensors share, from the name alone; None for a tensor that is not fused."""
    expert = _EXPERT.fullmatch(name)
    if expert is not None:
        return f"{expert['layer']}.*"
    module, _, parameter = name.rpartition(".")
    parent, _, last = module.rpartition(".")
    together = _FUSED_WITH.get(last)
    return None if together is None else f"{parent}.{together}.{parameter}"
