"""`qdq recipe export` and `import`: the same decision for each tensor there and back, and what is refused."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from qdqcli.dialects.dialect import DIALECTS
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

FLOAT = """
[[rules]]
match = ["*embed*", "lm_head.weight", "*.1.mlp.up_proj.weight"]
skip = "float"
"""
MIXED = f"""\
[defaults]
scheme = "int4-g32"
[[rules]]
match = ["*.[02].self_attn.[qkv]_proj.weight", "*.down_proj.weight"]
scheme = "int8-g32"
{FLOAT}
"""
CHANNELS = f"""\
[defaults]
scheme = "int8-channel"
[[rules]]
match = "*.o_proj.weight"
scheme = "int3-g16"
{FLOAT}
"""
EMBEDDINGS = """\
[defaults]
scheme = "int4-g64"
[[rules]]
match = ["model.embed_tokens.weight", "lm_head.weight"]
scheme = "int8-g64"
"""
K_QUANTS = f"""\
[defaults]
scheme = "int6-g16"
[[rules]]
match = "*.o_proj.weight"
scheme = "int3-g16"
{FLOAT}
"""
RECIPES = {"mixed": MIXED, "channels": CHANNELS, "embeddings": EMBEDDINGS, "k-quants": K_QUANTS}
REFUSED = {
    ("auto-round", "embeddings"): "auto-round cannot take the recipe: 'model.embed_tokens.weight': it quantizes no",
    ("gptqmodel", "embeddings"): "GPTQModel cannot take the recipe: 'model.embed_tokens.weight': it quantizes no",
    ("mlx", "channels"): "int8-channel: it has no scale per channel",
    ("mlx", "k-quants"): "int6-g16: it takes groups of 32, 64 or 128",
    ("llama.cpp", "channels"): "int8-channel: it has no scale per channel",
    ("llama.cpp", "embeddings"): "int8-g64 is none of its symmetric types: int3-g16 (q3_k), int4-g32 (q4_0)",
}


def decisions(qdq: Qdq, recipe: Path, model: Path) -> dict[str, object]:
    """Bits and granularity of each tensor under a recipe; None where it stays in float."""
    outcome = qdq("recipe", "explain", recipe, model, "--format", "json")
    assert outcome.code == 0, outcome.err
    report = outcome.report
    found = {}
    for tensor in report["tensors"]:
        fields = {key: field["value"] for key, field in tensor["fields"].items()}
        kept = fields.get("num_bits"), fields.get("axis"), fields.get("group_size"), fields.get("estimator")
        found[tensor["name"]] = kept if tensor["status"] == "quantized" else None
    return found


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("target", DIALECTS)
def test_a_recipe_is_the_same_there_and_back(qdq: Qdq, decoder: Path, tmp_path: Path, target: str, name: str) -> None:
    recipe, foreign, back = tmp_path / "recipe.toml", tmp_path / "foreign", tmp_path / "back.toml"
    recipe.write_text(RECIPES[name])
    outcome = qdq("recipe", "export", recipe, decoder, "--to", target, "-o", foreign)
    if (target, name) in REFUSED:
        assert outcome.code == 2
        assert REFUSED[target, name] in outcome.error
        assert not foreign.exists()
        return
    assert outcome.code == 0, outcome.err
    assert "checked:" in outcome.err
    before = decisions(qdq, recipe, decoder)
    for model in ([decoder], []):
        if not model and target == "llama.cpp":
            continue
        outcome = qdq("recipe", "import", foreign, *model, "-o", back, "--overwrite")
        assert outcome.code == 0, outcome.err
        assert "not in the model" not in outcome.err
        assert decisions(qdq, back, decoder) == before
    assert qdq("recipe", "lint", back, decoder).code == 0


def test_patterns_are_few_and_match_by_the_rules_of_the_tool(qdq: Qdq, decoder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(MIXED)
    before = {name.removesuffix(".weight"): found for name, found in decisions(qdq, recipe, decoder).items()}

    def modules(bits: int | None) -> list[str]:
        return [name for name, found in before.items() if (None if found is None else found[0]) == bits]

    def text(target: str) -> str:
        return qdq("recipe", "export", recipe, decoder, "--to", target).out

    groups = json.loads(text("compressed-tensors"))["quantization_config"]
    for group in groups["config_groups"].values():
        expressions = [target.removeprefix("re:") for target in group["targets"]]
        found = [name for name in before if any(re.match(expression, name) for expression in expressions)]
        assert found == modules(group["weights"]["num_bits"])
        assert len(expressions) <= 4
    assert r"re:model\.layers\.(0|2)\.self_attn\.(k_proj|q_proj|v_proj)$" in str(groups["config_groups"]).replace(
        "\\\\", "\\"
    )
    assert groups["ignore"] == ["model.embed_tokens", r"model.layers.1.mlp.up_proj", "lm_head"]

    for key, changes in json.loads(text("gptqmodel"))["dynamic"].items():
        found = [name for name in before if re.match(key[2:], name)]
        assert set(found) <= set(modules(changes.get("bits")))
        assert key.startswith("-:" if not changes else "+:")

    entries = yaml.safe_load(text("modelopt"))["quantize"]["quant_cfg"]
    assert entries[0] == {"quantizer_name": "*", "enable": False}
    for entry in entries[1:]:
        found = [name for name in before if fnmatchcase(f"{name}.weight_quantizer", entry["quantizer_name"])]
        assert found
        assert set(found) <= set(modules(entry["cfg"]["num_bits"]))

    lines = dict(line.split("=") for line in text("llama.cpp").splitlines())
    assert lines[r"^blk\.(0|2)\.(attn_k|attn_q|attn_v)\.weight$"] == "q8_0"
    assert lines[r"^blk\.1\.ffn_up\.weight$"] == "bf16"
    assert not any(character in text("llama.cpp") for character in "# \t")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--axis", "last"], "no other tool has axis 1: other tools have one scale per row, axis 0"),
        (["--unsigned-input"], "no other tool has unsigned codes without a zero point"),
        (["--input-min", -1, "--input-max", 1], "no other tool has a given range"),
        (["--num-bits", 9, "-g", 32], "int9-g32: it takes 2, 3, 4, 5, 6, 7 or 8 bits"),
        (["--narrow-range"], "no other tool has narrow_range"),
        (["--round-mode", "half_up"], "no other tool has round_mode HALF_UP"),
        (["--estimator", "percentile"], "no other tool has estimator percentile"),
        (["-g", 48, "--ragged-groups"], "no other tool has ragged_groups"),
    ],
)
def test_what_no_tool_can_be_told_is_refused_by_name(
    qdq: Qdq, decoder: Path, options: list[object], reason: str
) -> None:
    for target in ("compressed-tensors", "modelopt"):
        outcome = qdq("recipe", "export", "linear-only", decoder, "--to", target, *options)
        assert outcome.code == 2
        assert re.search(r"cannot take the recipe: 'model\.layers\.\d\.[\w.]+_proj\.weight'", outcome.error)
        assert reason in outcome.error
        assert not outcome.out


def test_shapes_and_names_that_a_tool_does_not_take(qdq: Qdq, tmp_path: Path) -> None:
    def refusal(target: str, *options: object, **tensors: object) -> str:
        path = write_safetensors(tmp_path / f"{target}.safetensors", {"a.weight": sample((32, 64)), **tensors})
        outcome = qdq("recipe", "export", "linear-only", path, "--to", target, "-s", "int8-channel", *options)
        assert outcome.code == 2, outcome.out
        return outcome.error

    assert "'b.weight': one of its dimensions [33, 64] is no multiple of 32" in refusal(
        "auto-round", **{"b.weight": sample((33, 64))}
    )
    assert "'conv.weight': it takes matrices alone, not 4 dimensions" in refusal(
        "torchao", **{"conv.weight": sample((4, 4, 2, 2))}
    )
    assert "'gate_up': it is not the weight of a module, NAME.weight" in refusal("modelopt", gate_up=sample((4, 64)))
    assert "'x y.weight': its name has characters" in refusal("modelopt", **{"x y.weight": sample((4, 64))})
    assert "'a.weight': its name in a GGUF file is not known" in refusal("llama.cpp", "-s", "int8-g32")


def test_fused_layers_whose_parts_differ_are_named(qdq: Qdq, decoder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[defaults]\nscheme = "int4-g32"\n[[rules]]\nmatch = "*.1.self_attn.q_proj.weight"\nnum_bits = 8')
    outcome = qdq("recipe", "export", recipe, decoder, "--to", "llm-compressor")
    assert "warning: vLLM fuses 'model.layers.1.self_attn.q_proj+k_proj+v_proj.weight', whose parts" in outcome.err
    assert "fuses" not in qdq("recipe", "export", recipe, decoder, "--to", "mlx").err
    recipe.write_text('[defaults]\nscheme = "int4-g32"\n[[rules]]\nmatch = "*.q_proj.weight"\nestimator = "mse"')
    assert "fuses" not in qdq("recipe", "export", recipe, decoder, "--to", "llm-compressor").err
    uniform = qdq("recipe", "export", "linear-only", decoder, "--to", "llm-compressor", "-s", "int4-g32")
    assert "fuses" not in uniform.err


def test_experts_that_become_one_tensor_must_agree(qdq: Qdq, tmp_path: Path) -> None:
    names = [f"model.layers.0.mlp.experts.{i}.up_proj.weight" for i in range(3)]
    model = write_safetensors(tmp_path / "moe.safetensors", {name: sample((8, 32)) for name in names})
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[defaults]\nscheme = "int4-g32"\n[[rules]]\nmatch = "*.1.up_proj.weight"\nscheme = "int8-g32"\n')
    outcome = qdq("recipe", "export", recipe, model, "--to", "llama.cpp")
    assert outcome.code == 2
    assert "become one tensor, 'blk.0.ffn_up_exps.weight', but differ: q4_0, q8_0" in outcome.error
    assert qdq("recipe", "export", "linear-only", model, "--to", "llama.cpp", "-s", "int4-g32").out == (
        "^blk\\.0\\.ffn_up_exps\\.weight$=q4_0\n"
    )


def test_the_output_is_not_replaced_and_the_model_may_be_that_of_the_project(
    qdq: Qdq, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = ("recipe", "export", "linear-only", "--to", "mlx", "-s", "int4-g32")
    assert "give MODEL, or name one in qdq.toml" in qdq(*call).error
    (tmp_path / "qdq.toml").write_text('model = "decoder"\n')
    assert qdq(*call, "-o", "out.json").code == 0
    assert "out.json: exists" in qdq(*call, "-o", "out.json").error
    assert qdq(*call, "-o", "out.json", "--overwrite").code == 0
    assert qdq(*call, "-o", decoder / "model.safetensors", "--overwrite").code == 2


def test_weights_without_a_name_in_a_gguf_file(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": sample((32, 64)), "model.layers.0.odd.weight": sample((32, 64))}
    model = write_safetensors(tmp_path / "model.safetensors", tensors)
    (tmp_path / "r.toml").write_text('[defaults]\nscheme = "int4-g32"')
    outcome = qdq("recipe", "export", tmp_path / "r.toml", model, "--to", "llama.cpp", "--exclude", "*odd*")
    assert outcome.code == 0
    assert "warning: 'model.layers.0.odd.weight': in float here, but without a known name in a GGUF file" in outcome.err


@pytest.mark.parametrize(
    ("block", "part", "mlx"), [("mlp", "down_proj", "down_proj"), ("block_sparse_moe", "w3", "up_proj")]
)
def test_experts_are_one_module_in_mlx(qdq: Qdq, tmp_path: Path, block: str, part: str, mlx: str) -> None:
    experts = [f"model.layers.0.{block}.experts.{i}.{part}.weight" for i in range(2)]
    names = [*experts, *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3))]
    model = write_safetensors(tmp_path / "model.safetensors", {name: sample((32, 64)) for name in names})
    recipe, foreign = tmp_path / "r.toml", tmp_path / "mlx.json"
    rule = '[defaults]\nscheme = "int4-g32"\n[[rules]]\nmatch = "{}"\nnum_bits = 8'
    recipe.write_text(rule.format("*.experts.*"))
    assert qdq("recipe", "export", recipe, model, "--to", "mlx", "-o", foreign).code == 0
    written = json.loads(foreign.read_text())["quantization"]
    assert written[f"model.layers.0.{block}.switch_mlp.{mlx}"] == {"group_size": 32, "bits": 8}
    outcome = qdq("recipe", "import", foreign, model)
    assert "3 int4-g32, 2 int8-g32" in outcome.err
    assert "not in the model" not in outcome.err
    recipe.write_text(rule.format("*.experts.1.*"))
    assert (
        f"'model.layers.0.{block}.switch_mlp.{mlx}', but differ"
        in qdq("recipe", "export", recipe, model, "--to", "mlx").error
    )
