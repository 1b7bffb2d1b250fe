"""A program that uses Numba for its own functions gets the same code with this package as without."""

import subprocess
import sys

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
import qdqcli.op.search
from qdqcli.op.jit.kernel import compile_image
compile_image("tests.op.small_kernels:double", ("float64[1]", "float64[1]"))
"""


def code_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_numba_compiles_the_functions_of_others_as_before() -> None:
    alone = code_of(OTHERS)
    assert "define" in alone
    assert code_of(KERNEL + OTHERS) == alone
