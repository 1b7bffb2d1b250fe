"""`qdq conventions`: the scale conventions of other libraries beside this op."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from qdqcli.study import conventions as lab
from qdqcli.study.convention import CONVENTIONS
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

NAMES = [convention.name for convention in CONVENTIONS]
TENSORS = {
    "a.weight": sample((24, 64), seed=1),
    "b.weight": sample((8, 128), "BF16", seed=2),
    "odd.weight": sample((4, 33), "F16", seed=3),
    "bias": sample((64,), seed=4),
    "nan.weight": np.full((2, 32), np.nan, np.float32),
    "zero.weight": np.zeros((4, 32), np.float32),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", TENSORS)


def results(qdq: Qdq, *arguments: object) -> list[dict[str, Any]]:
    outcome = qdq("conventions", *arguments, "--format", "json")
    assert outcome.code == 0, outcome.err
    found: list[dict[str, Any]] = outcome.report["results"]
    return found


def test_figures_are_those_of_the_arithmetic(qdq: Qdq, model: Path) -> None:
    by_setting = {result["setting"]["name"]: result for result in results(qdq, model)}
    assert list(by_setting) == ["int4 channel", "int4 g128", "int4 g32"]
    x = TENSORS["a.weight"].reshape(-1, 32)
    rows = {row["name"]: row for row in by_setting["int4 g32"]["tensors"]}
    own = lab.OP.apply(x, 4)
    for convention in CONVENTIONS:
        y = convention.apply(x, 4)
        exact = x.astype(np.float64)
        sqnr_db = 10 * np.log10((exact**2).sum() / ((y - exact) ** 2).sum())
        found = rows["a.weight"]["conventions"][convention.name]
        assert found["sqnr_db"] == pytest.approx(sqnr_db, rel=1e-12)
        assert found["share_different"] == (y != own).mean()
    assert rows["odd.weight"]["status"] == "skipped"
    assert "does not divide" in rows["odd.weight"]["reason"] or "33" in rows["odd.weight"]["reason"]
    assert rows["nan.weight"]["reason"] == lab.NOT_FINITE
    assert rows["bias"]["status"] == "skipped"
    zero = rows["zero.weight"]["conventions"]["full-torch"]
    assert zero == {"sqnr_db": None, "exact": True, "share_different": 0.0}
    gains = {c["name"]: c["mean_gain_db"] for c in by_setting["int4 g32"]["conventions"]}
    assert list(gains) == ["op", *NAMES]
    assert gains["op"] == 0.0
    expected = [rows[name]["conventions"]["gguf-q4_0"]["sqnr_db"] - rows[name]["conventions"]["op"]["sqnr_db"]
                for name in ("a.weight", "b.weight")]  # fmt: skip
    assert gains["gguf-q4_0"] == pytest.approx(np.mean(expected))
    assert "gguf-q4_0" not in {c["name"] for c in by_setting["int4 g128"]["conventions"]}


def test_this_op_has_the_figures_of_stats(qdq: Qdq, model: Path) -> None:
    (result,) = results(qdq, model, "-s", "int8-channel", "--include", "a.weight")
    report = qdq("stats", model, "-s", "int8-channel", "--include", "a.weight", "--format", "json").report
    assert result["conventions"][0]["sqnr_db"] == pytest.approx(report["summary"]["sqnr_db"], abs=1e-5)
    assert result["conventions"][0]["scale"] == "max(max(x) / 127, min(x) / -128)"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A weight of two blocks and a part of a third."""
    x = sample((lab.BLOCK_ELEMENTS // 96, 200), seed=5)
    return write_safetensors(tmp_path / "large.safetensors", {"a.weight": x})


def test_blocks_and_threads_change_nothing(qdq: Qdq, large: Path) -> None:
    one, two = (qdq("conventions", large, "--threads", count, "--format", "json") for count in (1, 2))
    assert one.out == two.out
    found = {c["name"]: c for c in results(qdq, large, "-s", "int4-channel")[0]["conventions"]}
    (x,) = load_file(large).values()
    own = lab.OP.apply(x, 4)
    for convention in (c for c in (lab.OP, *CONVENTIONS) if c.name in found):
        y = convention.apply(x, 4)
        sqnr_db = 10 * np.log10((x.astype(np.float64) ** 2).sum() / ((y - x.astype(np.float64)) ** 2).sum())
        assert found[convention.name]["share_different"] == (y != own).mean()
        assert found[convention.name]["sqnr_db"] == pytest.approx(sqnr_db, rel=1e-12)


def test_a_slice_that_does_not_fit_is_refused_with_the_memory_that_it_needs(qdq: Qdq, large: Path) -> None:
    outcome = qdq("conventions", large, "-s", "int4-tensor", "--max-memory", "1KiB", "--threads", 1)
    assert outcome.code == 2
    assert "'a.weight': 546,000 elements share a scale, for which" in outcome.error


def test_tables_and_what_is_refused(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    report = tmp_path / "conventions.md"
    outcome = qdq("conventions", model, "--report", report)
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines() if "gguf Q4_" in line] == ["gguf-q4_0", "gguf-q4_1"]
    assert "tensors: int4 channel: 4, int4 g128: 1, int4 g32: 3\n" in outcome.out
    assert f"skipped: 1 tensor: {lab.NOT_FINITE}\n" in outcome.out
    assert "skipped: 1 tensor: fewer than 2 dimensions\n" in outcome.out
    nothing = qdq("conventions", model, "--include", "nan.weight", "-s", "int4-g32").out
    assert nothing.startswith("0 tensors\nskipped:")
    assert "| full-torch |" in report.read_text()
    assert f"wrote {report}" in outcome.err
    assert "--scheme uint4-g32: the conventions are of" in qdq("conventions", model, "-s", "uint4-g32").error
    assert "2 to 8 bits" in qdq("conventions", model, "-s", "int16-channel").error
    assert "csv" in qdq("conventions", model, "--format", "csv").error
