"""`qdq calibrate`: ranges that `--ranges` takes back, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import Qdq
from tests.run.checkpoints import DTYPES, pipeline, read_safetensors, sample, write_safetensors

LAYOUTS: list[list[Any]] = [[], ["--axis", 0], ["--axis", "last"], ["--group-size", 7, "--ragged-groups"]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """All dtypes, with elements that are not finite, slices without any that is, and no elements at all."""
    tensors = {dtype: sample((30, 40), dtype, 31) for dtype in ("BF16", "F16", "F32", "F64")}
    for x in tensors.values():
        x[0, 0], x[2] = np.nan, np.nan
    tensors["empty"] = np.zeros((3, 0), np.float32)
    tensors["hidden"] = np.full((2, 3), np.nan, DTYPES["BF16"])
    tensors["steps"] = np.arange(6).reshape(2, 3)
    return write_safetensors(tmp_path / "w.safetensors", tensors)


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Without what says who gave the range."""
    for row in report["tensors"]:
        for key in ("estimator", "percentile", "range_given"):
            row.get("spec", {}).pop(key, None)
        if row["name"] == "hidden":  # zeros were given where nothing was measured
            del row["range"], row["stats"]["num_degenerate"]
    return report["tensors"]


@pytest.mark.parametrize(("layout", "suffix"), list(zip(LAYOUTS, [".safetensors", ".json"] * 2, strict=True)), ids=str)
@pytest.mark.parametrize(
    "options",
    [
        ["--estimator", "mse", "--num-bits", 3],
        ["--estimator", "mse", "--compute-dtype", "native", "--unsigned-input"],
        ["--estimator", "percentile", "--percentile", 97.5],
        ["--estimator", "minmax", "--narrow-range"],
    ],
    ids=str,
)
def test_the_ranges_give_what_the_estimator_gave(
    qdq: Qdq, weights: Path, tmp_path: Path, options: list[Any], layout: list[Any], suffix: str
) -> None:
    ranges, direct, by_file = tmp_path / f"r{suffix}", tmp_path / "direct.safetensors", tmp_path / "by_file.safetensors"
    assert qdq("calibrate", weights, "-o", ranges, *layout, *options, "--format", "none").code == 0
    expected = qdq("run", weights, "-o", direct, *layout, *options, "--format", "json", "--per-channel")
    settings = [*layout, *(options[2:] if options[2] != "--percentile" else [])]
    got = qdq("run", weights, "-o", by_file, *settings, "--ranges", ranges, "--format", "json", "--per-channel")
    assert (expected.code, got.code) == (0, 0), got.err
    assert rows(got.report) == rows(expected.report)
    assert by_file.read_bytes() == direct.read_bytes()


def test_the_file_is_what_others_read(qdq: Qdq, weights: Path, tmp_path: Path) -> None:
    file, text = tmp_path / "r.SAFETENSORS", tmp_path / "r.json"
    options = ("--axis", 0, "--estimator", "percentile", "--percentile", 90, "--include", "F*")
    for path in (file, text):
        assert qdq("calibrate", weights, "-o", path, *options).code == 0
    stored, listed = load_file(file), json.loads(text.read_text())
    x = read_safetensors(weights)
    assert set(stored) == {f"{name}.{end}" for name in ("F16", "F32", "F64") for end in ("input_min", "input_max")}
    for name in ("F16", "F32", "F64"):
        upper = np.sort(x[name], axis=1)  # NaN last
        rank = [math.ceil(0.9 * count) for count in np.isfinite(x[name]).sum(axis=1)]
        want = [float(row[k - 1]) if k else 0.0 for row, k in zip(upper, rank, strict=True)]
        assert stored[f"{name}.input_max"].tolist() == want
        assert stored[f"{name}.input_max"].dtype == (np.float64 if name == "F64" else np.float32)
        assert listed[name]["input_max"] == want
        assert listed[name]["input_min"] == stored[f"{name}.input_min"].tolist()


def test_threads_and_memory_change_no_byte(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {f"t{k}": sample((50, 64), "F32", k) for k in range(70)} | {"large": sample((900, 300), "F32", 99)}
    path = write_safetensors(tmp_path / "w.safetensors", tensors)
    made = []
    for threads, memory in ((1, "256MiB"), (5, "100kB")):
        made.append(tmp_path / f"r{threads}.safetensors")
        options = (
            "--axis",
            "last",
            "--num-bits",
            4,
            "--estimator",
            "mse",
            "--threads",
            threads,
            "--max-memory",
            memory,
        )
        assert qdq("calibrate", path, "-o", made[-1], *options).code == 0
    assert made[0].read_bytes() == made[1].read_bytes()


def test_the_report_has_the_union_of_the_ranges(qdq: Qdq, weights: Path, tmp_path: Path) -> None:
    ranges, report = tmp_path / "r.safetensors", tmp_path / "r.csv"
    options = ("--axis", 0, "--estimator", "mse", "--num-bits", 4, "--include", "F32", "--report", report)
    got = qdq("calibrate", weights, "-o", ranges, *options, "--format", "json")
    stored = load_file(ranges)
    (row,) = [row for row in got.report["tensors"] if row["status"] == "quantized"]
    assert got.report["command"] == "calibrate"
    assert "r.safetensors has the ranges of 1 tensor, for --ranges" in got.err
    assert (row["spec"]["estimator"], row["num_ranges"]) == ("mse", 30)
    overall_range = {"input_min": stored["F32.input_min"].min(), "input_max": stored["F32.input_max"].max()}
    assert row["range"] == overall_range
    assert f"{float(overall_range['input_min'])},{float(overall_range['input_max'])}" in report.read_text()
    table = qdq("calibrate", weights, "-o", ranges, "--overwrite", *options).out
    assert "highest max" in table
    assert "int4 axis 0 mse      30 " in table


def test_a_given_range_is_clamped_to_where_the_op_alone_would_not(qdq: Qdq, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"x": np.array([-1, 0.5, 1], np.float32)})
    ranges, out = tmp_path / "r.json", tmp_path / "y.safetensors"
    assert qdq("calibrate", path, "-o", ranges, "--unsigned-input").code == 0
    assert qdq("run", path, "-o", out, "--unsigned-input", "--ranges", ranges).code == 0
    assert read_safetensors(out)["x"][0] == 0


