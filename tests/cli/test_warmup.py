"""`qdq info --warmup` leaves nothing to compile for a later run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qdqcli.op.jit.cache import folder

SAMPLES = Path(__file__).parents[2] / "sample_data"


def qdq(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qdqcli", *map(str, arguments)]
    environment = os.environ | {"QDQ_CACHE_DIR": str(cache)}
    return subprocess.run(command, cwd=SAMPLES, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_later_runs_compile_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "kernels"
    result = qdq(cache, "info", "--warmup")
    assert result.returncode == 0, result.stderr
    assert str(cache) in result.stdout
    compiled = sorted(cache.rglob("*.bin"))
    assert compiled
    output = tmp_path / "weights.npy"  # the name of its tensor, too
    runs = (
        ["run", "tiny-llama", "-o", tmp_path / "rows", "--axis", "0", "--min-ndim", "2"],
        ["run", "tiny-llama", "-o", tmp_path / "native", "--compute-dtype", "native"],
        ["run", "weights.npy", "-o", output, "--axis", "last"],
        ["compare", "weights.npy", output],
        ["run", "weights.npy", "-o", tmp_path / "groups.npy", "--group-size", "64"],
        ["run", "activations.npz", "-o", tmp_path / "output.npz"],
        ["stats", "tiny-llama", "weights.npy", "activations.npz"],
        ["stats", "tiny-llama", "--per-channel", "--axis", "0", "--min-ndim", "2"],
        ["stats", "weights.npy", "--per-channel", "--group-size", "64", "--report", tmp_path / "report.html"],
        ["stats", "weights.npy", "--input-min", "-1", "--input-max", "1"],
        ["stats", "tiny-llama", "--estimator", "mse", "--axis", "0", "--min-ndim", "2"],
        ["stats", "tiny-llama", "--estimator", "mse", "--axis", "last", "--min-ndim", "2"],
        ["run", "weights.npy", "-o", tmp_path / "mse.npy", "--estimator", "mse", "--group-size", "64"],
        ["stats", "tiny-llama", "--estimator", "percentile", "--percentile", "99", "--axis", "0", "--min-ndim", "2"],
        ["stats", "weights.npy", "--estimator", "percentile", "--axis", "last"],
    )
    estimates = (
        ["tiny-llama", "--estimator", "mse", "--axis", "last", "--min-ndim", "2"],
        ["weights.npy", "--estimator", "mse", "--group-size", "64", "--round-mode", "HALF_UP"],
        ["tiny-llama", "--estimator", "percentile", "--percentile", "99", "--axis", "0", "--min-ndim", "2"],
        ["weights.npy", "--estimator", "percentile"],
    )
    runs += tuple(
        ["calibrate", name, "-o", tmp_path / f"{number}.json", *options]
        for number, (name, *options) in enumerate(estimates)
    )
    for command, name, *options in runs:
        result = qdq(cache, command, name, *options, "--format", "none")
        assert result.returncode == 0, result.stderr
        new = {path.name for path in cache.rglob("*.bin")} - {path.name for path in compiled}
        assert not new, (command, name, options)


def test_without_a_folder_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = qdq(tmp_path / "file", "info", "--warmup")
    assert (result.returncode, "QDQ_CACHE_DIR" in result.stderr) == (4, True)


def test_what_only_compiling_needs_is_not_imported_where_kernels_are_there(tmp_path: Path) -> None:
    call = ["-m", "qdqcli", "stats", "weights.npy", "--format", "json"]
    environment = os.environ | ({} if folder() else {"QDQ_CACHE_DIR": str(tmp_path)})

    def run(*arguments: str) -> tuple[str, set[str]]:
        """What a process writes, and the modules that it imports."""
        command = [sys.executable, "-X", "importtime", *arguments]
        done = subprocess.run(command, cwd=SAMPLES, env=environment, capture_output=True, text=True, check=True)
        return done.stdout, {line.split("|")[-1].strip() for line in done.stderr.splitlines()}

    compilers = {"numba", "llvmlite.binding"}
    assert compilers <= run("-c", "import qdqcli.op.jit.compiler")[1]
    first, _ = run(*call)  # compiles what the cache lacks
    again, imported = run(*call)
    assert again == first
    assert not compilers & imported
