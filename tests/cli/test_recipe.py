"""`--recipe`, `--preset` and `qdq recipe`: settings by tensor, and who decided them."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from qdqcli.recipe.preset import PRESETS, preset_text
from qdqcli.report.escape import TIMES
from tests.cli.process import environment
from tests.cli.test_resume import KILLED, stopped
from tests.conftest import Qdq
from tests.run.checkpoints import read_safetensors, sample, write_safetensors

RECIPE = """\
schema = 1
[defaults]
num_bits = 6
axis = 0
min_ndim = 2
[[rules]]
match = "*.mlp.*"
num_bits = 4
group_size = 8
[[rules]]
match = ["*norm*", "re:.*embed.*"]
skip = "kept in float"
"""
TENSORS = {
    "model.embed_tokens.weight": sample((10, 16), seed=1),
    "model.layers.0.mlp.up_proj.weight": sample((12, 16), seed=2),
    "model.layers.0.mlp.up_proj.bias": sample((16,), seed=3),
    "model.layers.0.norm.weight": sample((16,), seed=4),
    "model.layers.0.self_attn.q_proj.weight": sample((16, 16), "BF16", seed=5),
    "lm_head.weight": sample((10, 16), "F16", seed=6),
    "position_ids": np.arange(8),
}
UP, QUERY = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", TENSORS)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["tensors"]}


def test_run_does_what_the_recipe_says_and_the_report_says_who_decided(
    qdq: Qdq, source: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    outcome = qdq("run", source, "-o", out, "--recipe", recipe, "--format", "json")
    assert outcome.code == 0, outcome.err
    written = read_safetensors(out)
    groups = quantize_and_dequantize_v4(TENSORS[UP].reshape(-1, 8), num_bits=4, axis=0).reshape(12, 16)
    wide = quantize_and_dequantize_v4(TENSORS[QUERY], num_bits=6, axis=0, compute_dtype="float32")
    assert written[UP].tobytes() == groups.tobytes()
    assert written[QUERY].tobytes() == wide.tobytes()
    for name in ("model.embed_tokens.weight", "model.layers.0.norm.weight", "model.layers.0.mlp.up_proj.bias"):
        assert written[name].tobytes() == TENSORS[name].tobytes()
    found = rows(outcome.report)
    assert found[UP]["decided_by"] == {
        "num_bits": "rule 1 (line 6)",
        "axis": "rule 1 (line 6)",
        "group_size": "rule 1 (line 6)",
    }
    assert found[QUERY]["decided_by"] == {"num_bits": "[defaults]", "axis": "[defaults]"}
    assert found["model.layers.0.norm.weight"]["decided_by"] == {"skip": "rule 2 (line 10)"}
    assert found["model.layers.0.norm.weight"]["reason"] == "kept in float"
    assert found["model.layers.0.mlp.up_proj.bias"]["decided_by"] == {"min_ndim": "[defaults]"}
    assert found["position_ids"]["decided_by"] == {}
    assert outcome.report["settings"]["recipe"] == str(recipe)
    assert outcome.report["settings"]["num_bits"] == 6
    assert outcome.report["settings"]["rules"][1] == {
        "place": "rule 2 (line 10)",
        "match": ["*norm*", "re:.*embed.*"],
        "skip": "kept in float",
    }


def test_a_recipe_in_json_is_the_same(qdq: Qdq, source: Path, recipe: Path, tmp_path: Path) -> None:
    import tomllib

    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(tomllib.loads(RECIPE)))
    one, other = (qdq("stats", source, "--recipe", file, "--format", "json").report for file in (recipe, path))
    assert [row["stats"] for row in one["tensors"] if "stats" in row] == [
        row["stats"] for row in other["tensors"] if "stats" in row
    ]
    assert one["summary"] == other["summary"]


@pytest.mark.parametrize(
    ("options", "spec", "place"),
    [
        ((), {"num_bits": 6, "axis": 0}, {"num_bits": "[defaults]", "axis": "[defaults]"}),
        (("--num-bits", 5), {"num_bits": 5, "axis": 0}, {"num_bits": "--num-bits"}),
        (("--num-bits", 8), {"num_bits": 8}, {"num_bits": "--num-bits"}),
        (("--group-size", 4), {"axis": -1, "group_size": 4}, {"axis": "--group-size", "group_size": "--group-size"}),
        (("--axis", "last"), {"axis": 1}, {"axis": "--axis"}),
        (("--axis", "none"), {"axis": -1}, {"axis": "--axis"}),
        (("--unsigned-input",), {"signed_input": False}, {"signed_input": "--unsigned-input"}),
        (("--estimator", "mse"), {"estimator": "mse"}, {"estimator": "--estimator"}),
        (("--input-min", -1, "--input-max", 1), {"range_given": True}, {"input_min": "--input-min"}),
    ],
)
def test_options_override_defaults_and_rules_override_options(
    qdq: Qdq, source: Path, recipe: Path, options: tuple[Any, ...], spec: dict[str, Any], place: dict[str, str]
) -> None:
    outcome = qdq("stats", source, "--recipe", recipe, *options, "--format", "json")
    assert outcome.code == 0, outcome.err
    found = rows(outcome.report)
    assert found[QUERY]["spec"].items() >= spec.items()
    assert found[QUERY]["decided_by"].items() >= place.items()
    assert found[UP]["spec"].items() >= {"num_bits": 4, "group_size": 8}.items()


def test_an_axis_overrides_the_group_size_of_defaults(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("schema = 1\n[defaults]\ngroup_size = 8\nmin_ndim = 2\n")
    outcome = qdq("stats", source, "--recipe", path, "--axis", 0, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert rows(outcome.report)[QUERY]["spec"].items() >= {"axis": 0, "group_size": None}.items()


def test_selection_in_defaults(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('schema = 1\n[defaults]\ninclude = "*.weight"\nexclude = ["*norm*", "lm_head.*"]\n')
    found = rows(qdq("stats", source, "--recipe", path, "--format", "json").report)
    assert {name for name, row in found.items() if row["status"] == "quantized"} == {
        "model.embed_tokens.weight", UP, QUERY
    }  # fmt: skip
    assert found["lm_head.weight"]["decided_by"] == {"exclude": "[defaults]"}
    found = rows(qdq("stats", source, "--recipe", path, "--exclude", UP, "--format", "json").report)
    assert found["lm_head.weight"]["status"] == "quantized"
    assert found[UP]["decided_by"] == {"exclude": "--exclude"}


def test_presets_come_before_the_recipe(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('schema = 1\n[[rules]]\nmatch = "lm_head.*"\nskip = false\nnum_bits = 8\n')
    options = ("--preset", "linear-only", "--scheme", "int4-channel", "--recipe", path)
    outcome = qdq("stats", source, *options, "--format", "json")
    assert outcome.code == 0, outcome.err
    found = rows(outcome.report)
    assert {name: row["spec"]["num_bits"] for name, row in found.items() if row["status"] == "quantized"} == {
        UP: 4, QUERY: 4, "lm_head.weight": 8
    }  # fmt: skip
    assert found["model.layers.0.norm.weight"]["reason"] == "norm"
    assert found["model.embed_tokens.weight"]["decided_by"]["skip"].startswith("preset linear-only, rule 1 (line ")
    assert found[UP]["decided_by"]["num_bits"] == "--scheme"
    path.write_text('schema = 1\n[[rules]]\nmatch = "lm_head.*"\nnum_bits = 8\n')
    assert "skip = false" in qdq("stats", source, *options).error


def test_no_preset_is_silent_and_nothing_but_vectors_is_skipped_without_one(qdq: Qdq, source: Path) -> None:
    found = rows(qdq("stats", source, "--min-ndim", 0, "--format", "json").report)
    assert [name for name, row in found.items() if row["status"] == "skipped"] == ["position_ids"]
    assert "decided_by" not in found[UP]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(qdq: Qdq, tmp_path: Path, name: str) -> None:
    source = write_safetensors(tmp_path / "m.safetensors", {"w": sample((4, 256)), "b": sample((4,))})
    outcome = qdq("stats", source, "--preset", name, "--format", "json")
    assert outcome.code == 0, outcome.err
    found = rows(outcome.report)
    assert found["b"]["decided_by"] == {"min_ndim": f"preset {name}, [defaults]"}
    assert ("none of its" in outcome.err) is (name == "linear-only")
    copy = tmp_path / "copy.toml"
    copy.write_text(qdq("recipe", "show", name).out)
    assert qdq("stats", source, "--recipe", copy, "--format", "csv", "-q").code == 0


def names_of_practice() -> dict[str, list[str]]:
    layer = "model.layers.0"
    return {
        "norm": [f"{layer}.input_layernorm.weight", "model.norm.weight", "h.0.ln_1.weight", "ln_f.weight",
                 "encoder.layer.0.output.LayerNorm.weight", f"{layer}.self_attn.q_norm.weight", "blk.norm2.weight",
                 "layer1.0.bn1.weight", "encoder.block.0.layer.0.layer_norm.weight"],
        "bias": ["bias", f"{layer}.self_attn.q_proj.bias", f"{layer}.mlp.gate.e_score_correction_bias"],
        "embedding": ["model.embed_tokens.weight", "wte.weight", "transformer.wpe.weight", "shared.weight",
                      "embeddings.position_embeddings.weight"],
        "output head": ["lm_head.weight", "output.weight", "proj_out.weight", "transformer.output_layer.weight"],
        "router": [f"{layer}.mlp.gate.weight", f"{layer}.block_sparse_moe.gate.weight",
                   f"{layer}.mlp.shared_expert_gate.weight", f"{layer}.router.weight"],
        "quantized": [f"{layer}.self_attn.q_proj.weight", f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.gate_up_proj",
                      "encoder.layer.0.output.dense.weight", f"{layer}.mlp.experts.3.w1.weight", "h.0.c_attn.weight",
                      f"{layer}.mlp.experts.gate_up_proj", f"{layer}.mlp.down_proj.weight"],
    }  # fmt: skip


def test_weights_only_skips_what_practice_skips_and_nothing_else(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {name: sample((2, 2)) for names in names_of_practice().values() for name in names}
    source = write_safetensors(tmp_path / "m.safetensors", tensors)
    found = rows(qdq("stats", source, "--preset", "linear-only", "--format", "json").report)
    kinds = {name: row.get("reason", "quantized") for name, row in found.items()}
    assert kinds == {name: kind for kind, names in names_of_practice().items() for name in names}


@pytest.mark.parametrize("command", ["run", "stats", "check", "inspect"])
def test_what_is_wrong_with_a_recipe_is_one_line_and_exit_code_2(
    qdq: Qdq, source: Path, tmp_path: Path, command: str
) -> None:
    path, out = tmp_path / "r.toml", tmp_path / "out.safetensors"
    more: tuple[Any, ...] = {"run": ("-o", out), "check": ("--write-budget", tmp_path / "b.toml")}.get(command, ())
    for text, words in (
        (
            RECIPE.replace("num_bits = 4", "nm_bits = 4"),
            f"{path}:8: unknown key 'nm_bits' in rule 1; the nearest is num_b",
        ),
        (
            RECIPE.replace("*.mlp.*", "*.mpl.*"),
            f"{path}:6: rule 1: pattern '*.mpl.*' matches none of 7 tensors; nearest",
        ),
        (RECIPE.replace("group_size = 8", "group_size = 7"), "group_size 7 does not divide"),
    ):
        path.write_text(text)
        outcome = qdq(command, source, "--recipe", path, *more)
        assert outcome.code == 2
        assert words in outcome.error
    assert not out.exists()
    path.write_text(RECIPE.replace('"*.mlp.*"', '["*.mlp.*", "*.mpl.*"]'))
    outcome = qdq(command, source, "--recipe", path, "--allow-unmatched", *more)
    assert outcome.code == 0, outcome.err
    assert "note: " in outcome.err
    assert "'*.mpl.*' matches none" in outcome.err


@pytest.mark.usefixtures("parts")
def test_resume_goes_by_what_the_recipe_does_not_by_its_name(
    qdq: Qdq, source: Path, recipe: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "out.safetensors", ("--format", "json", "--resume")
    whole = qdq("run", source, "-o", tmp_path / "whole.safetensors", "--recipe", recipe, "--format", "json")
    assert stopped(4, signal.SIGKILL, "run", source, "-o", out, "--recipe", recipe, *options).returncode == KILLED
    other = recipe.with_name("other.toml")
    other.write_text(RECIPE.replace("num_bits = 4", "num_bits = 5"))
    assert "what is done to the tensors" in qdq("run", source, "-o", out, "--recipe", other, *options).error
    moved = recipe.rename(tmp_path / "moved.toml")
    again = qdq("run", source, "-o", out, "--recipe", moved, *options)
    assert again.code == 0, again.err
    assert again.report["tensors"] == whole.report["tensors"]
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_every_report_carries_who_decided(qdq: Qdq, source: Path, recipe: Path, tmp_path: Path) -> None:
    csv_file, json_file, lines_file = (tmp_path / f"r{suffix}" for suffix in (".csv", ".json", ".jsonl"))
    reports = [part for file in (csv_file, json_file, lines_file) for part in ("--report", file)]
    assert qdq("stats", source, "--recipe", recipe, "--format", "none", *reports).code == 0
    (row,) = [row for row in csv.DictReader(io.StringIO(csv_file.read_text())) if row["name"] == UP]
    assert row["decided_by"] == "rule 1 (line 6): num_bits, axis, group_size"
    lines = [json.loads(line) for line in lines_file.read_text().splitlines()]
    assert [line["decided_by"] for line in lines if line.get("name") == UP] == [
        rows(json.loads(json_file.read_text()))[UP]["decided_by"]
    ]
    assert json.loads(qdq("render", json_file, "--format", "json").out) == json.loads(json_file.read_text())


def test_ranges_that_were_calibrated_with_a_recipe_do_the_same(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    """A rule's own estimator overrides them, to the same end."""
    recipe, ranges = tmp_path / "r.toml", tmp_path / "ranges.safetensors"
    recipe.write_text(RECIPE.replace("group_size = 8", 'group_size = 8\nestimator = "mse"'))
    options = ("--recipe", recipe, "--estimator", "percentile")
    outcome = qdq("calibrate", source, "-o", ranges, *options, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert rows(outcome.report)[UP]["decided_by"]["estimator"] == "rule 1 (line 6)"
    estimated = qdq("stats", source, *options, "--format", "json")
    given = qdq("stats", source, "--recipe", recipe, "--ranges", ranges, "--format", "json")
    assert given.code == 0, given.err
    stats = [[row["stats"] for row in run.report["tensors"] if "stats" in row] for run in (estimated, given)]
    assert stats[0] == stats[1]
    explained = qdq("recipe", "explain", recipe, source, "--ranges", ranges, "--format", "json").report
    assert rows(explained)[QUERY]["fields"]["ranges"]["decided_by"] == "--ranges"


# qdq recipe lint


def test_lint_finds_all_that_is_wrong(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        RECIPE + '[[rules]]\nmatch = "*.nrom.*"\nskip = "x"\n[[rules]]\nmatch = "*.mlp.*weight"\naxis = 0\n'
    )
    outcome = qdq("recipe", "lint", path, source)
    assert outcome.code == 2
    assert [line.split(": ")[:2] for line in outcome.out.splitlines()] == [
        [f"{path}:13", "rule 3"],
        [f"{path}:16", "rule 4"],
    ]
    assert outcome.error == f"error: {path}: 2 problems"
    found = json.loads(qdq("recipe", "lint", path, source, "--format", "json").out)["findings"]
    assert [(finding["line"], finding["kind"]) for finding in found] == [(13, "unmatched"), (16, "error")]
    outcome = qdq("recipe", "lint", path, source, "--allow-unmatched")
    assert outcome.error == f"error: {path}: 1 problem"


def test_lint_without_a_model(qdq: Qdq, recipe: Path) -> None:
    outcome = qdq("recipe", "lint", recipe)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{recipe}: nothing wrong with 2 rules\n"
    recipe.write_text(RECIPE + '[[rules]]\nmatch = "*"\naxis = 1\n')
    outcome = qdq("recipe", "lint", recipe)
    assert outcome.code == 2
    assert "rule 3: sets axis for '*.mlp.*', where group_size 8 of rule 1 (line 6) holds" in outcome.out


def test_lint_says_what_tensors_cannot_take(qdq: Qdq, source: Path, recipe: Path) -> None:
    assert qdq("recipe", "lint", recipe, source).out.endswith("nothing wrong with 2 rules, checked against 7 tensors\n")
    assert "does not divide" in qdq("recipe", "lint", recipe, source, "--group-size", 5).error


def test_lint_of_several_recipes_tells_of_all(qdq: Qdq, source: Path, recipe: Path, tmp_path: Path) -> None:
    bad, worse = tmp_path / "bad.toml", tmp_path / "worse.json"
    bad.write_text(RECIPE + '[[rules]]\nmatch = "*.nrom.*"\nskip = "x"\n')
    worse.write_text('{"rules": [{"match": "*", "num_bit": 4}]}')
    assert qdq("recipe", "lint", recipe, recipe, source).out.count("nothing wrong with 2 rules") == 2
    outcome = qdq("recipe", "lint", recipe, bad, worse, source)
    assert outcome.code == 2
    assert f"{recipe}: nothing wrong" in outcome.out
    assert outcome.error.startswith(f"error: {bad}: 1 problem; {worse}:1: ")
    assert "num_bits" in outcome.error
    found = json.loads(qdq("recipe", "lint", recipe, bad, source, "--format", "json").out)
    assert [(one["recipe"], len(one["findings"])) for one in found] == [(str(recipe), 0), (str(bad), 1)]


# qdq recipe explain


def test_explain_says_who_decided_each_setting(qdq: Qdq, source: Path, recipe: Path) -> None:
    report = qdq("recipe", "explain", recipe, source, "--num-bits", 5, "--format", "json").report
    assert report["command"] == "recipe explain"
    assert report["summary"] == {"num_tensors": 7, "num_quantized": 3, "num_skipped": 4}
    found = rows(report)
    assert found[UP]["rules"] == ["rule 1 (line 6)"]
    assert found[UP]["fields"]["num_bits"] == {
        "value": 4,
        "decided_by": "rule 1 (line 6)",
        "overrides": ["[defaults]", "--num-bits"],
    }
    assert found[UP]["fields"]["narrow_range"] == {"value": False, "decided_by": "built in", "overrides": []}
    assert found[QUERY]["fields"]["num_bits"]["decided_by"] == "--num-bits"
    assert found["model.layers.0.norm.weight"] | {"file": ""} == {
        "name": "model.layers.0.norm.weight", "file": "", "dtype": "F32", "shape": [16], "status": "skipped",
        "reason": "kept in float", "rules": ["rule 2 (line 10)"],
        "fields": {"skip": {"value": "kept in float", "decided_by": "rule 2 (line 10)", "overrides": []}},
    }  # fmt: skip


def test_explain_and_stats_agree(qdq: Qdq, source: Path, recipe: Path) -> None:
    explained = rows(qdq("recipe", "explain", recipe, source, "--format", "json").report)
    measured = rows(qdq("stats", source, "--recipe", recipe, "--format", "json").report)
    for name, row in measured.items():
        fields = explained[name]["fields"]
        assert row["status"] == explained[name]["status"]
        assert row["decided_by"].items() <= {key: field["decided_by"] for key, field in fields.items()}.items()
        if row["status"] == "quantized":
            assert row["spec"]["num_bits"] == fields["num_bits"]["value"]


def test_explain_as_a_table(qdq: Qdq, source: Path, recipe: Path) -> None:
    outcome = qdq("recipe", "explain", recipe, source)
    assert (outcome.code, outcome.err) == (0, "")
    (line,) = [line for line in outcome.out.splitlines() if line.startswith(UP)]
    assert re.split(" {2,}", line) == [UP, "int4 g8", "rule 1 (line 6): num_bits, axis, group_size"]
    detail = qdq("recipe", "explain", recipe, source, UP).out
    assert detail.startswith(f"{UP}  F32  12{TIMES}16  int4 g8\nmatched by  rule 1 (line 6)\n")
    (line,) = [line for line in detail.splitlines() if line.startswith("num_bits")]
    assert line.split() == ["num_bits", "4", "rule", "1", "(line", "6)", "[defaults]"]
    assert qdq("recipe", "explain", recipe, source, "re:.*(up|q)_proj.weight").out.count("matched by") == 2


def test_explain_offers_the_nearest_name(qdq: Qdq, source: Path, recipe: Path) -> None:
    outcome = qdq("recipe", "explain", recipe, source, "model.layers.0.mlp.upproj.weight")
    assert outcome.code == 2
    assert f"nearest names: '{UP}'" in outcome.error


def test_explain_reads_headers_only(qdq: Qdq, recipe: Path, tmp_path: Path) -> None:
    """A file whose data is missing altogether would not be opened; a sparse one of terabytes is explained at once."""
    from tests.run.checkpoints import write_sparse

    source = write_sparse(tmp_path / "w.safetensors", (1 << 20, 1 << 20))
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "w"\ngroup_size = 128\n')
    assert "int8 g128" in qdq("recipe", "explain", recipe, source).out


def test_explain_takes_a_preset(qdq: Qdq, source: Path) -> None:
    assert "keep: norm" in qdq("recipe", "explain", "linear-only", source).out


def test_hostile_reasons_are_escaped(qdq: Qdq, source: Path, recipe: Path) -> None:
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "*norm*"\nskip = "a\\u001b[31m\\n::error::x"\n')
    explain = ("recipe", "explain", recipe, source)
    for command in (
        explain,
        (*explain, "*norm*"),
        *((name, source, "--recipe", recipe) for name in ("inspect", "stats")),
    ):
        outcome = qdq(*command)
        assert outcome.code == 0, outcome.err
        assert "\x1b" not in outcome.out
        assert "\n::" not in outcome.out


# qdq recipe show, schema, inspect


def test_show(qdq: Qdq) -> None:
    assert qdq("recipe", "show", "linear-only").out == preset_text("linear-only")
    assert [line.split()[0] for line in qdq("recipe", "show").out.splitlines()] == list(PRESETS)
    outcome = qdq("recipe", "show", "linear_only")
    assert outcome.code == 2
    assert "linear-only" in outcome.error


def test_schema(qdq: Qdq) -> None:
    import tomllib

    schema = json.loads(qdq("recipe", "schema").out)
    jsonschema.Draft202012Validator(schema).validate(tomllib.loads(RECIPE))


def test_inspect_shows_who_decides_and_the_bytes(qdq: Qdq, source: Path, recipe: Path) -> None:
    found = rows(qdq("inspect", source, "--recipe", recipe, "--format", "json").report)
    assert found[UP]["decided_by"]["num_bits"] == "rule 1 (line 6)"
    assert found[UP]["num_quantized_bytes"] == (12 * 16 * 4 + 24 * 16) // 8
    assert found["position_ids"]["num_quantized_bytes"] == found["position_ids"]["num_bytes"] == 64
    table = qdq("inspect", source, "--recipe", recipe).out
    (line,) = [line for line in table.splitlines() if line.startswith(UP)]
    assert line.endswith("rule 1 (line 6)")
    assert "144 B" in line
    assert "decided by" not in qdq("inspect", source).out
    cells = list(csv.DictReader(io.StringIO(qdq("inspect", source, "--recipe", recipe, "--format", "csv").out)))
    assert [row["decided_by"] for row in cells if row["name"] == UP] == ["rule 1 (line 6): num_bits, axis, group_size"]


def test_inspect_reads_the_ranges_of_what_is_skipped_too(qdq: Qdq, source: Path, recipe: Path) -> None:
    found = rows(qdq("inspect", source, "--recipe", recipe, "--data", "--format", "json").report)
    for name, x in TENSORS.items():
        if name == "position_ids":
            assert "input_min" not in found[name]["stats"]
        else:
            wide = x.astype(np.float64)
            assert (found[name]["stats"]["input_min"], found[name]["stats"]["input_max"]) == (wide.min(), wide.max())


@pytest.mark.parametrize(
    "arguments", [("recipe", "explain", "linear-only"), ("recipe", "lint", "linear-only"), ("recipe", "schema")]
)
def test_recipes_need_neither_numpy_nor_numba(source: Path, arguments: tuple[str, ...]) -> None:
    script = (
        "import sys\n"
        "from qdqcli.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "print(code, sorted({'numpy', 'numba', 'ml_dtypes', 'safetensors', 'llvmlite'} & set(sys.modules)))\n"
    )
    paths = () if arguments[1] == "schema" else (str(source),)
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments, *paths],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert process.stdout.splitlines()[-1] == "0 []", process.stdout + process.stderr


def test_recipe_alone_says_what_there_is(qdq: Qdq) -> None:
    outcome = qdq("recipe")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == qdq("recipe", "--help").out


@pytest.mark.parametrize("name", ["lint", "explain", "show", "schema"])
def test_help_of_a_subcommand(qdq: Qdq, name: str) -> None:
    outcome = qdq("recipe", name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: qdq recipe {name} ")


def test_a_recipe_through_a_pipe(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write(text: str) -> None:
        with pipe.open("w") as file:
            file.write(text)

    with ThreadPoolExecutor() as pool:
        pool.submit(write, "[defaults]\nnum_bits = 3\n")
        outcome = qdq("stats", tiny, "--recipe", pipe, "--format", "json")
    assert outcome.report["settings"]["num_bits"] == 3
    with ThreadPoolExecutor() as pool:
        pool.submit(write, "[defaults]\nnum_bitz = 3\n")
        outcome = qdq("stats", tiny, "--recipe", pipe)
    assert f"{pipe}:2: unknown key" in outcome.error
