"""`--ranges FILE`: ranges by tensor, as scalars or one value per channel or group."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from tests.conftest import Qdq
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import read_safetensors, sample, write_safetensors

W = sample((6, 40), "F32", 3)
V = sample((5, 8), "BF16", 4)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "w.safetensors", {"w": W, "v": V})


def per_row(x: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    wide = x.astype(np.float32)
    return wide.min(axis=1) * np.float32(share), wide.max(axis=1) * np.float32(share)


def as_json(path: Path, ranges: dict[str, Any]) -> Path:
    path.write_text(json.dumps({name: {"input_min": low, "input_max": high} for name, (low, high) in ranges.items()}))
    return path


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_each_channel_gets_its_range(qdq: Any, tmp_path: Path, weights: Path, kind: str) -> None:
    ranges = {"w": per_row(W, 0.5), "v": per_row(V, 0.75)}
    if kind == "json":
        file = as_json(tmp_path / "r.json", {k: (lo.tolist(), hi.tolist()) for k, (lo, hi) in ranges.items()})
    else:
        ends = {f"{name}.{end}": value for name, pair in ranges.items()
                for end, value in zip(("input_min", "input_max"), pair, strict=True)}  # fmt: skip
        file = write_safetensors(tmp_path / "r.safetensors", ends)
    out = tmp_path / "out.safetensors"
    result = qdq(
        "run", weights, "-o", out, "--axis", 0, "--ranges", file, "--compute-dtype", "native", "--format", "json"
    )
    assert result.code == 0, result.err
    written = read_safetensors(out)
    for name, x in (("w", W), ("v", V)):
        low, high = (end.astype(x.dtype) for end in ranges[name])
        assert_same_bits(written[name], quantize_and_dequantize_v4(x, low, high, range_given=True, axis=0))
    assert [row["spec"]["range_given"] for row in result.report["tensors"]] == [True, True]
    assert result.report["settings"]["ranges"] == str(file)


def test_values_of_groups_and_blocks_meet(qdq: Any, tmp_path: Path) -> None:
    x = sample((300, 1024), "F32", 5)
    path = write_safetensors(tmp_path / "x.safetensors", {"x": x})
    grouped = x.reshape(-1, 32)
    low, high = grouped.min(axis=1) * np.float32(0.5), grouped.max(axis=1) * np.float32(0.5)
    file = write_safetensors(tmp_path / "r.safetensors", {"x.input_min": low, "x.input_max": high})
    out = tmp_path / "out.safetensors"
    result = qdq("run", path, "-o", out, "--group-size", 32, "--ranges", file, "--max-memory", 1, "--format", "none")
    assert result.code == 0, result.err
    expected = quantize_and_dequantize_v4(grouped, low, high, range_given=True, axis=0).reshape(x.shape)
    assert_same_bits(read_safetensors(out)["x"], expected)


def test_a_scalar_is_for_every_channel(qdq: Any, tmp_path: Path, weights: Path) -> None:
    file = as_json(tmp_path / "r.json", {"w": (-0.5, 0.5), "v": (-0.25, 1)})
    by_file = qdq("stats", weights, "--axis", 0, "--include", "w", "--ranges", file, "--format", "json").report
    by_option = qdq(
        "stats", weights, "--axis", 0, "--include", "w", "--input-min", -0.5, "--input-max", 0.5, "--format", "json"
    ).report
    assert by_file["tensors"] == by_option["tensors"]


def test_16_bit_ends(qdq: Any, tmp_path: Path, weights: Path) -> None:
    ends = {"v.input_min": np.array(-0.5, ml_dtypes.bfloat16), "v.input_max": np.array(0.5, np.float16)}
    file = write_safetensors(tmp_path / "r.safetensors", ends)
    report = qdq("stats", weights, "--include", "v", "--ranges", file, "--format", "json").report
    (row,) = [row for row in report["tensors"] if row["status"] == "quantized"]
    assert row["range"] == {"input_min": -0.5, "input_max": 0.5}


@pytest.mark.parametrize(
    ("ranges", "code", "words"),
    [
        ({"w": (-1, 1)}, 2, ["r.json", "no range for 'v';"]),
        ({"w": (-1, 1), "vv": (-1, 1)}, 2, ["r.json", "no range for 'v'; nearest names: 'vv'"]),
        ({"w": ([-1] * 5, [1] * 5), "v": (-1, 1)}, 2, ["r.json", "'w'", "5 ranges", "6 with", "--axis"]),
        ({"w": (-1, 1), "v": (-1, 1), "vv": (-1, 1)}, 2, ["r.json", "'vv'", "nearest names: 'v'"]),
        ({"w": ([-1, -1, 2, -1, -1, -1], [1] * 6), "v": (-1, 1)}, 3, ["r.json", "'w' channel 2", "2.0"]),
        ({"w": (-1, [1]), "v": (-1, 1)}, 3, ["r.json", "'w'", "shapes"]),
        ({"w": (True, 1), "v": (-1, 1)}, 3, ["r.json", "'w'", "neither a number"]),
    ],
)
def test_ranges_that_do_not_fit(
    qdq: Any, tmp_path: Path, weights: Path, ranges: dict[str, Any], code: int, words: list[str]
) -> None:
    file = as_json(tmp_path / "r.json", ranges)
    result = qdq("run", weights, "-o", tmp_path / "out.safetensors", "--axis", 0, "--ranges", file)
    assert result.code == code
    assert [word for word in words if word not in result.error] == []
    assert not (tmp_path / "out.safetensors").exists()


def test_ranges_that_nothing_uses_are_named(qdq: Any, tmp_path: Path, weights: Path) -> None:
    file = as_json(tmp_path / "r.json", {"w": (-1, 1), "v": (-1, 1), "other": (0, 1)})
    result = qdq("stats", weights, "--exclude", "v", "--ranges", file, "--allow-unmatched", "--format", "none")
    assert result.code == 0
    assert "r.json: ranges for 'other', which no input has" in result.err
    assert "r.json: ranges for 'v' are not used" in result.err


def test_nan_and_missing_files(qdq: Any, tmp_path: Path, weights: Path) -> None:
    ends = {"w.input_min": np.array(np.nan, np.float32), "w.input_max": np.array(1, np.float32)}
    file = write_safetensors(tmp_path / "r.safetensors", ends)
    result = qdq("stats", weights, "--include", "w", "--ranges", file)
    assert (result.code, "'w': input_min is nan" in result.error) == (3, True)
    result = qdq("stats", weights, "--ranges", tmp_path / "none.json")
    assert (result.code, "none.json" in result.error) == (3, True)
    result = qdq("stats", weights, "--ranges", file, "--input-min", 0, "--input-max", 1)
    assert result.code == 2


def test_files_of_other_kinds(qdq: Any, tmp_path: Path, weights: Path) -> None:
    """Each is one line that says where, and exit code 3."""
    cases: list[tuple[str, bytes, str]] = [
        ("r.json", b"[]", "is not a JSON object"),
        ("r.json", b'{"w": 1}', "'w'"),
        ("r.json", b'{"w": {"input_min": 0}}', "'w'"),
        ("r.json", b'{"w": {"input_min": 0, "input_max": 1, "input_mid": 2}}', "'w'"),
        ("r.json", b'{"w": {"input_min": "a", "input_max": 1}}', "input_min of 'w'"),
        ("r.json", b'{"w": {"input_min": [[0]], "input_max": [[1]]}}', "input_min of 'w'"),
        ("r.json", b'{"w": {"input_min": 0, "input_max": NaN}}', "'w': input_max is nan"),
        ("r.json", b'{"w": {"input_min": [0, NaN], "input_max": [1, 2]}}', "'w' channel 1: input_min is nan"),
        ("r.json", b'{"w": {"input_min": [0, 1], "input_max": [Infinity, 2]}}', "'w' channel 0: input_max is inf"),
        ("r.json", b'{"w": {"input_min": 0, "input_max": 1%s}}' % (b"0" * 400), "input_max of 'w'"),
        ("r.json", b'{"w": {"input_min": 0, "input_max": 1}, "w": {"input_min": 0, "input_max": 1}}', "'w' twice"),
        ("r.safetensors", b"12345678", "r.safetensors"),
    ]
    for name, content, words in cases:
        (tmp_path / name).write_bytes(content)
        result = qdq("stats", weights, "--ranges", tmp_path / name)
        assert (result.code, name in result.error, words in result.error) == (3, True, True), (content, result.err)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"w.input_min": np.float32(0)}, "'w' has no input_max"),
        ({"w.input_max": np.float32(0)}, "'w' has no input_min"),
        ({"w.input_min": np.int64(0), "w.input_max": np.int64(1)}, "'w.input_"),
        ({"w": np.float32(0)}, "'w'"),
        ({"w.input_min": np.zeros((6, 1), np.float32), "w.input_max": np.ones((6, 1), np.float32)}, "shapes"),
        ({"w.input_min": np.zeros(6, np.float32), "w.input_max": np.ones(5, np.float32)}, "shapes"),
        ({"w.input_min": np.zeros(6), "w.input_max": np.array([1, 1, 1, np.nan, 1, 1])}, "'w' channel 3"),
    ],
    ids=str,
)
def test_tensors_that_are_no_ranges(
    qdq: Any, tmp_path: Path, weights: Path, tensors: dict[str, Any], words: str
) -> None:
    file = write_safetensors(tmp_path / "r.safetensors", {name: np.asarray(x) for name, x in tensors.items()})
    result = qdq("stats", weights, "--axis", 0, "--ranges", file)
    assert (result.code, "r.safetensors" in result.error, words in result.error) == (3, True, True), result.err


def test_a_folder_is_no_ranges_file(qdq: Any, tmp_path: Path, weights: Path) -> None:
    for name in ("empty.safetensors", "two.safetensors", "r.json"):
        (tmp_path / name).mkdir()
    for shard in ("a", "b"):
        write_safetensors(tmp_path / "two.safetensors" / f"{shard}.safetensors", {f"{shard}.input_min": W})
    for name in ("empty.safetensors", "two.safetensors", "r.json"):
        result = qdq("stats", weights, "--ranges", tmp_path / name)
        assert (result.code, name in result.error) == (3, True), result.err


def test_a_budget_knows_the_ranges_by_their_content(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    ranges, budget = tmp_path / "r.json", tmp_path / "b.toml"
    settings = ("--axis", 0, "--min-ndim", 2)
    assert qdq("calibrate", model, "-o", ranges, *settings).code == 0
    assert qdq("check", model, *settings, "--ranges", ranges, "--write-budget", budget).code == 0
    renamed = ranges.rename(tmp_path / "other.json")
    assert qdq("check", model, *settings, "--ranges", renamed, "--budget", budget).code == 0
    assert qdq("calibrate", model, "-o", ranges, *settings, "--estimator", "mse", "--num-bits", 4).code == 0
    refused = qdq("check", model, *settings, "--ranges", ranges, "--budget", budget)
    assert refused.code == 2
    assert "ranges is sha256:" in refused.error
    by_hand = budget.read_text().splitlines()
    budget.write_text("\n".join('ranges = "r.json"' if line.startswith("ranges") else line for line in by_hand))
    assert qdq("check", model, *settings, "--ranges", ranges, "--budget", budget).code in (0, 1), "a name by hand"
