"""Whole processes: the waiting time of a user who types a command."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.benchmarks.ratios import Table, compare

SAMPLE = Path(__file__).parents[2] / "sample_data" / "tiny-llama"


def qdq(*arguments: object, **environment: str) -> None:
    """Run a process; it keeps bytecode as in any installation, regardless of this process."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "qdqcli", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, env=inherited | environment)


def python_and_numpy() -> None:
    """Run the least process that works on arrays."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", "import numpy"], check=True, env=inherited)


def measure_processes(table: Table, rounds: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, np.random.default_rng(0).standard_normal((15500, 4096), np.float32))
        t = compare(
            rounds,
            cold=lambda: qdq("stats", path, "--format", "none", QDQ_CACHE_DIR=""),
            warm=lambda: qdq("stats", path, "--format", "none"),
            sample=lambda: qdq("stats", SAMPLE, "--format", "none"),
            numpy=python_and_numpy,
            help=lambda: qdq("--help"),
        )
    table.value("process, statistics of 254 MB, kernels compiled, seconds", t["cold"], 1.7)
    table.value("process, statistics of 254 MB, kernels from the cache, seconds", t["warm"], 0.2)
    table.value("process, statistics of the sample, kernels from the cache, seconds", t["sample"], 0.15)
    table.value("process, Python and NumPy alone, seconds", t["numpy"], None)
    table.value("process, --help, seconds", t["help"], 0.06)
