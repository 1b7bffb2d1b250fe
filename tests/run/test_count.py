"""Histograms: the counts that NumPy finds, for any settings, threads and blocks."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cli.test_targets import SAMPLES
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

_ = ml_dtypes  # safetensors needs bfloat16 to be known
SETTINGS = [
    (),
    ("--axis", "0", "--min-ndim", "2", "--num-bits", "4"),
    ("--axis", "last", "--compute-dtype", "native", "--min-ndim", "1"),
    ("--group-size", "32", "--min-ndim", "2"),
    ("--input-min", "-0.05", "--input-max", "0.1", "--round-mode", "HALF_UP"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_counts_are_those_of_numpy(qdq: Qdq, tmp_path: Path, settings: tuple[str, ...]) -> None:
    source = tmp_path / "in.safetensors"
    x32, x64 = sample((40, 96), "F32", 1), sample((33, 64), "F64", 2)
    x32[0, 0], x32[5, 5] = np.nan, np.nan
    write_safetensors(source, {"a": x32, "b": x64, "c": sample((6, 32), "BF16", 3), "d": sample((9, 32), "F16", 4)})
    out = tmp_path / "out.safetensors"
    report = qdq("run", source, "-o", out, *settings, "--histograms", "--format", "json").report
    before, after = load_file(source), load_file(out)
    for row in report["tensors"]:
        x, y = (part[row["name"]].astype(np.float64).ravel() for part in (before, after))
        both = np.isfinite(x) & np.isfinite(y)
        x, e = x[both], (y - x)[both]
        for values, found in ((x, row["histograms"]["values"]), (e, row["histograms"]["errors"])):
            low, high, counts = found["low"], found["high"], found["counts"]
            assert sum(counts) == len(values)
            scale = len(counts) / (high - low)
            bins = np.clip(((values - low) * scale).astype(np.int64), 0, len(counts) - 1)
            assert counts == np.bincount(bins, minlength=len(counts)).tolist()


def test_the_same_counts_for_any_threads_and_blocks(qdq: Qdq) -> None:
    outs = {
        qdq("stats", SAMPLES / "tiny-llama", "--axis", "0", "--histograms", "--format", "json", "--threads", threads,
            "--max-memory", memory).out
        for threads, memory in ((1, "256MiB"), (2, "1MiB"), (5, "3MiB"))
    }  # fmt: skip
    assert len(outs) == 1
    assert "histograms" in outs.pop()


def test_they_are_taken_where_a_page_is_written_and_kept_for_later(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    stored, here, there = (tmp_path / name for name in ("r.json", "here.html", "there.html"))
    assert "histograms" not in qdq("stats", tiny, "--format", "json").out
    assert qdq("stats", tiny, "--per-channel", "--report", stored, "--report", here, "--format", "none").code == 0
    assert all("histograms" in row for row in json.loads(stored.read_text())["tensors"] if row["status"] == "quantized")
    assert qdq("render", stored, "--report", there, "--format", "none").code == 0
    assert there.read_bytes() == here.read_bytes()


def test_what_has_no_extremes_has_no_histogram(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {
        "nan": np.full((2, 3), np.nan, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "zero": np.zeros((2, 3)),
    }
    source = write_safetensors(tmp_path / "in.safetensors", tensors)
    rows = {row["name"]: row for row in qdq("stats", source, "--histograms", "--format", "json").report["tensors"]}
    assert "histograms" not in rows["nan"]
    assert "histograms" not in rows["empty"]
    assert rows["zero"]["histograms"]["values"]["counts"][0] == 6
