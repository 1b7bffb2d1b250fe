"""Python's sweep, plan and diagnose: the same content as the commands."""

import json
from pathlib import Path
from typing import Any

import pytest

import qdqcli
from qdqcli.errors import OutputError
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = {f"layers.{n}.{kind}<b>.weight": sample((16, 64), "F32", 2 * n + k)
               for n in range(3) for k, kind in enumerate(("up", "down"))}  # fmt: skip
    return write_safetensors(tmp_path / "model" / "model.safetensors", tensors).parent


def without_command(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("settings", "command")}


def test_a_sweep_is_a_mapping_of_reports_and_the_commands_report(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    found = qdqcli.sweep(model, ["int4-g32", "int8-channel"])
    expected = qdq("sweep", model, "-s", "int4-g32", "-s", "int8-channel", "--format", "json").report
    assert found.to_json()["results"] == expected["results"]
    assert list(found) == ["int4 g32", "int8 channel"]
    assert found["int4 g32"].summary == qdqcli.measure(model, scheme="int4-g32").summary
    assert "int8 channel" in str(found)
    assert "<td>int8 channel</td>" in found._repr_html_()
    assert "<b>" not in found._repr_html_()
    assert list(found.front()) == [entry["setting"]["name"] for entry in expected["results"] if not entry["dominated"]]
    found.save(tmp_path / "sweep.json")
    assert json.loads((tmp_path / "sweep.json").read_text())["results"] == expected["results"]
    with pytest.raises(qdqcli.UsageError, match=r"suffix of \.md"):
        found.save(tmp_path / "sweep.xml")
    with pytest.raises(OutputError):
        found.save(tmp_path / "none" / "sweep.md")


def test_a_plan_is_the_commands_plan(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    options = ("--avg-bits", "4.3", "--candidates", "int3,int4,int6,float", "-g", 32, "--min-bits", "*up*=4")
    expected = qdq("plan", model, *options, "-o", tmp_path / "plan.toml", "--format", "json").report
    arguments = {"candidates": ["int3", "int4", "int6", "float"], "group_size": 32, "min_bits": {"*up*": 4}}
    found = qdqcli.plan(model, avg_bits=4.3, **arguments)
    assert without_command(found.to_json()) == without_command(expected)
    found.save(tmp_path / "python.toml")
    ours, theirs = ((tmp_path / name).read_text().splitlines() for name in ("python.toml", "plan.toml"))
    assert ours[1:] == theirs[1:]
    measured = qdqcli.measure(model, recipe=tmp_path / "python.toml")
    assert [row.stats for row in found.report.result.quantized] == [row.stats for row in measured.result.quantized]
    assert "&lt;b&gt;" in found._repr_html_()
    assert "proof" in str(found)
    points = found.frontier(3)
    assert points == sorted(points, key=lambda point: -point[1])
    name = "layers.0.up<b>.weight"
    assert [option["chosen"] for option in found.explain(name)].count(True) == 1
    with pytest.raises(qdqcli.UsageError, match="no planned tensor"):
        found.explain("x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give one of"),
        ({"avg_bits": 4, "max_loss": 1}, "give one of"),
        ({"avg_bits": 1}, "the floor of these candidates"),
        ({"avg_bits": "x"}, "avg_bits is 'x'; it must be a number"),
        ({"avg_bits": "1e-999999999"}, "avg_bits is '1e-999999999'; it must be a number"),
        ({"avg_bits": 4, "candidates": ["nf4"]}, "'nf4' is not a candidate"),
        ({"avg_bits": 4, "candidates": []}, "no candidates"),
        ({"avg_bits": 4, "tie": "some"}, "some: No such file"),
        ({"avg_bits": 4, "importance": {"*": -1}}, "expected a number from 0"),
    ],
)
def test_a_plan_refuses_what_the_command_refuses(model: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(qdqcli.UsageError, match=words):
        qdqcli.plan(model, **({"candidates": ["int3", "int4"], "group_size": 32} | arguments))


def test_a_diagnosis_is_the_commands_diagnosis(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "fix.toml"
    outcome = qdq("diagnose", model, "-s", "int4-g32", "--worst", 2, "--write-recipe", recipe, "--format", "json")
    found = qdqcli.diagnose(model, scheme="int4-g32", worst=2)
    assert without_command(found.to_json()) == without_command(outcome.report)
    assert found.recipe.splitlines()[1:] == recipe.read_text().splitlines()[1:]
    assert found.after.summary == qdqcli.measure(model, recipe=recipe).summary
    assert "&lt;b&gt;" in found._repr_html_()


def test_their_frames_have_the_same_figures(model: Path) -> None:
    pytest.importorskip("pandas")
    swept = qdqcli.sweep(model, ["int4-g32"])
    assert swept.to_pandas().loc["int4 g32", "sqnr_db"] == swept["int4 g32"].summary["sqnr_db"]
    planned = qdqcli.plan(model, avg_bits=5, candidates=["int4", "int6"], group_size=32)
    frame = planned.to_pandas()
    assert len(frame) == 6
    assert set(frame["choice"]) <= {"int4 g32", "int6 g32"}
    assert len(qdqcli.diagnose(model, scheme="int4-g32", worst=1).to_pandas()) >= 1
