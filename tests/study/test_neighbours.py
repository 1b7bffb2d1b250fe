"""Layers unlike their neighbours: an outlier is found, a course over the layers is none, nor is scatter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import write_safetensors

ODD = "model.layers.4.mlp.up_proj.weight"


def neighbours(qdq: Qdq, path: Path, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """Diagnose tensors with one peak each, which sets the SQNR."""
    random = np.random.default_rng(3)
    found = {name: random.choice([-1.0, 1.0], (64, 256)) * random.uniform(0.5, 1, (64, 256)) for name in peaks}
    for name, x in found.items():
        x[0, 0] = peaks[name]
    source = write_safetensors(path / "m.safetensors", {name: x.astype("<f4") for name, x in found.items()})
    outcome = qdq("diagnose", source, "-b", 8, "--format", "json", "--report", path / "d.html")
    assert outcome.code == 0, outcome.err
    report: list[dict[str, Any]] = outcome.report["neighbours"]
    return report


def course(**others: float) -> dict[str, float]:
    """Peaks that grow by 1.5 dB a layer, and other tensors."""
    peaks = {f"model.layers.{layer}.mlp.up_proj.weight": 2 * 10 ** (1.5 * layer / 20) for layer in range(9)}
    level = {f"model.layers.{layer}.mlp.down_proj.weight": 4.0 for layer in range(9)}
    return {**peaks, **level, "model.embed.weight": 500.0, **others}


def test_an_outlier_among_layers_is_found_with_its_neighbours(qdq: Qdq, tmp_path: Path) -> None:
    (found,) = neighbours(qdq, tmp_path, course(**{ODD: 40.0}))
    assert found["tensor"] == ODD
    assert found["around_db"] - found["sqnr_db"] == pytest.approx(20, abs=2)  # 40 instead of 4
    assert found["z"] < -3.5
    assert 'class="number warn"' in (tmp_path / "d.html").read_text()
    words = qdq("diagnose", tmp_path / "m.safetensors", "-b", 8).out
    assert f"{ODD}: " in words
    assert " dB below its kind in the layers around (" in words


def test_a_course_over_the_layers_and_too_few_layers_have_no_outlier(qdq: Qdq, tmp_path: Path) -> None:
    assert neighbours(qdq, tmp_path, course()) == []
    few = {f"model.layers.{layer}.up_proj.weight": 40.0 if layer == 2 else 4.0 for layer in range(5)}
    assert neighbours(qdq, tmp_path / "few", few) == []
