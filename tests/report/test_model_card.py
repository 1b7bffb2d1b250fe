"""The model card: front matter, figures by layer, a recipe that can be read again, the command."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from qdqcli.recipe.file import parse_recipe
from qdqcli.report.formatter import formatter
from qdqcli.report.model_card import hub_id
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from tests.conftest import Qdq
from tests.report.samples import GOOD, HOSTILE, run_of

RECIPE = """[defaults]
num_bits = 4
group_size = 2
min_ndim = 0
[[rules]]
match = ["layer.0.*", "re:wide\\\\d*"]
scheme = "int8-tensor"
[[rules]]
match = "embed"
skip = "kept \\"in\\" float"
"""


def card(run: RunResult, options: ReportOptions | None = None) -> str:
    return "".join(formatter("card")(run, options or ReportOptions()))


def front_matter(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/c/hub/models--a.b--c-d_e/snapshots/1234", "a.b/c-d_e"),
        ("hf://org/name@main/model.safetensors", "org/name"),
        ("hf://org/name", "org/name"),
        ("org/name", None),
        ("model", None),
    ],
)
def test_the_id_of_the_base_model(name: str, found: str | None) -> None:
    run = run_of(GOOD, inputs=(name,))
    assert hub_id(run) == found
    assert front_matter(card(run)) == {
        "base_model": found or name.rpartition("/")[2],
        "base_model_relation": "quantized",
        "tags": ["qdq", "simulated-quantization", "int8"],
    }
    given = card(run, ReportOptions(base_model="their/own"))
    assert front_matter(given)["base_model"] == "their/own"
    assert "\n# `own`, int8 axis 0\n" in given


def test_the_front_matter_is_yaml_whatever_the_name() -> None:
    for name in HOSTILE:
        assert set(front_matter(card(run_of(GOOD, inputs=(name,))))) == {"base_model", "base_model_relation", "tags"}


def test_what_the_report_is_on() -> None:
    run = run_of(GOOD)
    assert "Error of the weights of `m.safetensors`, 1 tensor, when quantized to linear" in card(run)
    assert "The weights of `m.safetensors`, 1 tensor, quantized to linear" in card(replace(run, command="run"))
    assert "qdq run m.safetensors --scheme int8-channel -o OUTPUT" in card(replace(run, command="run"))
    assert "Error of the weights against those of `m.safetensors`" in card(replace(run, command="compare"))


def test_a_card_of_a_run_with_a_recipe(qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    arguments = ("--ragged-groups", "--exclude", "scalar", "--report", "r.json")
    assert qdq("run", "model", "-o", "out", "--recipe", recipe, *arguments).code == 0
    outcome = qdq("render", "r.json", "--for", "model-card", "--base-model", "org/model")
    assert (outcome.code, outcome.err) == (0, "")
    assert front_matter(outcome.out)["base_model"] == "org/model"
    assert "| `layer.0` | 2 |" in outcome.out
    assert "qdq run model --recipe" in outcome.out
    (text,) = re.findall(r"```toml\n(.*?)```", outcome.out, re.DOTALL)
    parse_recipe(text, "card")
    again = tmp_path / "again.toml"
    again.write_text(text)
    same = [qdq("stats", model, "--recipe", again, "--format", "json"), qdq("render", "r.json", "--format", "json")]
    first, second = ([(row["name"], row.get("spec")) for row in one.report["tensors"]] for one in same)
    assert first == second
    by_kind = qdq("render", "r.json", "--for", "model-card", "--by", "kind").out
    assert "## Error by kind" in by_kind
    assert "`layer.*.mlp.weight`" in by_kind


def test_the_id_is_asked_for_where_nothing_tells_it(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    assert qdq("stats", tiny, "--report", report).code == 0
    outcome = qdq("render", report, "--for", "model-card")
    assert "--base-model ORG/NAME" in outcome.err
    assert "--for model-card" in qdq("render", report, "--base-model", "a/b").error
    url = qdq("render", report, "--for", "model-card", "--base-model", "https://example.org/a/b")
    assert "--base-model 'https://example.org/a/b': expected the model's id on the hub, ORG/NAME" in url.error
    assert (
        "give --for model-card or --format csv" in qdq("render", report, "--for", "model-card", "--format", "csv").error
    )
