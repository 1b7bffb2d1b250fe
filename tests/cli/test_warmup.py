"""`qdq info --warmup` leaves nothing to compile for a later run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "sample_data"


def qdq(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qdqcli", *map(str, arguments)]
    environment = os.environ | {"QDQ_CACHE_DIR": str(cache)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_later_runs_compile_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "kernels"
    result = qdq(cache, "info", "--warmup")
    assert result.returncode == 0, result.stderr
    assert str(cache) in result.stdout
    compiled = sorted(cache.rglob("*.bin"))
    assert compiled
    runs = (
        ["tiny-llama", "--axis", "0", "--min-ndim", "2"],
        ["tiny-llama", "--compute-dtype", "native"],
        ["weights.npy", "--axis", "last"],
        ["weights.npy", "--group-size", "64", "--input-min", "-1", "--input-max", "1"],
        ["activations.npz", "--round-mode", "HALF_UP"],
        ["tiny-llama", "--estimator", "mse", "--axis", "last", "--min-ndim", "2"],
        ["weights.npy", "--estimator", "mse", "--group-size", "64", "--round-mode", "HALF_UP"],
        ["tiny-llama", "--estimator", "percentile", "--percentile", "99", "--axis", "0"],
        ["weights.npy", "--estimator", "percentile", "--axis", "last"],
    )
    for number, (name, *options) in enumerate(runs):
        output = tmp_path / f"{number}{Path(name).suffix}"
        result = qdq(cache, "run", SAMPLES / name, "-o", output, *options, "--format", "none")
        assert result.returncode == 0, result.stderr
    assert sorted(cache.rglob("*.bin")) == compiled


def test_without_a_folder_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = qdq(tmp_path / "file", "info", "--warmup")
    assert (result.returncode, "QDQ_CACHE_DIR" in result.stderr) == (4, True)
