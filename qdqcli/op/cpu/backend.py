"""CPU back end: the functions of `cpu/dispatch.py` on arrays in memory."""

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.columns import INPUT_MAX, INPUT_MIN
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.cpu.sums import error_sums
from qdqcli.op.histogram import PatternCounter
from qdqcli.op.params import Stored


class CpuBackend:
    """Numba's CPU target; methods as in `backend.Backend`."""

    name = "cpu"
    takes_batches = True
    measure_range = staticmethod(cpu.measure_range)
    quant_params = staticmethod(cpu.quant_params)
    quantize = staticmethod(cpu.quantize)
    quantize_and_sum = staticmethod(cpu.quantize_and_sum)
    fake_quantize_and_sum = staticmethod(cpu.fake_quantize_and_sum)
    fake_quantize_and_sum_each = staticmethod(cpu.fake_quantize_and_sum_each)
    sum_slices = staticmethod(cpu.sum_slices)
    extremes = staticmethod(cpu.extremes)
    differentiate = staticmethod(cpu.differentiate)
    pattern_counter = staticmethod(PatternCounter)

    def empty(self, nbytes: int) -> NDArray[np.uint8]:
        return np.empty(nbytes, np.uint8)

    def errors(self, x: Stored, y: Stored, dtype: str) -> NDArray[np.float64]:
        sums = error_sums(x, y)
        if x.size:
            sums[0, [INPUT_MIN, INPUT_MAX]] = cpu.extremes(x, dtype)
        return sums
