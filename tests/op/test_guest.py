"""A program that uses Numba for its own functions gets the same code with this package as without."""

import subprocess
import sys

import pytest

OTHERS = """
import re
import numba
import numpy as np

@numba.njit
def theirs(x, n):
    total = x.dtype.type(0)
    for i in range(n):
        total += abs(x[i]) * 2 - min(i, 3) if x[i] > 0 else np.floor(x[i] / 3)
    return total

for kind in (np.float32, np.float64):
    theirs(np.ones(3, kind), 3)
for code in theirs.inspect_llvm().values():
    print(re.sub(r"0x[0-9a-f]+|\\d{6,}|B\\d+v\\d+|\\[\\d+ x i8\\]", "NUMBER", code))
"""
KERNEL = """
import qdqcli.op.cpu.quantize
import qdqcli.op.cpu.search
from qdqcli.op.jit.kernel import compile_image
compile_image("tests.op.small_kernels:double", ("float64[1]", "float64[1]"))
"""


DOCUMENTED = """
import qdqcli.op.jit.pipeline
del qdqcli.op.jit.pipeline._linked
"""
SUMS = """
import numpy as np
from qdqcli.op import kernels
from qdqcli.op.cpu.dispatch import terms_of
from qdqcli.op.columns import SUM_COLUMNS
x = np.random.default_rng(0).standard_normal(70_000).astype(np.float32)
y, sums = np.round(x, 1), np.zeros((2, SUM_COLUMNS))
kernels.sum_chunks(x, y, terms_of(x, y), sums)
print(sums.tobytes().hex())
"""


def code_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_numba_compiles_the_functions_of_others_as_before() -> None:
    alone = code_of(OTHERS)
    assert "define" in alone
    assert code_of(KERNEL + OTHERS) == alone


def test_documented_names_of_numba_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = code_of(SUMS)
    monkeypatch.setenv("QDQ_CACHE_DIR", "")
    compiled = code_of(DOCUMENTED + SUMS + "print(qdqcli.op.jit.pipeline.is_reduced)")
    assert compiled == expected + "False\n"
