"""`qdq sweep` as a user calls it."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = {
        "a.weight": sample((8, 64), "F32", 1),
        "b.weight": sample((6, 30), "BF16", 2),
        "bias": sample((6,), "F32", 3),
    }
    return write_safetensors(tmp_path / "model.safetensors", tensors)


def test_every_combination_is_a_row_and_equals_stats(qdq: Qdq, model: Path) -> None:
    report = qdq(
        "sweep", model, "-b", "3..4,8", "--axis", "none,0", "--estimator", "minmax,mse", "--format", "json"
    ).report
    names = [result["setting"]["name"] for result in report["results"]]
    assert len(names) == 12
    assert names[:4] == ["int3 tensor", "int3 tensor mse", "int3 axis 0", "int3 axis 0 mse"]
    expected = qdq("stats", model, "-b", 4, "--axis", 0, "--estimator", "mse", "--format", "json").report
    found = next(result for result in report["results"] if result["setting"]["name"] == "int4 axis 0 mse")
    assert found["summary"] == expected["summary"]
    assert found["tensors"] == expected["tensors"]


def test_without_lists_it_takes_the_ladder_that_people_publish(qdq: Qdq, model: Path) -> None:
    outcome = qdq("sweep", model)
    assert outcome.code == 0
    assert outcome.out.splitlines()[2].split()[:2] == ["int8", "channel"]
    assert "int4 g32 mse" in outcome.out
    assert "a shape forbids some" in outcome.out


def test_a_cell_that_a_shape_forbids_has_its_reason(qdq: Qdq, model: Path) -> None:
    report = qdq("sweep", model, "-s", "int4-g64", "--format", "json").report
    (result,) = report["results"]
    reasons = {row["name"]: row.get("reason") for row in result["tensors"]}
    assert reasons["a.weight"] is None
    assert "does not divide" in reasons["b.weight"]


def test_a_row_per_tensor_shows_each_setting(qdq: Qdq, model: Path) -> None:
    lines = qdq("sweep", model, "-b", "4,8", "--by", "tensor").out.splitlines()
    assert lines[0].split() == ["tensor", "int4", "tensor", "int8", "tensor"]
    assert [line.split()[0] for line in lines[2:4]] == ["a.weight", "b.weight"]


def test_pareto_leaves_out_dominated_settings(qdq: Qdq, model: Path) -> None:
    command = ("sweep", model, "-b", 4, "--axis", 0, "--estimator", "minmax,mse")
    assert "dominated" in qdq(*command).out
    (result,) = qdq(*command, "--pareto", "--format", "json").report["results"]
    assert result["setting"]["estimator"] == "mse"


def test_every_format_can_be_written(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"sweep{suffix}" for suffix in (".json", ".jsonl", ".csv", ".md", ".html")]
    assert qdq("sweep", model, "-b", "3,4", *(word for file in files for word in ("--report", file))).code == 0
    assert json.loads(files[0].read_text())["command"] == "sweep"
    assert len([json.loads(line) for line in files[1].read_text().splitlines()]) == 3
    rows = list(csv.DictReader(io.StringIO(files[2].read_text())))
    assert {(row["setting"], row["name"]) for row in rows} >= {("int3 tensor", "a.weight"), ("int4 tensor", "bias")}
    assert files[3].read_text().startswith("| setting |")
    page = files[4].read_text()
    assert "<svg" in page
    assert "qdq sweep" in page
    assert "--scheme int3-tensor --scheme int4-tensor" in page
    assert '"title":"int3 tensor"' in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-b", "four"), "is not a number of bits"),
        (("-b", "8..2"), "holds nothing"),
        (("-b", "1..999999999"), "is not a number of bits"),
        (("-b", "-1"), "is not a number of bits"),
        (("-g", "32,0"), "is not a list of group sizes"),
        (("--estimator", "median"), "is not one of minmax"),
        (("--percentile", "99"), "needs --estimator percentile"),
        (("--report", "x.sarif"), "a sweep has no sarif form"),
        (("--include", "nothing*"), "nothing*"),
        (("--axis", "7"), "nothing to quantize"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(qdq: Qdq, model: Path, arguments: tuple[str, ...], words: str) -> None:
    outcome = qdq("sweep", model, *arguments)
    assert outcome.code == 2
    assert words in outcome.error


def test_rules_of_a_recipe_hold_under_every_setting(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[rules]]\nmatch = "a.*"\nnum_bits = 6\n')
    report = qdq("sweep", model, "-b", "3,4", "--recipe", tmp_path / "recipe.toml", "--format", "json").report
    bits = [
        [row["spec"]["num_bits"] for row in r["tensors"] if row["status"] == "quantized"] for r in report["results"]
    ]
    assert bits == [[6, 3], [6, 4]]


def test_what_no_setting_fits_is_counted_by_tensor(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("sweep", tiny, "-b", "3,4", "-g", "1000,999")
    assert outcome.code == 2
    assert "4 tensors: group_size 1000 does not divide the last dimension" in outcome.error
