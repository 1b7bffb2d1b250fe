"""Every kernel, loaded from the cache by a process without Numba, gives the bits of Numba's own compiler."""

import os
import subprocess
import sys
from pathlib import Path

from qdqcli.op.jit import cache as kernel_cache


def call_all(tmp_path: Path, *options: str) -> list[str]:
    """With the user's cache, where most kernels are already; with one of this test's own where there is none."""
    variables = {} if kernel_cache.folder() else {"QDQ_CACHE_DIR": str(tmp_path / "cache")}
    process = subprocess.run(
        [sys.executable, "-m", "tests.op.every_kernel", tmp_path, *options],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_every_kernel_has_the_same_bits_when_a_process_without_numba_loads_it(tmp_path: Path) -> None:
    compiled = call_all(tmp_path, "jit")
    assert call_all(tmp_path) == compiled
