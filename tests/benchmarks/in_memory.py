"""Kernels on a float32 matrix in memory, on all cores, against a non-temporal copy and a pass for its extremes."""

from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from qdqcli.measure.arrays import fake_quantize_and_measure
from qdqcli.measure.workers import Workers
from qdqcli.op.arrays import aligned, fake_quantize
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.jit.compiler import jit
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.vector import load, store_nontemporal
from qdqcli.op.layout import Layout
from qdqcli.op.params import QuantParams, empty_order_keys, merge_order_keys, ranges_of_order_keys
from qdqcli.op.spec import QuantSpec
from tests.benchmarks.ratios import Table, compare

COLUMNS = 4096
BLOCK = 1 << 20
"""Block of a thread: whole rows."""


@jit
def copy_past_caches(x, y):
    for i in range(0, x.size // VECTOR_SIZE * VECTOR_SIZE, VECTOR_SIZE):
        store_nontemporal(y, i, load(x, i))


class Matrix:
    """Normal values, space for as many, and the work on them, block by block."""

    def __init__(self, rows: int, workers: Workers) -> None:
        self.shape, self.workers = (rows, COLUMNS), workers
        self.x, self.y = (aligned(rows * COLUMNS, np.dtype(np.float32)) for _ in range(2))
        self.x[:] = np.random.default_rng(0).standard_normal(rows * COLUMNS, np.float32) * 0.02
        self.y[:] = 0
        self.blocks = [(start, min(start + BLOCK, self.x.size)) for start in range(0, self.x.size, BLOCK)]

    def over_blocks(self, work: Callable[[int, int], object]) -> list[object]:
        return self.workers.map(lambda block: work(*block), self.blocks)

    def copy(self) -> None:
        self.over_blocks(lambda start, stop: copy_past_caches(self.x[start:stop], self.y[start:stop]))

    def measure(self, spec: QuantSpec) -> tuple[Layout, QuantParams]:
        """Return the layout, and the qparams of the measured ranges."""
        layout = Layout.of(self.shape, spec)
        order_keys = empty_order_keys(layout.num_slices, "F32")

        def part(start: int, stop: int) -> np.ndarray:
            own = empty_order_keys(layout.num_slices, "F32")
            cpu.measure_range(self.x[start:stop], start, stop, layout, 0, own, "F32")
            return own

        for own in self.over_blocks(part):
            merge_order_keys(order_keys, own)
        return layout, cpu.quant_params(ranges_of_order_keys(order_keys, "F32"), spec, layout, 0, "F32")

    def op(self, spec: QuantSpec) -> None:
        """Run the op like the Python API, into existing memory."""
        fake_quantize(self.x, self.y, Layout.of(self.shape, spec), spec, None, "F32")

    def op_and_sums(self, spec: QuantSpec) -> None:
        """Run the op with all statistics like the Python API, into existing memory."""
        layout = Layout.of(self.shape, spec)
        fake_quantize_and_measure(self.x, self.y, layout, spec, None, "F32", self.workers)


def measure_kernels(
    table: Table, rounds: int, rows: int = 4096, of: Callable[[Sequence[float]], float] = median
) -> None:
    tensor, axis0, last, group = QuantSpec(), QuantSpec(axis=0), QuantSpec(axis=1), QuantSpec(group_size=32)
    with Workers() as workers:
        m = Matrix(rows, workers)
        t = compare(
            rounds,
            of,
            copy=m.copy,
            minmax=lambda: m.measure(tensor),
            tensor_op=lambda: m.op(tensor),
            tensor_sums=lambda: m.op_and_sums(tensor),
            axis0_op=lambda: m.op(axis0),
            axis0_sums=lambda: m.op_and_sums(axis0),
            last_op=lambda: m.op(last),
            last_sums=lambda: m.op_and_sums(last),
            group_op=lambda: m.op(group),
            group_sums=lambda: m.op_and_sums(group),
        )
    floor = t["minmax"] + t["copy"]
    table.ratio("float32, op, share of (min/max pass + copy)", floor / t["tensor_op"], 0.95)
    table.ratio("float32, op + statistics, share of (min/max pass + copy)", floor / t["tensor_sums"], 0.95)
    table.ratio("axis 0, op, share of a copy", t["copy"] / t["axis0_op"], 0.85)
    table.ratio("axis 0, op + statistics, share of a copy", t["copy"] / t["axis0_sums"], 0.75)
    table.ratio("last axis, op, share of (min/max pass + copy)", floor / t["last_op"], 0.85)
    table.ratio("last axis, op + statistics, share of (min/max pass + copy)", floor / t["last_sums"], 0.75)
    table.ratio("groups of 32, op, share of a copy", t["copy"] / t["group_op"], 0.7)
    table.ratio("groups of 32, op + statistics, share of a copy", t["copy"] / t["group_sums"])
