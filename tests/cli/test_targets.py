"""The same report, byte for byte, from kernels compiled for processors without AVX-512, AVX, FMA or F16C."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "sample_data"
SETTINGS = [
    ["--axis", "0", "--min-ndim", "2"],
    ["--num-bits", "4", "--round-mode", "HALF_UP"],
    ["--axis", "last", "--min-ndim", "2", "--compute-dtype", "native"],
    ["--group-size", "32", "--min-ndim", "2", "--unsigned-input"],
    ["--num-bits", "24", "--axis", "0", "--min-ndim", "2"],
    ["--num-bits", "5", "--input-min", "-1e-6", "--input-max", "3e-6"],
]
INPUTS = [SAMPLES / "tiny-llama", SAMPLES / "weights.npy", SAMPLES / "activations.npz"]
PROCESSORS = {"SSE2": ("generic", ""), "AVX2, FMA, F16C": ("haswell", "+avx2,+fma,+f16c")}
"""Title -> LLVM's name of the processor, and what our code may know that it has."""
PROGRAM = """
import json, sys
from qdqcli.cli.main import run
for settings in json.loads(sys.argv[1]):
    assert run(["stats", *settings, "--format", "json"]) == 0
"""

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Elements of all magnitudes: differences of theirs have no exact product, and grids come near their edges."""
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("wide") / "wide.npz"
    arrays = {}
    for dtype, low, high in ((np.float16, -24, 15), (np.float32, -149, 127), (np.float64, -500, 500)):
        exponents = rng.integers(low, high, (9, 1056))
        arrays[np.dtype(dtype).name] = np.ldexp(rng.uniform(-1, 1, exponents.shape), exponents).astype(dtype)
        arrays[f"{np.dtype(dtype).name} even"] = np.ldexp(rng.uniform(-1, 1, (9, 1056)), high).astype(dtype)
        arrays[f"{np.dtype(dtype).name} small"] = np.ldexp(rng.uniform(-1, 1, (9, 1056)), low + 3).astype(dtype)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def here(wide: Path) -> str:
    return reports(wide)


def reports(wide: Path, **environment: str) -> str:
    calls = json.dumps([[str(path) for path in (*INPUTS, wide)] + settings for settings in SETTINGS])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, calls],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_report_is_the_same_on_every_processor(tmp_path: Path, wide: Path, here: str, processor: str) -> None:
    name, features = PROCESSORS[processor]
    kernels = str(tmp_path / "kernels")
    there = reports(wide, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, QDQ_CACHE_DIR=kernels)
    assert here.count('"summary"') == len(SETTINGS)
    assert list((tmp_path / "kernels").rglob("*.bin"))
    assert there == here
