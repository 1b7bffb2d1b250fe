"""Why the kernels are written with vectors: the same sums in a plain loop, side by side, as ratios.

    python tests/benchmarks/vectors_against_loops.py [--elements N]

Three versions of quantize, dequantize and the five error sums of a float32 tensor in cache-sized blocks: with vectors
(what qdq does), in a plain loop with one accumulator per sum, and in a plain loop that keeps the documented order of
addition. Prints the time of each over that with vectors, the median of rounds in turn.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.op.columns import SUM_COLUMNS
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.jit.compiler import jit
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.layout import Layout
from qdqcli.op.params import SettingsParams, empty_order_keys, ranges_of_order_keys
from qdqcli.op.spec import QuantSpec
from tests.benchmarks.ratios import compare

BLOCK = 65536


@jit
def plain(x, y, scale, inverse, sums):
    e_sum = a_sum = e2_sum = x2_sum = ex_sum = peak = 0.0
    for i in range(x.size):
        y[i] = np.rint(x[i] * scale) * inverse
        v = np.float64(x[i])
        e = np.float64(y[i]) - v
        e_sum += e
        a_sum += abs(e)
        e2_sum += e * e
        x2_sum += v * v
        ex_sum += e * v
        peak = max(peak, abs(e))
    sums[0], sums[1], sums[2], sums[3], sums[4], sums[5] = e_sum, a_sum, e2_sum, x2_sum, ex_sum, peak


@jit
def ordered(x, y, scale, inverse, lanes, sums):
    lanes[:] = 0.0
    peak = 0.0
    for i in range(x.size):
        y[i] = np.rint(x[i] * scale) * inverse
        v = np.float64(x[i])
        e = np.float64(y[i]) - v
        k = i % VECTOR_SIZE
        lanes[0, k] += e
        lanes[1, k] += abs(e)
        lanes[2, k] += e * e
        lanes[3, k] += v * v
        lanes[4, k] += e * v
        peak = max(peak, abs(e))
    for k in range(5):
        sums[k] = lanes[k].sum()
    sums[5] = peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--elements", type=int, default=1 << 22)
    size = parser.parse_args().elements // BLOCK * BLOCK
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    y = np.empty_like(x)
    layout = Layout.of(x.shape, QuantSpec())
    order_keys = empty_order_keys(1, "F32")
    cpu.measure_range(x, 0, size, layout, 0, order_keys, "F32")
    params = cpu.quant_params(ranges_of_order_keys(order_keys, "F32"), QuantSpec(), layout, 0, "F32")
    settings, scale, inverse = SettingsParams(each=[params]), params.qparams[2, 0], params.qparams[3, 0]
    sums, lanes = np.empty(SUM_COLUMNS), np.empty((5, VECTOR_SIZE))
    blocks = [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]

    def in_vectors() -> None:
        for block in blocks:
            cpu.quantize_and_sum(x[block], y[block], block.start, block.start, block.stop, layout, settings, keep=True)

    def in_a_loop() -> None:
        for block in blocks:
            plain(x[block], y[block], scale, inverse, sums)

    def in_an_ordered_loop() -> None:
        for block in blocks:
            ordered(x[block], y[block], scale, inverse, lanes, sums)

    versions = {"vectors": in_vectors, "plain loop": in_a_loop, "loop in the documented order": in_an_ordered_loop}
    times = compare(8, **versions)
    for name, seconds in times.items():
        print(f"{name:<30} {seconds / times['vectors']:5.2f} x, {seconds / size * 1e9:.3f} ns/element")


if __name__ == "__main__":
    main()
