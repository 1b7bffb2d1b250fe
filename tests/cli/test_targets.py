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
ESTIMATING = [
    ["--axis", "0", "--min-ndim", "2", "--estimator", "percentile", "--percentile", "98"],
    ["--axis", "last", "--min-ndim", "2", "--estimator", "percentile", "--percentile", "80"],
    ["--num-bits", "4", "--estimator", "mse", "--compute-dtype", "native"],
    ["--group-size", "32", "--min-ndim", "2", "--num-bits", "4", "--estimator", "mse"],
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


def reports(inputs: list[Path], settings: list[list[str]], **environment: str) -> str:
    calls = json.dumps([[str(path) for path in inputs] + options for options in settings])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, calls],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def there(inputs: list[Path], settings: list[list[str]], processor: str, cache: Path) -> str:
    """The reports from kernels for another processor."""
    name, features = PROCESSORS[processor]
    environment = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "QDQ_CACHE_DIR": str(cache)}
    found = reports(inputs, settings, **environment)
    assert list(cache.rglob("*.bin"))
    assert found.count('"summary"') == len(settings)
    return found


@pytest.mark.parametrize(
    ("processor", "some"),
    [("AVX2, FMA, F16C", slice(3)), pytest.param("SSE2", slice(3, None), marks=pytest.mark.faults)],
)
def test_a_report_is_the_same_on_every_processor(
    tmp_path: Path, wide: Path, processor: str, some: slice, every_fault: bool
) -> None:
    """Kernels take long to compile: half of the settings on each, all of them with --every-fault."""
    inputs, settings = [*INPUTS, wide], SETTINGS if every_fault else SETTINGS[some]
    assert there(inputs, settings, processor, tmp_path / "kernels") == reports(inputs, settings)


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_estimators_choose_the_same_on_every_processor(tmp_path: Path, processor: str) -> None:
    assert there(INPUTS, ESTIMATING, processor, tmp_path / "kernels") == reports(INPUTS, ESTIMATING)
