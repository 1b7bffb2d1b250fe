"""Every kernel, compiled, stored and loaded by a process without Numba, gives the bits of Numba's own compiler."""

import os
import subprocess
import sys
from pathlib import Path


def call_all(tmp_path: Path, cache: Path, *options: str) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.op.every_kernel", tmp_path, *options],
        env=os.environ | {"QDQ_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_every_kernel_has_the_same_bits_when_a_process_without_numba_loads_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    compiled = call_all(tmp_path, cache, "jit")
    assert call_all(tmp_path, cache) == compiled
    num_stored = sum(1 for _ in cache.rglob("*.bin"))
    assert num_stored == len(compiled)
