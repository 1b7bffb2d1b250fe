"""What `qdq recipe export` writes, read by the tools themselves.

    python tests/peers/environment.py tests/peers/dialects.py

A small decoder is exported in several recipes, and compressed-tensors, llm-compressor's groups, torchao, ModelOpt and
auto-round, as far as they are installed, say what each layer becomes; gguf checks the names of tensors.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

LAYERS = 3
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
RECIPES = {
    "mixed": """\
[defaults]
scheme = "int4-g32"
[[rules]]
match = ["*.[02].self_attn.[qk]_proj.weight", "*.1.mlp.down_proj.weight"]
scheme = "int8-g32"
[[rules]]
match = ["*embed*", "lm_head.weight", "*.1.mlp.up_proj.weight"]
skip = "float"
""",
    "channels": """\
[defaults]
scheme = "int8-channel"
[[rules]]
match = "*.o_proj.weight"
scheme = "int3-g16"
[[rules]]
match = ["*embed*", "lm_head.weight"]
skip = "float"
""",
}
Scheme = str | None
"""`int4-g32`; None: float."""


def decoder() -> torch.nn.Module:
    """A module tree with the names of a decoder."""
    torch.manual_seed(1)
    root = torch.nn.Module()
    root.model = torch.nn.Module()
    root.model.embed_tokens = torch.nn.Embedding(64, 256)
    root.model.layers = torch.nn.ModuleList()
    for _ in range(LAYERS):
        layer = torch.nn.Module()
        for part in PARTS:
            group, name = part.split(".")
            if not hasattr(layer, group):
                layer.add_module(group, torch.nn.Module())
            getattr(layer, group).add_module(name, torch.nn.Linear(256, 64, bias=False))
        root.model.layers.append(layer)
    root.lm_head = torch.nn.Linear(256, 64, bias=False)
    return root


def qdq(*arguments: object) -> str:
    command = [sys.executable, "-m", "qdqcli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def expected(recipe: Path, model: Path) -> dict[str, Scheme]:
    """What the recipe makes of each matrix, by module."""
    report = json.loads(qdq("recipe", "explain", recipe, model, "--format", "json"))
    found: dict[str, Scheme] = {}
    for tensor in report["tensors"]:
        fields = {key: field["value"] for key, field in tensor["fields"].items()}
        size = fields.get("group_size")
        scheme = f"int{fields.get('num_bits')}-{f'g{size}' if size else 'channel'}"
        found[tensor["name"].removesuffix(".weight")] = scheme if tensor["status"] == "quantized" else None
    return found


def by_compressed_tensors(text: str) -> dict[str, Scheme]:
    return _applied(json.loads(text)["quantization_config"])


def by_llm_compressor(text: str) -> dict[str, Scheme]:
    """llm-compressor hands the groups of a modifier to compressed-tensors."""
    modifier = yaml.safe_load(text)["quant_stage"]["quant_modifiers"]["QuantizationModifier"]
    return _applied({"config_groups": modifier["config_groups"]})


def _applied(config: dict[str, object]) -> dict[str, Scheme]:
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model = decoder()
    apply_quantization_config(model, QuantizationConfig.model_validate(config))
    found: dict[str, Scheme] = {}
    for name, module in _layers(model):
        scheme = getattr(module, "quantization_scheme", None)
        weights = scheme.weights if scheme is not None else None
        found[name] = weights and _scheme(weights.num_bits, weights.group_size if weights.strategy == "group" else None)
    return found


def by_torchao(text: str) -> dict[str, Scheme]:
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    model = decoder()
    quantize_(model, config_from_dict(json.loads(text)), filter_fn=None)
    found: dict[str, Scheme] = {}
    for name, module in _layers(model):
        weight = module.weight
        if type(weight.data) is torch.Tensor and weight.is_floating_point() and not hasattr(weight, "target_dtype"):
            found[name] = None
        else:
            size = weight.block_size[-1]
            bits = int(str(weight.target_dtype).removeprefix("torch.int"))
            found[name] = _scheme(bits, None if size == weight.shape[-1] else size)
    return found


def by_modelopt(text: str) -> dict[str, Scheme]:
    import modelopt.torch.quantization as mtq

    model = decoder()
    mtq.quantize(model, yaml.safe_load(text)["quantize"], forward_loop=None)
    found: dict[str, Scheme] = {}
    for name, module in _layers(model):
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is None or not quantizer.is_enabled:
            found[name] = None
        else:
            found[name] = _scheme(quantizer.num_bits, (quantizer.block_sizes or {}).get(-1))
    return found


def by_auto_round(text: str) -> dict[str, Scheme]:
    from auto_round.utils.common import to_standard_regex

    config = json.loads(text)
    names = [name for name, module in _layers(decoder()) if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    layers = dict.fromkeys(names, config)
    for key, layer in config["layer_config"].items():
        for name in [key] if key in names else [name for name in names if re.search(to_standard_regex(key), name)]:
            layers[name] = layer
    found: dict[str, Scheme] = {"lm_head": None, "model.embed_tokens": None}
    for name, layer in layers.items():
        size = layer.get("group_size")
        found[name] = None if layer["bits"] == 16 else _scheme(layer["bits"], size if size > 0 else None)
    return found


def by_gguf(text: str) -> dict[str, Scheme]:
    from gguf import MODEL_ARCH, get_tensor_name_map

    types = {"q4_0": "int4-g32", "q8_0": "int8-g32"}
    lines = [line.split("=") for line in text.splitlines()]
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, LAYERS)
    found: dict[str, Scheme] = {}
    for name, _ in _layers(decoder()):
        tensor = f"{names.get_name(name)}.weight"
        found[name] = types.get(next(kind for pattern, kind in lines if re.search(pattern, tensor)))
    return found


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "weight"))


def _scheme(bits: int, size: int | None) -> str:
    return f"int{bits}-{f'g{size}' if size else 'channel'}"


READERS: dict[str, tuple[str, Callable[[str], dict[str, Scheme]]]] = {
    "compressed-tensors": ("compressed_tensors", by_compressed_tensors),
    "llm-compressor": ("compressed_tensors", by_llm_compressor),
    "torchao": ("torchao", by_torchao),
    "modelopt": ("modelopt", by_modelopt),
    "auto-round": ("auto_round", by_auto_round),
    "llama.cpp": ("gguf", by_gguf),
}
"""Target -> package, and its reader."""


GGUF_MODULES = """
model.embed_tokens lm_head embeddings.word_embeddings embeddings.position_embeddings embeddings.token_type_embeddings
transformer.word_embeddings
model.layers.1.self_attn.q_proj model.layers.1.self_attn.k_proj model.layers.1.self_attn.v_proj
model.layers.1.self_attn.o_proj model.layers.1.self_attn.qkv_proj model.layers.1.self_attn.q_a_proj
model.layers.1.self_attn.q_b_proj model.layers.1.self_attn.kv_b_proj model.layers.1.self_attn.kv_a_proj_with_mqa
model.layers.1.mlp.gate_proj model.layers.1.mlp.up_proj model.layers.1.mlp.down_proj model.layers.1.mlp.gate_up_proj
model.layers.1.mlp.gate model.layers.1.block_sparse_moe.gate model.layers.1.mlp.shared_expert_gate
model.layers.1.mlp.shared_expert.gate_proj model.layers.1.mlp.shared_experts.up_proj
encoder.layer.1.attention.self.query encoder.layer.1.attention.self.key encoder.layer.1.attention.self.value
encoder.layer.1.attention.output.dense encoder.layer.1.intermediate.dense encoder.layer.1.output.dense
transformer.h.1.self_attention.query_key_value transformer.h.1.self_attention.dense
transformer.h.1.mlp.dense_h_to_4h transformer.h.1.mlp.dense_4h_to_h
"""


def check_gguf_names() -> int:
    """Compare the table of GGUF names with that of gguf; returns the number of names."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    from qdqcli.dialects.gguf_names import gguf_name

    modules = GGUF_MODULES.split()
    known: dict[str, set[str]] = {}
    for arch in MODEL_ARCH:
        names = get_tensor_name_map(arch, 2)
        for module in modules:
            if (name := names.get_name(module)) is not None:
                known.setdefault(module, set()).add(f"{name}.weight")
    for module in modules:
        assert gguf_name(module) in known[module], (module, gguf_name(module), known.get(module))
    return len(modules)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        save_file(
            {name: tensor.clone() for name, tensor in decoder().state_dict().items()}, model / "model.safetensors"
        )
        for title, content in RECIPES.items():
            recipe = Path(folder) / f"{title}.toml"
            recipe.write_text(content)
            wanted = expected(recipe, model)
            for target, (package, reader) in READERS.items():
                if find_spec(package) is None:
                    print(f"{title}: {target}: {package} is not installed")
                    continue
                if target == "llama.cpp" and title == "channels":
                    continue  # it has no scale per channel
                found = reader(qdq("recipe", "export", recipe, model, "--to", target))
                wrong = {name: (wanted[name], found.get(name)) for name in wanted if wanted[name] != found.get(name)}
                assert not wrong, f"{title}: {target}: {wrong}"
                print(f"{title}: {target}: {len(wanted)} layers are read as they were written")
    print(f"gguf: {check_gguf_names()} names are the same")


if __name__ == "__main__":
    main()
