"""CPU loops over whole arrays in memory, one part of the array per thread.

Only one thread may enter at a time: otherwise Numba's fallback threading layer aborts the process. `bounds`
(parts + 1) are the first elements of the parts, then the end. Files use our own threads, see `measure/workers.py`.
"""

from numba import prange

from qdqcli.op.cpu import quantize as cpu_quantize
from qdqcli.op.cpu import ranges as cpu_range
from qdqcli.op.cpu.ranges import start_of
from qdqcli.op.jit.cache import kernel
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import smaller
from qdqcli.op.layout import Elements, Steps
from qdqcli.op.params import Qparams


@kernel(parallel=True)
def measure_range(x, bounds, steps, limits, order_keys):
    """Widen `order_keys` (parts, 2, slices), each part its own."""
    for p in prange(bounds.size - 1):
        cpu_range.measure_range(x, Elements(0, bounds[p], bounds[p + 1]), steps, limits, order_keys[p])


@kernel(parallel=True)
def measure_columns(x, bounds, row, limits, order_keys):
    """Widen `order_keys` (parts, 2, row) for slices of one column each."""
    for p in prange(bounds.size - 1):
        cpu_range.measure_columns(x, Elements(0, bounds[p], bounds[p + 1]), row, limits, order_keys[p])


@kernel(parallel=True)
def quantize(x, y, bounds, steps, qparams, op, nontemporal):
    """Quantize with the qparams of all slices; column 0 is element 0."""
    for p in prange(bounds.size - 1):
        cpu_quantize.quantize(x, y, Elements(0, bounds[p], bounds[p + 1]), steps, qparams, op, nontemporal)


@kernel(parallel=True)
def quantize_slices(x, y, bounds, steps, measuring, op, nontemporal):
    """Measure and quantize slices of one run each, a batch at a time: the data crosses the memory bus once.

    `bounds` are slices here, and the scratch buffers in `measuring` are (parts, rows, slices of a batch).
    """
    for p in prange(bounds.size - 1):
        _quantize_part(x, y, bounds[p : p + 2], steps, measuring, op, nontemporal, p)


@inlined
def _quantize_part(x, y, bounds, steps, measuring, op, nontemporal, p):
    batch = measuring.order_keys.shape[2]
    order_keys, ranges = measuring.order_keys[p], measuring.ranges[p]
    qparams = Qparams(measuring.values[p], measuring.flags[p], None, False)
    for first in range(bounds[0], bounds[1], batch):
        last = smaller(first + batch, bounds[1])
        here = Elements(0, start_of(first, steps), start_of(last, steps))
        there = Steps(steps.inner, steps.row, steps.advance, first, steps.end)
        order_keys[0], order_keys[1] = measuring.nothing_lo, measuring.nothing_hi
        cpu_quantize.measure(measuring.bits, here, there, measuring, order_keys, measuring.short_runs)
        cpu_range.decode_order_keys(order_keys, x, 0, batch, ranges)
        cpu_range.make_qparams(ranges, 0, batch, last - first, measuring, False, op.compute_type, qparams)
        cpu_quantize.quantize(x, y, here, there, qparams, op, nontemporal)