def test_what_is_refused(qdq: Qdq, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_safetensors(model / "model.safetensors", {"w": sample((4, 5)), "b": np.array([1, np.inf], np.float32)})
    (tmp_path / "there.json").touch()
    (tmp_path / "folder.json").mkdir()
    cases: list[tuple[list[Any], str]] = [
        ([model, "-o", tmp_path / "r.npz"], ".safetensors or .json"),
        ([model, "-o", tmp_path / "there.json"], "--overwrite"),
        ([model, "-o", tmp_path / "folder.json", "--overwrite"], "is a folder"),
        ([model, "-o", tmp_path / "none" / "r.json"], "there is no folder"),
        ([model, "-o", model / "r.safetensors"], "lies in the input"),
        ([model, "-o", model / "model.safetensors", "--overwrite"], "is a file of the input"),
        ([model, "-o", tmp_path / "r.json", "--min-ndim", 0], "'b' has an infinite range"),
        ([model, "-o", tmp_path / "r.json", "--axis", 0, "--min-ndim", 0], "'b' channel 1 has an infinite range"),
        ([model, model / "model.safetensors", "-o", tmp_path / "r.json"], "two tensors have the name"),
        ([model, "-o", tmp_path / "r.json", "--exclude", "*"], "nothing to quantize"),
        ([model, "-o", tmp_path / "r.json", "--input-min", 1, "--input-max", 2], "--input-min"),
        ([model, "-o", tmp_path / "r.json", "--report", tmp_path / "r.json"], "r.json"),
    ]
    for arguments, words in cases:
        result = qdq("calibrate", *arguments)
        assert (result.code, words in result.error) == (2, True), (arguments, result.err)
    assert not (tmp_path / "r.json").exists()
    assert (tmp_path / "there.json").read_bytes() == b""
    again = ("--overwrite", "--estimator", "mse", "--min-ndim", 0)
    assert qdq("calibrate", model, "-o", tmp_path / "there.json", *again).code == 0
    assert json.loads((tmp_path / "there.json").read_text())["b"]["input_max"] == 1


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_pipeline_has_a_range_for_each_tensor_of_a_name(qdq: Qdq, tmp_path: Path, suffix: str) -> None:
    pipe, ranges = pipeline(tmp_path / "pipe"), tmp_path / f"ranges{suffix}"
    made = qdq("calibrate", pipe, "-o", ranges, "--axis", 0, "--estimator", "mse", "--format", "json")
    assert made.code == 0
    assert len({json.dumps(row["range"]) for row in made.report["tensors"] if row["name"] == "w"}) == 3
    given = qdq("stats", pipe, "--axis", 0, "--ranges", ranges, "--format", "json").report
    estimated = qdq("stats", pipe, "--axis", 0, "--estimator", "mse", "--format", "json").report
    for one, other in zip(given["tensors"], estimated["tensors"], strict=True):
        assert one["file"] == other["file"]
        assert one["stats"] == other["stats"]
        assert one["range"] == other["range"]
    if suffix == ".json":
        assert sorted(json.loads(ranges.read_text())) == [
            "text_encoder.own", "text_encoder/model.safetensors#w", "text_encoder_2.own",
            "text_encoder_2/model.safetensors#w", "unet.own", "unet/model.safetensors#w",
        ]  # fmt: skip


def test_files_of_one_path_in_two_inputs_are_told_apart_by_more_of_it(qdq: Qdq, tmp_path: Path) -> None:
    for number in (1, 2):
        write_safetensors(tmp_path / f"v{number}/model.safetensors", {"w": sample((8, 8), "F32", number)})
    ranges = tmp_path / "ranges.json"
    inputs = [tmp_path / f"v{number}/model.safetensors" for number in (1, 2)]
    assert qdq("calibrate", *inputs, "-o", ranges).code == 0
    assert list(json.loads(ranges.read_text())) == ["v1/model.safetensors#w", "v2/model.safetensors#w"]
    assert qdq("stats", *inputs, "--ranges", ranges).code == 0
    wrong = qdq("stats", inputs[0], "--ranges", ranges)
    assert wrong.code == 2
    assert "ranges for 'v2/model.safetensors#w', which no input has" in wrong.error


def test_a_range_by_name_is_for_all_tensors_of_the_name_that_have_none_of_their_own(qdq: Qdq, tmp_path: Path) -> None:
    pipe, ranges = pipeline(tmp_path / "pipe"), tmp_path / "ranges.json"
    entry = {"input_min": -1, "input_max": 1}
    own = {"input_min": -2, "input_max": 2}
    ranges.write_text(json.dumps({"w": entry, "unet/model.safetensors#w": own}))
    rows = qdq("stats", pipe, "--include", "w", "--ranges", ranges, "--format", "json").report["tensors"]
    found = [row["range"] for row in rows if row["name"] == "w"]
    assert found == [entry, entry, own]
