"""Recipes of other tools and configurations of published models, as recipes of `qdq`."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qdqcli.dialects.compressed_tensors import ACTIVATIONS, ASYMMETRIC
from qdqcli.dialects.reading import METHODS
from tests.conftest import Qdq
from tests.dialects.test_round_trips import decisions
from tests.run.checkpoints import sample, write_safetensors

INT4_128 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": False}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
UP, HEAD, EMBEDDING = "model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight"
QUERY, DOWN = "model.layers.2.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
OUT = "model.layers.0.self_attn.o_proj.weight"
INT4 = (4, "none", 128, "minmax")
INT8 = (8, "channel", None, "minmax")


def hub(**config: Any) -> dict[str, Any]:
    return {"model_type": "llama", "quantization_config": config}


def group(targets: list[str], weights: dict[str, Any]) -> dict[str, Any]:
    return {"targets": targets, "weights": weights, "input_activations": None}


COMPRESSED = hub(
    quant_method="compressed-tensors",
    config_groups={"group_0": group(["Linear"], INT4_128)},
    ignore=["lm_head", "re:.*down_proj"],
)
ORDERED = hub(
    quant_method="compressed-tensors",
    config_groups={  # an exact name before an expression, the first by letter, before a class
        "group_0": group(["Linear"], INT4_128),
        "group_1": group(["re:model.*q_proj$", QUERY.removesuffix(".weight")], INT4_128 | {"num_bits": 8}),
        "group_2": group(["re:.*proj$"], INT4_128 | {"num_bits": 6}),
    },
)
FIXED = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"group_size": None}}
INTX = {"_type": "Int8DynamicActivationIntxWeightConfig", "_version": 2, "_data": {
    "act_mapping_type": {"_data": "ASYMMETRIC", "_type": "MappingType"},
    "weight_dtype": {"_data": "int4", "_type": "torch.dtype"},
    "weight_granularity": {"_data": {"group_size": 32}, "_type": "PerGroup", "_version": 1},
    "weight_mapping_type": {"_data": "SYMMETRIC", "_type": "MappingType"}}}  # fmt: skip
MIXED = {"quant_algo": "MIXED_PRECISION", "quantized_layers": {
    UP.removesuffix(".weight"): {"quant_algo": "W4A16_AWQ", "group_size": 128},
    DOWN.removesuffix(".weight"): {"quant_algo": "FP8"},
    QUERY.removesuffix(".weight"): {"quant_algo": "W8A16"}}}  # fmt: skip
CASES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "compressed-tensors": (COMPRESSED, {UP: INT4, HEAD: None, DOWN: None, EMBEDDING: None}, ""),
    "compressed-tensors, order": (ORDERED, {QUERY: (8, "none", 128, "minmax"), UP: (6, "none", 128, "minmax"),
                                            HEAD: INT4}, ""),
    "compressed-tensors, observers": (
        hub(quant_method="compressed-tensors", config_groups={
            "group_0": group(["Linear"], INT4_128),
            "group_1": group(["re:.*proj$"], INT4_128 | {"observer": "mse"}),
            "group_2": group([UP.removesuffix(".weight")], INT4_128 | {"num_bits": 8}),
        }),
        {UP: (8, "none", 128, "minmax"), QUERY: (4, "none", 128, "mse"), HEAD: INT4}, ""),
    "compressed-tensors, float": (
        hub(quant_method="compressed-tensors",
            config_groups={"group_0": group(["re:.*self_attn.*"], FP8), "group_1": group(["re:.*mlp.*"], INT4_128)}),
        {UP: INT4, QUERY: None, HEAD: None}, "8-bit floats in the file: not simulated, left in float"),
    "compressed-tensors, named": (hub(quant_method="compressed-tensors", config_groups={"W8A8": ["Linear"]}),
                                  {UP: INT8, HEAD: INT8}, ACTIVATIONS),
    "compressed-tensors, classes": (
        hub(quant_method="compressed-tensors", config_groups={"g": group(["Linear"], INT4_128)}, ignore=["MoEGate"]),
        {UP: INT4}, "left out: 'MoEGate': classes of modules, which names do not tell"),
    "compressed-tensors, activations": (
        hub(quant_method="compressed-tensors", config_groups={
            "group_0": group(["Linear"], INT4_128 | {"symmetric": False}) | {"input_activations": {"num_bits": 8}}}),
        {UP: INT4}, f"{ASYMMETRIC}; {ACTIVATIONS}"),
    "gptq": (hub(quant_method="gptq", bits=4, group_size=128, sym=True, desc_act=False),
             {UP: INT4, HEAD: None, EMBEDDING: None}, ""),
    "gptq, modules": (
        hub(quant_method="gptq", bits=4, group_size=128,
            modules_in_block_to_quantize=[["self_attn.q_proj", "self_attn.k_proj"], ["mlp.down_proj"]]),
        {UP: None, QUERY: INT4, DOWN: INT4, OUT: None, HEAD: None}, ""),
    "auto-round, lists of blocks": (
        hub(quant_method="auto-round", bits=4, group_size=128, to_quant_block_names=[["model.layers.0"]]),
        {UP: INT4, QUERY: None}, ""),
    "gptq, dynamic": (
        hub(quant_method="gptq", bits=4, group_size=128, sym=False, lm_head=True,
            dynamic={r"-:.*down_proj": {}, r".*\.0\..*": {"bits": 8, "group_size": -1}, r"+:.*up_proj": {"bits": 3}}),
        {UP: INT8, HEAD: INT4, DOWN: None}, "asymmetric (integer zero points) in the file; symmetric here"),
    "awq": (hub(quant_method="awq", w_bit=4, q_group_size=128, zero_point=True, modules_to_not_convert=["self_attn"]),
            {UP: INT4, QUERY: None, HEAD: None}, "asymmetric"),
    "auto-round": (
        hub(quant_method="auto-round", bits=4, group_size=128, sym=True, data_type="int",
            block_name_to_quantize="model.layers",
            extra_config={"model.layers.1.mlp.down_proj": {"bits": 16, "data_type": "float"}, "q_proj": {"bits": 8}}),
        {UP: INT4, DOWN: None, QUERY: (8, "none", 128, "minmax"), HEAD: None}, ""),
    "auto-round, schemes": (
        {"scheme": "W2A16G64", "layer_config": {"up_proj": "W8A16", "q_proj": {"bits": 4}, "down_proj": "BF16",
                                                "o_proj": {"scheme": "W8A16", "group_size": -1}}},
        {UP: (8, "none", 128, "minmax"), QUERY: (4, "none", 64, "minmax"), DOWN: None, OUT: INT8,
         "model.layers.0.mlp.gate_proj.weight": (2, "none", 64, "minmax")}, ""),
    "auto-round, parts of names": (
        {"bits": 4, "group_size": 128, "ignore_layers": "layers.2", "layer_config": {
            "mlp.up_proj": {"bits": 8}, UP.removesuffix(".weight"): {"bits": 2}, "self_attn.o": "INT8"}},
        {UP: (8, "none", 128, "minmax"), OUT: INT8, QUERY: None, DOWN: INT4}, ACTIVATIONS),
    "auto-round, activations": (hub(quant_method="auto-round", bits=8, group_size=-1, act_bits=8), {UP: INT8},
                                ACTIVATIONS),
    "auto-round, float schemes": (
        {"bits": 4, "group_size": 128, "layer_config": {"up_proj": "NVFP4"}}, {UP: None, QUERY: INT4},
        "NVFP4 in the file: not simulated"),
    "torchao": (hub(quant_method="torchao", quant_type={"default": FIXED}, modules_to_not_convert=["lm_head"]),
                {UP: INT8, HEAD: None, EMBEDDING: None}, ""),
    "torchao, by name": (
        {"_type": "ModuleFqnToConfig", "_data": {"module_fqn_to_config": {
            "_default": FIXED, "re:.*up_proj": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}},
            DOWN: None}}},
        {UP: INT4, DOWN: None, QUERY: INT8}, "asymmetric"),
    "torchao, two granularities": (
        {"_type": "Int8StaticActivationInt8WeightConfig", "_data": {"granularity": [
            {"_type": "PerRow", "_data": {}}, {"_type": "PerTensor", "_data": {}}]}},
        {UP: (8, "none", None, "minmax")}, ACTIVATIONS),
    "torchao, int4 with FP8": ({"_type": "Float8DynamicActivationInt4WeightConfig", "_data": {}}, {UP: INT4},
                               ACTIVATIONS),
    "torchao, before": (hub(quant_method="torchao", quant_type="int4_weight_only",
                            quant_type_kwargs={"group_size": 64}),
                        {UP: (4, "none", 64, "minmax")}, "asymmetric"),
    "torchao, output head": (hub(quant_method="torchao", quant_type={"default": FIXED}), {UP: INT8, HEAD: None}, ""),
    "torchao, embeddings": (
        hub(quant_method="torchao", quant_type={"default": FIXED}, include_input_output_embeddings=True),
        {UP: INT8, HEAD: INT8}, ""),
    "torchao, dynamic activations": (
        hub(quant_method="torchao", quant_type={"default": INTX}, modules_to_not_convert=[]),
        {UP: (4, "none", 32, "minmax"), HEAD: (4, "none", 32, "minmax"), EMBEDDING: None}, ACTIVATIONS),
    "modelopt, mixed": (hub(quant_method="modelopt", **MIXED), {UP: INT4, DOWN: None, QUERY: INT8, HEAD: None},
                        "FP8 in the file: not simulated, left in float"),
    "compression_config": ({"compression_config": COMPRESSED["quantization_config"]}, {UP: INT4, HEAD: None}, ""),
    "modelopt": (hub(quant_method="modelopt", quant_algo="W4A16_AWQ", group_size=128,
                     ignore=["lm_head", "*self_attn*"]),
                 {UP: INT4, QUERY: None, HEAD: None}, ""),
    "hf_quant_config": ({"producer": {"name": "modelopt"}, "quantization": {
        "quant_algo": "W8A16", "exclude_modules": ["lm_head"]}}, {UP: INT8, HEAD: None}, ""),
    "mlx": (
        {"quantization": {"group_size": 64, "bits": 4, "mode": "affine", "lm_head": False,
                          "model.layers.1.mlp.down_proj": {"group_size": 32, "bits": 6}}},
        {UP: (4, "none", 64, "minmax"), DOWN: (6, "none", 32, "minmax"), HEAD: None,
         EMBEDDING: (4, "none", 64, "minmax")}, "mode affine has an offset beside each scale"),
    "text_config": ({"text_config": COMPRESSED}, {UP: INT4, HEAD: None}, ""),
}  # fmt: skip
YAML = {
    "groups": (
        {"quant_stage": {"quant_modifiers": {
            "SmoothQuantModifier": {"smoothing_strength": 0.8},
            "GPTQModifier": {"ignore": ["lm_head"], "config_groups": {"group_0": group(["Linear"], INT4_128 | {
                "observer": "mse"})}}}}},
        {UP: (4, "none", 128, "mse"), HEAD: None}, ""),
    "scheme": ({"default_stage": {"default_modifiers": {"AWQModifier": {
        "targets": ["Linear"], "scheme": "W4A16_ASYM", "ignore": ["re:.*lm_head"]}}}},
        {UP: INT4, HEAD: None}, "asymmetric"),
    "unquantized": ({"GPTQModifier": {"scheme": {"W4A16": ["Linear"], "UNQUANTIZED": ["re:.*down_proj"]}}},
                    {UP: INT4, DOWN: None}, ""),
    "schemes": ({"GPTQModifier": {"scheme": {"W8A8": ["re:.*self_attn.*"], "W4AFP8": ["re:.*mlp.*"]}}},
                {UP: INT4, QUERY: INT8, HEAD: None}, ACTIVATIONS),
    "modelopt, imports": (
        {"imports": {"off": "configs/ptq/units/base_disable_all", "int4": "configs/numerics/int4_per_block",
                     "fp8": "configs/numerics/fp8", "rest": "configs/ptq/units/default_disabled_quantizers"},
         "quantize": {"quant_cfg": [
            {"$import": "off"},
            {"quantizer_name": "*weight_quantizer", "cfg": {"$import": "int4"}},
            {"quantizer_name": "*input_quantizer", "enable": False},
            {"quantizer_name": "*down_proj*", "cfg": {"$import": "fp8"}},
            {"$import": "rest"}]}},
        {UP: INT4, HEAD: None, DOWN: None}, "fp8 in the file: not simulated, left in float"),
    "modelopt": (
        {"quantize": {"quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 4, "block_sizes": {-1: 128, "type": "static"}}},
            {"quantizer_name": "*input_quantizer", "enable": False},
            {"quantizer_name": "*down_proj*", "cfg": {"num_bits": [4, 3], "axis": 0}},
            {"parent_class": "nn.BatchNorm2d", "quantizer_name": "*", "enable": False},
            {"quantizer_name": "*lm_head*", "enable": False}]}},
        {UP: INT4, HEAD: None, DOWN: None}, "left out: * of the class nn.BatchNorm2d"),
}  # fmt: skip
LINES = "token_embd=q8_0 ATTN_Q=q8_0\nblk\\.[0-1]\\.ffn=q4_K\nffn_(up|down)=iq4_nl\noutput\\.weight=f16\n"


def imported(qdq: Qdq, text: str, model: Path | None, folder: Path) -> tuple[Path, str]:
    source, recipe = folder / "foreign", folder / "imported.toml"
    source.write_text(text)
    outcome = qdq("recipe", "import", source, *([] if model is None else [model]), "-o", recipe, "--overwrite")
    assert outcome.code == 0, outcome.err
    return recipe, outcome.err


def check(qdq: Qdq, text: str, expected: dict[str, Any], note: str, model: Path, folder: Path) -> None:
    for given in (model, None):
        recipe, err = imported(qdq, text, given, folder)
        found = decisions(qdq, recipe, model)
        assert {name: found[name] for name in expected} == expected
        if note:
            assert f"warning: {note}" in err
            assert f"# {note}" in recipe.read_text()
        else:
            assert "warning" not in err


@pytest.mark.parametrize("name", CASES)
def test_configuration_of_a_published_model(qdq: Qdq, decoder: Path, tmp_path: Path, name: str) -> None:
    config, expected, note = CASES[name]
    check(qdq, json.dumps(config), expected, note, decoder, tmp_path)


@pytest.mark.parametrize("name", YAML)
def test_recipe_in_yaml(qdq: Qdq, decoder: Path, tmp_path: Path, name: str) -> None:
    data, expected, note = YAML[name]
    check(qdq, yaml.safe_dump(data), expected, note, decoder, tmp_path)


def test_every_method_has_a_case() -> None:
    methods = {
        data["quantization_config"]["quant_method"] for data, _, _ in CASES.values() if "quantization_config" in data
    }
    assert methods | {"intel/auto-round"} == set(METHODS)


def test_types_of_tensors_in_a_gguf_file(qdq: Qdq, decoder: Path, tmp_path: Path) -> None:
    recipe, err = imported(qdq, LINES, decoder, tmp_path)
    found = decisions(qdq, recipe, decoder)
    assert found[QUERY] == found[EMBEDDING] == (8, "none", 32, "minmax")
    assert found[UP] == found[DOWN] == (4, "none", 32, "minmax")
    assert found["model.layers.2.mlp.up_proj.weight"] is None
    assert found[HEAD] is None
    assert found["model.layers.0.self_attn.k_proj.weight"] is None
    assert "warning: q4_k has an offset beside each scale" in err
    assert "warning: iq4_nl in the file: not simulated, left in float" in err
    outcome = qdq("recipe", "import", tmp_path / "foreign")
    assert "its patterns are on names of a GGUF file; give MODEL" in outcome.error


def test_a_folder_stands_for_its_configuration_and_the_recipe_is_taken(qdq: Qdq, decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text(json.dumps(COMPRESSED))
    outcome = qdq("recipe", "import", tmp_path / "published", decoder)
    assert "18 int4-g128, 5 in float" in outcome.err
    recipe = tmp_path / "im ported.toml"
    recipe.write_text(outcome.out)
    outcome = qdq("recipe", "import", tmp_path / "published", decoder, "-o", recipe, "--overwrite")
    assert outcome.err.endswith(f"next: qdq stats {decoder} --recipe '{recipe}'\n")
    assert qdq("inspect", decoder, "--recipe", recipe, "--format", "json").report["summary"]["num_quantized"] == 18


def test_what_matches_nothing_is_said(qdq: Qdq, decoder: Path, tmp_path: Path) -> None:
    config = COMPRESSED["quantization_config"] | {"ignore": ["lm_head", "visual.proj", "re:.*norm$"]}
    _, err = imported(qdq, json.dumps(config), decoder, tmp_path)
    assert "warning: 'visual.proj': in the file, but not in the model" in err
    (tmp_path / "foreign").write_text(json.dumps(hub(quant_method="compressed-tensors", config_groups={
        "group_0": group(["re:transformer.*"], INT4_128)})))  # fmt: skip
    outcome = qdq("recipe", "import", tmp_path / "foreign", decoder)
    assert outcome.code == 2
    assert "the file names no tensor of the model: none matches 're:transformer.*'" in outcome.error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no recipe of a tool that is known, with the keys (none); expected a config.json with"),
        ('{"model_type": "llama"}', "with the keys model_type"),
        ('{"architectures": ["A"]}', "foreign: has no quantization_config: its model is not quantized"),
        ("[1, 2]", "holds no object"),
        ("{", "is not JSON"),
        ("a: [", "not YAML: expected the node content"),
        ("a: \x00", "not YAML"),
        (json.dumps(hub(quant_method="bitsandbytes")), "quant_method is bitsandbytes"),
        (json.dumps(hub(bits=4)), "quantization_config.quant_method is missing; expected a text"),
        (json.dumps(hub(quant_method="gptq", bits="four")), "quantization_config.bits is 'four'; expected an integer"),
        (json.dumps(hub(quant_method="gptq", bits=True)), "quantization_config.bits is True; expected an integer"),
        (json.dumps(hub(quant_method="gptq", bits=0)), "quantization_config.bits is 0; expected a number of bits"),
        (json.dumps(hub(quant_method="gptq", bits=4, dynamic=[1])), "config.dynamic is [1]; expected an object"),
        (json.dumps(hub(quant_method="gptq", bits=4, dynamic={"a(": {}})), "foreign: 'a(' is not a regular expression"),
        (json.dumps(hub(quant_method="compressed-tensors", config_groups={})), "config_groups is {}; expected groups"),
        (json.dumps(hub(quant_method="compressed-tensors", config_groups={"g": group(["Linear"], FP8)})),
         "compressed-tensors: no weight in integers: 8-bit floats in the file"),
        (json.dumps(hub(quant_method="compressed-tensors", config_groups={"g": group(["LlamaAttention"], INT4_128)})),
         "no weight in integers: left out: 'LlamaAttention': classes of modules, which names do not tell"),
        (json.dumps(hub(quant_method="modelopt", quant_algo="NVFP4")), "no weight in integers: NVFP4 in the file"),
        *((json.dumps({"quantization": {"quant_algo": name}}), f"no weight in integers: {name} in the file")
          for name in ("W4A8_NVFP4_FP8", "W4A8_MXFP4_FP8", "W4A16_NVFP4")),
        ('{"quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}}',
         "no weight in integers: its quant_algo leaves weights in float"),
        ('{"quantization": {"mode": "affine"}}', "quantization.bits is missing; expected an integer"),
        ("a: " + "[" * 3000, "is nested too deeply"),
        ('{"quant_method": "torchao", "quant_type": "float8"}', "quant_type is 'float8'; expected a weight-only type"),
        ('{"bits": 4, "group_size": 128, "layer_config": {"up_proj": 8}}',
         "layer_config.up_proj is 8; expected an object, or a scheme such as W8A16"),
        ("GPTQModifier: {scheme: W99}", "'W99' is not a known scheme such as W4A16"),
        ("GPTQModifier: {scheme: [1]}", "GPTQModifier.scheme is [1]; expected a text"),
        (json.dumps(hub(quant_method="gptq", bits=4, dynamic={"(a+)+": {}})), "foreign: '(a+)+' repeats a group"),
        ("attn=q4_0", "its patterns are on names of a GGUF file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(qdq: Qdq, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "foreign").write_text(text)
    outcome = qdq("recipe", "import", tmp_path / "foreign")
    assert outcome.code == 2
    assert message in outcome.error


def test_a_file_that_is_not_there(qdq: Qdq, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("schema = 1\n")
    assert "--recipe takes it as it is" in qdq("recipe", "import", tmp_path / "own.toml").error
    assert "expected a config.json" in qdq("recipe", "import", tmp_path / "none").error
    assert "a folder without config.json" in qdq("recipe", "import", tmp_path).error


def test_aliases_of_yaml_do_not_fill_a_message(qdq: Qdq, tmp_path: Path) -> None:
    lists = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    modifier = "QuantizationModifier: {targets: *l29, scheme: A}"
    (tmp_path / "foreign").write_text("\n".join(["l0: &l0 [x]", *lists, modifier]))
    outcome = qdq("recipe", "import", tmp_path / "foreign")
    assert outcome.code == 2
    assert "QuantizationModifier.targets is [[[" in outcome.error


def test_convolutions_are_no_linear_layers(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {"encoder.conv1.weight": sample((32, 4, 3)), "encoder.fc1.weight": sample((32, 128))}
    model = write_safetensors(tmp_path / "whisper.safetensors", tensors)
    recipe, err = imported(qdq, json.dumps(hub(quant_method="gptq", bits=4, group_size=128)), model, tmp_path)
    assert "warning" not in err
    assert decisions(qdq, recipe, model) == {"encoder.conv1.weight": None, "encoder.fc1.weight": INT4}


def test_types_of_tensors_that_match_nothing(qdq: Qdq, decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("blk\\.99=q4_0\n")
    outcome = qdq("recipe", "import", tmp_path / "foreign", decoder)
    assert "the file names no tensor of the model; the model has 'model.embed_tokens.weight'" in outcome.error
