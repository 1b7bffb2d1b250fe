"""`--axis 0,1` and `channel` in every command: equal to axis 0 of the same bytes under the merged shape."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import read_safetensors, sample, write_safetensors

EXPERTS, DENSE = "layers.0.experts.w", "layers.0.dense.w"


@pytest.fixture
def stacked(tmp_path: Path) -> Path:
    tensors = {EXPERTS: sample((3, 8, 32), "BF16", 1), "layers.0.conv.w": sample((3, 8, 32), "F32", 2),
               DENSE: sample((6, 32), "F32", 3)}  # fmt: skip
    return write_safetensors(tmp_path / "stacked.safetensors", tensors)


@pytest.fixture
def merged(stacked: Path) -> Path:
    tensors = read_safetensors(stacked)
    return write_safetensors(stacked.parent / "merged.safetensors", {EXPERTS: tensors[EXPERTS].reshape(24, 32)})


def figures(report: dict[str, Any], name: str = EXPERTS) -> tuple[Any, ...]:
    row = next(row for row in report["tensors"] if row["name"] == name)
    return row["stats"], row["range"], row.get("channels")


@pytest.mark.parametrize("estimator", ["minmax", "percentile", "mse"])
def test_stats_and_run_are_those_of_the_merged_tensor(
    qdq: Qdq, stacked: Path, merged: Path, tmp_path: Path, estimator: str
) -> None:
    options = ("-b", 4, "--estimator", estimator, "--include", "*experts*", "--format", "json", "--per-channel")
    pair = qdq("run", stacked, "-o", tmp_path / "a.safetensors", "--axis", "0,1", *options)
    rows = qdq("run", merged, "-o", tmp_path / "b.safetensors", "--axis", 0, *options)
    assert pair.code == rows.code == 0, pair.err
    assert figures(pair.report) == figures(rows.report)
    assert next(r for r in pair.report["tensors"] if r["name"] == EXPERTS)["spec"]["axis"] == [0, 1]
    a, b = read_safetensors(tmp_path / "a.safetensors"), read_safetensors(tmp_path / "b.safetensors")
    assert a[EXPERTS].tobytes() == b[EXPERTS].tobytes()
    assert figures(qdq("stats", stacked, "--axis", "0,1", *options).report) == figures(pair.report)


def test_channel_means_the_pair_for_stacked_experts_alone(qdq: Qdq, stacked: Path) -> None:
    report = qdq("stats", stacked, "-s", "int8-channel", "--format", "json").report
    assert {row["name"]: row["spec"]["axis"] for row in report["tensors"]} == {
        EXPERTS: [0, 1], "layers.0.conv.w": 0, DENSE: 0,
    }  # fmt: skip
    assert "int8 axis 0,1" in qdq("stats", stacked, "-s", "int8-channel").out
    indivisible = ("-g", 64, "--indivisible", "channel", "--format", "json")
    found = qdq("stats", stacked, *indivisible).report["tensors"]
    assert found[0]["spec"] == report["tensors"][0]["spec"]


def test_sweep_and_plan_take_it(qdq: Qdq, stacked: Path, tmp_path: Path) -> None:
    options = ("--include", "*experts*", "--format", "json")
    expected = figures(qdq("stats", stacked, "-b", 4, "--axis", "0,1", *options).report)
    swept = qdq("sweep", stacked, "-b", 4, "--axis", "0,0+1", *options).report["results"]
    assert [result["setting"]["name"] for result in swept] == ["int4 axis 0", "int4 axis 0,1"]
    assert figures(swept[1]) == expected != figures(swept[0])
    plan = tmp_path / "plan.toml"
    candidates = ("--candidates", "int4-channel,int8-channel")
    assert qdq("plan", stacked, *candidates, "--avg-bits", 5, "-o", plan, *options).code == 0
    assert 'axis = "0,1"' in plan.read_text()
    assert figures(qdq("stats", stacked, "--recipe", plan, "--format", "json").report) == expected


def test_recipes_ranges_and_budgets_take_it(qdq: Qdq, stacked: Path, merged: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[[rules]]\nmatch = "{EXPERTS}"\nnum_bits = 4\naxis = "0,1"\n')
    by_rule = qdq("stats", stacked, "--recipe", recipe, "--include", "*experts*", "--format", "json").report
    assert figures(by_rule) == figures(qdq("stats", merged, "-b", 4, "--axis", 0, "--format", "json").report)
    assert "0,1" in qdq("recipe", "explain", recipe, stacked, EXPERTS).out
    ranges, options = tmp_path / "ranges.safetensors", ("-b", 4, "--axis", "0,1", "--include", "*experts*")
    assert qdq("calibrate", stacked, "-o", ranges, "--estimator", "mse", *options).code == 0
    assert read_safetensors(ranges)[f"{EXPERTS}.input_min"].shape == (24,)
    given = qdq("stats", stacked, "--ranges", ranges, *options, "--format", "json").report
    assert (
        figures(given)[0]
        == figures(qdq("stats", stacked, "--estimator", "mse", *options, "--format", "json").report)[0]
    )
    budget = tmp_path / "budget.toml"
    assert qdq("check", stacked, *options, "--write-budget", budget, "--headroom", "0.5dB").code == 0
    assert qdq("check", stacked, *options, "--budget", budget).code == 0
    refused = qdq("check", stacked, "-b", 4, "--axis", 0, "--include", "*experts*", "--budget", budget)
    assert refused.code == 2
    assert "axis is 0 and not 0,1" in refused.error
    baseline = tmp_path / "baseline.json"
    assert qdq("stats", stacked, *options, "--report", baseline).code == 0
    assert qdq("render", baseline, "--format", "json").report["tensors"] == qdq(
        "stats", stacked, *options, "--format", "json"
    ).report["tensors"]  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "words"),
    [("0,2", "two neighbouring dimensions"), ("1,0", "in order"), ("0;1", "not none, last"), ("1,2", "has rank 2")],
)
def test_other_pairs_are_refused(qdq: Qdq, stacked: Path, axis: str, words: str) -> None:
    outcome = qdq("stats", stacked, "--axis", axis)
    assert outcome.code == 2
    assert words in outcome.error


def test_a_gradient_takes_a_range_per_pair(qdq: Qdq, stacked: Path, merged: Path, tmp_path: Path) -> None:
    results = []
    for model, axis in ((stacked, "0,1"), (merged, 0)):
        out = tmp_path / f"{model.stem}.grad.safetensors"
        assert qdq("grad", model, model, "-o", out, "--axis", axis, "--include", "*experts*").code == 0
        results.append(read_safetensors(out)[EXPERTS].tobytes())
    assert results[0] == results[1]
