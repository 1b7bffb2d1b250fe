"""A child made by `os.fork`, which has none of the threads of its parent."""

import subprocess
import sys

SCRIPT = """
import os, sys
import numpy as np
from qdqcli import quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad
from qdqcli.op.arrays import PARALLEL_ELEMENTS

def work():
    outputs = [quantize_and_dequantize_v4(x, **settings) for x in arrays for settings in SETTINGS]
    return b"".join(y.tobytes() for y in (*outputs, *quantize_and_dequantize_v4_grad(x32, x32, -1.0, 1.0)))

SETTINGS = [{}, {"axis": 0}, {"axis": 1}, {"range_given": True, "input_min": -1.0, "input_max": 1.0}]
x32 = np.random.default_rng(0).standard_normal((2560, 1024)).astype(np.float32)
assert x32.size > PARALLEL_ELEMENTS
arrays = x32, x32.astype(np.float64), x32[:8, :64]
expected = work()
for _ in range(2):  # and a child's child
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if work() != expected:
        os._exit(3)
os._exit(0)
"""


def test_a_forked_child_computes_the_same_bits() -> None:
    process = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
