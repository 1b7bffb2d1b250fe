"""`qdq diagnose` as a user calls it: gains are those of `qdq stats`, the recipe gives the figures of the last line."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(4)
    rows = random.standard_normal((64, 192))
    rows[5] *= 30
    return {
        "layers.0.rows.weight": rows.astype("<f4"),
        "layers.0.tails.weight": (random.laplace(size=(48, 128)) * 0.5).astype("<f2"),
        "layers.1.plain.weight": random.standard_normal((80, 64)).astype("<f4"),
        "layers.1.relu.weight": np.abs(random.standard_normal((40, 64))).astype("<f4"),
        "layers.1.small.weight": (random.standard_normal((40, 64)) * 1e-3).astype("<f4"),
        "norm.bias": sample((64,), "F32", 1),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model" / "model.safetensors", tensors()).parent


def options_of(spec: dict[str, Any]) -> list[object]:
    granularity = ["-g", spec["group_size"]] if spec["group_size"] else []
    axis = [] if granularity or spec["axis"] == -1 else ["--axis", spec["axis"]]
    percentile = ["--percentile", spec["percentile"]] if spec["estimator"] == "percentile" else []
    return [
        "-b", spec["num_bits"], *granularity, *axis, "--estimator", spec["estimator"], *percentile,
        "--signed-input" if spec["signed_input"] else "--unsigned-input",
        "--narrow-range" if spec["narrow_range"] else "--no-narrow-range",
    ]  # fmt: skip


def rank_of(remedy: dict[str, Any]) -> tuple[bool, float]:
    """Free changes by gain, then others by decibels per added bit."""
    is_paid = remedy["bits_added"] > 0.1
    return is_paid, -remedy["gain_db"] / (remedy["bits_added"] if is_paid else 1)


@pytest.mark.parametrize(
    "given",
    [("-b", 4), ("-s", "int8-channel", "--max-bits-added", 0.6), ("-s", "int3-g32", "--estimator", "percentile")],
    ids=str,
)
def test_every_gain_is_the_difference_of_two_stats_runs(qdq: Qdq, model: Path, given: tuple[object, ...]) -> None:
    report = qdq("diagnose", model, *given, "--all", "--format", "json").report
    plain = [word for word in given if word not in ("--max-bits-added", 0.6)]
    before = {row["name"]: row["stats"] for row in qdq("stats", model, *plain, "--format", "json").report["tensors"]
              if row["status"] == "quantized"}  # fmt: skip
    assert len(report["diagnoses"]) == len(before) == 5
    count = 0
    for found in report["diagnoses"]:
        name = found["tensor"]
        own = before[name]
        assert found["measured_db"] == own["sqnr_db"]
        account = found["accounting"]
        assert found["formula_db"] == account["bits_db"] + account["uniform_db"] - account["peak_db"]
        assert found["formula_db"] + account["rest_db"] == pytest.approx(own["sqnr_db"], abs=1e-9)
        assert len(found["remedies"]) <= 3
        for remedy in [*found["remedies"], *([found["together"]] if found["together"] else [])]:
            words = ("stats", model, "--include", name, *options_of(remedy["spec"]), "--format", "json")
            (row,) = [row for row in qdq(*words).report["tensors"] if row["status"] == "quantized"]
            assert row["spec"] == remedy["spec"]
            assert row["range"] == remedy["range"]
            assert remedy["sqnr_db"] == row["stats"]["sqnr_db"]
            assert remedy["gain_db"] == row["stats"]["sqnr_db"] - own["sqnr_db"]
            assert remedy["bits_added"] == row["stats"]["bits_per_weight"] - own["bits_per_weight"]
            count += 1
        ranks = [rank_of(remedy) for remedy in found["remedies"]]
        assert ranks == sorted(ranks)
        for one, other in permutations(found["remedies"], 2):
            assert other["gain_db"] > one["gain_db"] or other["bits_added"] < one["bits_added"]
        fitting = [r["gain_db"] for r in found["remedies"] if r["bits_added"] <= report["max_bits_added"]]
        assert not fitting or found["together"]["gain_db"] >= max(fitting) - 0.05
    assert count > 8


@pytest.mark.parametrize("added", [0, 0.1, 0.6])
def test_the_recipe_gives_the_figures_of_the_last_line(qdq: Qdq, model: Path, tmp_path: Path, added: float) -> None:
    fix = tmp_path / "fix.toml"
    words = ("-b", 4, "--all", "--max-bits-added", added, "--write-recipe", fix)
    outcome = qdq("diagnose", model, *words, "--format", "json")
    assert outcome.code == 0, outcome.err
    report = outcome.report
    measured = qdq("stats", model, "--recipe", fix, "--format", "json").report
    assert report["after"] == measured["summary"]
    assert report["after"]["sqnr_db"] > report["summary"]["sqnr_db"] + (2 if added else 0.05)
    assert report["after"]["bits_per_weight"] <= report["summary"]["bits_per_weight"] + added
    assert "# 1 tensor, " in fix.read_text()
    specs = {row["name"]: row.get("spec") for row in measured["tensors"]}
    for found in report["diagnoses"]:
        if found["together"] is not None:
            assert specs[found["tensor"]] == found["together"]["spec"]


def test_causes_are_named_with_what_to_do(qdq: Qdq, model: Path) -> None:
    text = qdq("diagnose", model, "-b", 8, "--all").out
    assert "outlier-rows: 1 row sets the range of all rows: row 5 (3" in text
    assert "unused-codes: no element is negative" in text
    assert "--unsigned-input" in text
    assert "plain: behave like Gaussian data of their size" in text
    assert "outlier-rows: 1 tensor, " in text
    last = text.splitlines()[-1]
    assert last.startswith("with the best changes that add at most 0.1 bits to ")
    assert last.endswith(" bits per weight")


def test_the_tensors_are_those_that_hold_the_error_or_that_are_asked_for(qdq: Qdq, model: Path) -> None:
    def names(*arguments: object) -> set[str]:
        found = qdq("diagnose", model, "-b", 4, *arguments, "--format", "json").report["diagnoses"]
        return {diagnosis["tensor"] for diagnosis in found}

    assert names() == {"layers.0.rows.weight"}
    assert len(names("--all")) == 5
    assert len(names("--worst", 2)) == 2
    assert names("--include", "*.1.*") == {name for name in tensors() if ".1." in name}


def test_ragged_groups_become_a_recipe_with_other_settings_beside_them(qdq: Qdq, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    odd = {name: random.standard_normal((64, 200)) for name in "abc"}
    odd["b"] *= np.exp(2 * random.standard_normal(200))
    path = write_safetensors(tmp_path / "odd.safetensors", {name: x.astype("<f4") for name, x in odd.items()})
    fix = tmp_path / "fix.toml"
    words = ("-b", 4, "-g", 128, "--ragged-groups", "--worst", 1, "--max-bits-added", 0.2, "--write-recipe", fix)
    report = qdq("diagnose", path, *words, "--format", "json").report
    (found,) = report["diagnoses"]
    assert found["together"]["settings"] == {
        "axis": 1, "estimator": "mse", "group_size": "none", "ragged_groups": False,
    }  # fmt: skip
    assert qdq("stats", path, "--recipe", fix, "--format", "json").report["summary"] == report["after"]


def test_markdown_has_a_row_per_tensor(qdq: Qdq, model: Path) -> None:
    lines = qdq("diagnose", model, "--all", "--format", "markdown").out.splitlines()
    assert len([line for line in lines if line.startswith("| `layers")]) == 5
    assert any("**outlier-rows**" in line and "`--axis 0`" in line for line in lines)


def test_a_range_that_is_given_gives_way_to_that_of_the_data(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[rules]]\nmatch = "*plain*"\ninput_min = -0.5\ninput_max = 0.5\n')
    words = ("--recipe", tmp_path / "r.toml", "--include", "*plain*", "--write-recipe", tmp_path / "fix.toml")
    report = qdq("diagnose", model, *words, "--format", "json").report
    (found,) = report["diagnoses"]
    assert found["remedies"][0]["settings"]["range"] == "data"
    after = qdq("stats", model, "--recipe", tmp_path / "fix.toml", "--format", "json").report
    assert after["summary"] == report["after"]


def test_squares_beyond_float64_are_no_bug(qdq: Qdq, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    huge = {"a": random.uniform(-1, 1, (8192, 512)) * 1e151, "b": random.standard_normal((8, 128)) * 1e300}
    outcome = qdq("diagnose", write_safetensors(tmp_path / "m.safetensors", huge), "-b", 4, "-g", 128, "--all")
    assert outcome.code == 0
    assert "Warning" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--worst", 3, "--all"), "--worst excludes --all"),
        (("--worst", 0), "0 is not in the range"),
        (("--overwrite",), "add --write-recipe FILE"),
        (("--report", "x.sarif"), "a diagnosis has no sarif form"),
        (("--max-bits-added", -1), "is not in the range"),
        (("--max-bits-added", "nan"), "max_bits_added is nan"),
        (("-g", 48), "--indivisible"),
    ],
)
def test_what_cannot_be_diagnosed_is_a_usage_error(
    qdq: Qdq, model: Path, arguments: tuple[object, ...], words: str
) -> None:
    outcome = qdq("diagnose", model, *arguments)
    assert outcome.code == 2
    assert words in outcome.error


def test_a_recipe_that_exists_is_not_replaced_unasked(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    fix = tmp_path / "fix.toml"
    fix.write_text("mine")
    outcome = qdq("diagnose", model, "--write-recipe", fix, "--overwrite")
    assert outcome.code == 2
    assert fix.read_text() == "mine"
    fix.write_text("")
    assert "pass --overwrite" in qdq("diagnose", model, "--write-recipe", fix).error
    assert qdq("diagnose", model, "--write-recipe", fix, "--overwrite").code == 0
    assert "schema = 1" in fix.read_text()


def test_a_saved_sweep_stands_for_the_first_measurement(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    sweep, asked = tmp_path / "sweep.json", ("diagnose", model, "--scheme", "int4-g32", "--format", "json")
    assert qdq("sweep", model, "-s", "int4-g32", "-s", "int8-channel", "--report", sweep, "--format", "none").code == 0
    outcome = qdq(*asked, "--from", sweep)
    assert outcome.code == 0, outcome.err
    assert "measuring" not in outcome.err
    assert outcome.report == qdq(*asked).report
    for options, words in (
        (("--scheme", "int4-g16"), "has no setting as given; it has int4 g32, int8 channel"),
        (("--scale-bits", 8), "the sweep has --scale-bits 16"),
        (("--exclude", "*plain*"), "has another spec under int4 g32"),
    ):
        outcome = qdq(*asked, "--from", sweep, *options)
        assert outcome.code == 2
        assert words in outcome.error
