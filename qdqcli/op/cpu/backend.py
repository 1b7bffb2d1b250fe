"""CPU back end: the functions of `cpu/dispatch.py` on arrays in memory."""

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.cpu import dispatch as cpu


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
    errors = staticmethod(cpu.errors)
    sum_slices = staticmethod(cpu.sum_slices)
    extremes = staticmethod(cpu.extremes)
    differentiate = staticmethod(cpu.differentiate)

    def empty(self, nbytes: int) -> NDArray[np.uint8]:
        return np.empty(nbytes, np.uint8)
