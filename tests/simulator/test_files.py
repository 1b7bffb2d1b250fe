"""`qdq --device cuda` on files gives the bytes and the report of `--device cpu`, whichever way a tensor goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.measure import blocks
from tests.conftest import Outcome, Qdq
from tests.run.checkpoints import sample, write_safetensors

ONE_THREAD = ("--threads", 1)
"""The simulator runs one kernel at a time."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tensor of each dtype, awkward values in some, and one that is copied."""
    tensors = {
        dtype: sample(shape, dtype, 70)
        for dtype, shape in (("BF16", (4, 16)), ("F16", (2, 24)), ("F32", (3, 17)), ("F64", (2, 16)))
    }
    tensors["F32"][1, 3], tensors["F32"][2, 5] = np.nan, np.inf
    return write_safetensors(tmp_path / "model.safetensors", tensors | {"ids": np.arange(5)})


def without_device(report: str) -> dict[str, Any]:
    """A JSON report, which names the device that was not the CPU and is otherwise the same."""
    content = json.loads(report)
    assert content.pop("run", None) in ({"device": "CUDA simulator"}, None)
    return content


def both(qdq: Qdq, *arguments: object) -> list[Outcome]:
    outcomes = [qdq(*arguments, "--device", name, *ONE_THREAD) for name in ("cuda", "cpu")]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err
    assert outcomes[0].err == "note: computing on CUDA simulator\n" + outcomes[1].err
    return outcomes


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--axis", "0", "--round-mode", "HALF_UP", "--compute-dtype", "native"),
        ("--axis", "last", "--num-bits", "4"),
        ("--group-size", "8", "--exclude", "F32", "--unsigned-input"),
        ("--group-size", "8", "--exclude", "F32", "--estimator", "percentile", "--percentile", "90"),
        ("--input-min", "-0.5", "--input-max", "0.7", "--per-channel", "--axis", "0"),
    ],
    ids=" ".join,
)
def test_outputs_and_reports_are_those_of_the_cpu(
    qdq: Qdq, model: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    outputs = [tmp_path / f"{name}.safetensors" for name in ("cuda", "cpu")]
    ran = [
        qdq("run", model, "-o", output, *settings, "--format", "json", "--device", name, *ONE_THREAD)
        for output, name in zip(outputs, ("cuda", "cpu"), strict=True)
    ]
    assert [outcome.code for outcome in ran] == [0, 0], ran[0].err
    assert "CUDA simulator" in ran[0].out
    assert without_device(ran[0].out) == json.loads(ran[1].out)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_statistics_alone(qdq: Qdq, model: Path) -> None:
    cuda, cpu = both(qdq, "stats", model, "--axis", 0)
    assert cuda.out.replace("computed on   CUDA simulator\n", "") == cpu.out


def test_patterns_of_large_tensors(qdq: Qdq, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "HISTOGRAM_ELEMENTS", 10)
    cuda, cpu = both(qdq, "stats", model, "--include", "*F16", "--format", "json")
    assert without_device(cuda.out) == json.loads(cpu.out)


def test_gradients(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{name}.safetensors" for name in ("cuda", "cpu")]
    for output, name in zip(outputs, ("cuda", "cpu"), strict=True):
        assert qdq("grad", model, model, "-o", output, "--axis", "last", "--device", name, *ONE_THREAD).code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
