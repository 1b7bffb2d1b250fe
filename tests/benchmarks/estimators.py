"""What the range estimators cost, as multiples of one plain statistics pass, measured side by side in one run.

    python tests/benchmarks/estimators.py [--rounds 7] [--rows 4096]

A float32 matrix in memory with 4096 columns, on all cores: the range and the error sums of the op itself (what `stats`
does with minmax), against choosing the range by each estimator alone. Each is run in turn and compared by medians.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.op import cpu
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, empty_keys, ends_of_keys, merge_keys
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import WholeSlices, estimator
from qdqcli.run.workers import available_threads

BLOCK = 1 << 18
"""Elements that a thread takes at a time: whole rows."""
GOALS = {("mse", "tensor"): 15.0, ("mse", "axis 0"): 40.0, ("percentile", "tensor"): 3.0, ("percentile", "axis 0"): 3.0}


class Matrix:
    """Weights with the tails of real ones, and the work on them."""

    def __init__(self, rows: int, pool: ThreadPoolExecutor) -> None:
        self.shape, self.pool = (rows, 4096), pool
        self.x = np.random.default_rng(0).standard_normal(rows * 4096, np.float32) * np.float32(0.02)
        self.starts = range(0, self.x.size, BLOCK)

    def over_blocks(self, work: Callable[[np.ndarray, int, int], object]) -> list[object]:
        def part(start: int) -> object:
            return work(self.x[start : start + BLOCK], start, min(start + BLOCK, self.x.size))

        return list(self.pool.map(part, self.starts))

    def statistics(self, spec: QuantSpec) -> None:
        """Range and error sums, as `stats` finds them: in two passes, or in one where slices are rows."""
        layout = Layout.of(self.shape, spec)
        none = np.empty(0, np.float32)
        if layout.num_slices > 1:
            self.over_blocks(
                lambda x, start, stop: cpu.requantize_and_sum(
                    x, none, start, start, stop, layout, spec, "F32", keep=False
                )
            )
            return
        keys = empty_keys(1, "F32")

        def measure(x: np.ndarray, start: int, stop: int) -> np.ndarray:
            own = empty_keys(1, "F32")
            cpu.measure_range(x, start, stop, layout, 0, own, "F32")
            return own

        for own in self.over_blocks(measure):
            merge_keys(keys, own)
        params = cpu.quant_params(ends_of_keys(keys, "F32"), spec, layout, 0, "F32")
        self.over_blocks(
            lambda x, start, stop: cpu.quantize_and_sum(x, none, start, start, stop, layout, params, keep=False)
        )

    def estimate(self, spec: QuantSpec) -> Floats:
        layout, chosen = Layout.of(self.shape, spec), estimator(spec.estimator)(spec, "F32")
        if layout.num_slices > 1:
            parts = self.over_blocks(lambda x, start, _: chosen.of_slices(WholeSlices(x=x, start=start, layout=layout)))
            return np.concatenate(parts, axis=1)
        long_slice = chosen.of_long_slice(self.x.size)
        while True:
            self.over_blocks(long_slice.see)
            if long_slice.finish_pass():
                return long_slice.ends()


def compare(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, run in turn; the first turn compiles."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            began = perf_counter()
            work()
            if turn:
                times[name].append(perf_counter() - began)
    return {name: median(seconds) for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=4096)
    options = parser.parse_args()
    print(f"{available_threads()} threads, {options.rows} x 4096 float32")
    with ThreadPoolExecutor(available_threads()) as pool:
        matrix = Matrix(options.rows, pool)
        for title, layout in {
            "tensor": QuantSpec(), "axis 0": QuantSpec(axis=0), "groups of 128": QuantSpec(group_size=128)
        }.items():  # fmt: skip
            works: dict[str, Callable[[], object]] = {"statistics": lambda s=layout: matrix.statistics(s)}
            for name, bits, percentile in (
                ("mse", 8, None), ("mse", 4, None), ("percentile", 8, None), ("percentile", 8, 99.0)
            ):  # fmt: skip
                spec = QuantSpec(
                    num_bits=bits, axis=layout.axis, group_size=layout.group_size, estimator=name, percentile=percentile
                )
                label = f"{name}, {bits} bits" if name == "mse" else f"{name} {spec.percentile:g}"
                works[label] = lambda s=spec: matrix.estimate(s)
            seconds = compare(options.rounds, works)
            base = seconds.pop("statistics")
            print(f"{title}: a plain statistics pass takes {base * 1e3:.2f} ms")
            for label, value in seconds.items():
                goal = GOALS.get((label.split(",")[0].split()[0], title))
                text = "" if goal is None else f"goal {goal:g}"
                print(f"  {label:<20} {value * 1e3:8.1f} ms  {value / base:6.1f} x  {text}", flush=True)


if __name__ == "__main__":
    main()
