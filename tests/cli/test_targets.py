"""The same report, byte for byte, from kernels compiled for processors without AVX-512, AVX or F16C."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "sample_data"
SETTINGS = [
    ["--axis", "0", "--min-ndim", "2"],
    ["--num-bits", "4", "--round-mode", "HALF_UP"],
    ["--axis", "last", "--min-ndim", "2", "--compute-dtype", "native"],
    ["--group-size", "32", "--min-ndim", "2", "--unsigned-input"],
]
INPUTS = [SAMPLES / "tiny-llama", SAMPLES / "weights.npy", SAMPLES / "activations.npz"]
PROGRAM = """
import json, sys
from qdqcli.cli.main import run
for settings in json.loads(sys.argv[1]):
    assert run(["stats", *settings, "--format", "json"]) == 0
"""

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")


def reports(**environment: str) -> str:
    calls = json.dumps([[str(path) for path in INPUTS] + settings for settings in SETTINGS])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, calls],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("processor", ["generic", "haswell"])
def test_a_report_is_the_same_on_every_processor(tmp_path: Path, processor: str) -> None:
    here = reports()
    there = reports(NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="", QDQ_CACHE_DIR=str(tmp_path / "kernels"))
    assert here.count('"summary"') == len(SETTINGS)
    assert list((tmp_path / "kernels").rglob("*.bin"))
    assert there == here
