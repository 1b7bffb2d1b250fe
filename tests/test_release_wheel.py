"""The wheel of a release: its first process compiles nothing, and does without Numba.

It is built, which takes minutes, or found in the folder that the environment variable QDQ_RELEASE_WHEELS names.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from qdqcli.op.jit.cache import LEVELS

ROOT = Path(__file__).parents[1]
WITHOUT_NUMBA = ("click", "ml-dtypes", "numpy", "rich", "safetensors", "tomlkit")
LARGEST_BYTES = 10 << 20


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="release wheels are for x86-64")
def test_the_first_process_of_a_release_wheel_needs_no_numba(tmp_path: Path) -> None:
    wheels = Path(os.environ.get("QDQ_RELEASE_WHEELS") or tmp_path).resolve()
    if wheels == tmp_path:
        build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
        run(build, HATCH_BUILD_HOOK_ENABLE_CUSTOM="1")
    (wheel,) = wheels.glob("qdqcli-*-py3-none-manylinux_2_17_x86_64.whl")
    assert wheel.stat().st_size < LARGEST_BYTES
    venv.create(tmp_path / "empty", with_pip=True)
    scripts = tmp_path / "empty/bin"
    run([scripts / "pip", "install", "-q", *WITHOUT_NUMBA])
    run([scripts / "pip", "install", "-q", "--no-deps", wheel])
    (objects,) = (tmp_path / "empty").glob("lib/*/site-packages/qdqcli/op/jit/objects")
    numbers = [len(list((objects / level).glob("*.bin"))) for level in LEVELS]
    assert numbers[0] > 100
    assert len(set(numbers)) == 1

    model = ROOT / "sample_data/tiny-llama"
    command = [scripts / "qdq", "stats", model, "--format", "none"]
    for settings in ([], ["--axis", "0"], ["--axis", "last"], ["--group-size", "32"], ["--estimator", "mse"]):
        run([*command, *settings], QDQ_CACHE_DIR="")
    missing = subprocess.run([*command, "--round-mode", "HALF_UP"], capture_output=True, text=True, check=False)
    assert missing.returncode == 5
    assert "pip install numba" in missing.stderr


def run(command: list[str | Path], **variables: str) -> None:
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
