"""The wheel of a release: its first process compiles nothing, and does without Numba."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from qdqcli.op.jit.cache import LEVELS

ROOT = Path(__file__).parents[1]
WITHOUT_NUMBA = ("click", "ml-dtypes", "numpy", "rich", "safetensors", "tomlkit")


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="release wheels are for x86-64")
def test_the_first_process_of_a_release_wheel_needs_no_numba(tmp_path: Path) -> None:
    run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT],
        HATCH_BUILD_HOOK_ENABLE_CUSTOM="1",
    )
    (wheel,) = tmp_path.glob("qdqcli-*-py3-none-manylinux_2_17_x86_64.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    scripts = tmp_path / "empty/bin"
    run([scripts / "pip", "install", "-q", *WITHOUT_NUMBA])
    run([scripts / "pip", "install", "-q", "--no-deps", wheel])
    (objects,) = (tmp_path / "empty").glob("lib/*/site-packages/qdqcli/op/jit/objects")
    numbers = [len(list((objects / level).glob("*.bin"))) for level in LEVELS]
    assert numbers[0] > 100
    assert len(set(numbers)) == 1

    model = ROOT / "sample_data/tiny-llama"
    for settings in ([], ["--axis", "0"], ["--axis", "-1"], ["--group-size", "32"], ["--estimator", "mse"]):
        run([scripts / "qdq", "stats", model, "--format", "none", *settings], QDQ_CACHE_DIR="")


def run(command: list[str | Path], **variables: str) -> None:
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
