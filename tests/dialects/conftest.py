"""A small model with the names of a decoder."""

from pathlib import Path

import pytest

from tests.run.checkpoints import sample, write_safetensors

LAYERS = 3
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj")  # fmt: skip


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """Matrices of 32 by 256 elements, norms, an embedding and an output head."""
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(LAYERS) for part in PARTS]
    norms = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(LAYERS)]
    matrices = {name: sample((32, 256), "BF16") for name in ["model.embed_tokens.weight", *names, "lm_head.weight"]}
    return write_safetensors(
        tmp_path / "decoder" / "model.safetensors", matrices | dict.fromkeys(norms, sample((32,)))
    ).parent
