"""What the range estimators cost, as multiples of one plain statistics pass, measured side by side in one run.

    python tests/benchmarks/estimators.py [--rounds 5] [--rows 4096] [--dtype F32]

A matrix with 4096 columns in a file that the page cache holds, on all cores: what `qdq stats` does for it with minmax,
the range and the error sums of the op itself, against choosing the ranges by each estimator alone. All are run in turn
and compared by the least processor time, which others that use the machine change less.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.measure.estimate import estimate_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.tensors.checkpoint import ShardReader, open_checkpoint
from qdqcli.tensors.tensor import TensorInfo
from tests.benchmarks.ratios import Work, compare
from tests.run.checkpoints import DTYPES, write_safetensors

LAYOUTS = {
    "one range": QuantSpec(),
    "axis 0": QuantSpec(axis=0),
    "axis 1": QuantSpec(axis=1),
    "groups of 128": QuantSpec(group_size=128),
}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "mse, 8 bits": {"estimator": "mse", "num_bits": 8},
    "mse, 4 bits": {"estimator": "mse", "num_bits": 4},
    "percentile 99.99": {"estimator": "percentile", "percentile": 99.99},
    "percentile 99": {"estimator": "percentile", "percentile": 99.0},
}
GOALS = {"one range": (15, 15), "axis 0": (40, 40), "axis 1": (40, 40), "groups of 128": (5, 12)}
"""Goals of mse with 8 and with 4 bits. Those of groups count passes as slow as before the sums in float32."""


class Matrix:
    """A tensor of an open file, and the two kinds of work on it."""

    def __init__(self, info: TensorInfo, reader: ShardReader, workers: Workers) -> None:
        self.info, self.reader, self.workers = info, reader, workers

    def measure(self, spec: QuantSpec) -> object:
        return quantize_tensor(TensorJob(info=self.info, spec=spec, reader=self.reader), self.workers)

    def estimate(self, spec: QuantSpec) -> object:
        return estimate_ranges(spec, self.reader, self.info, layout_of(self.info, spec), self.workers)

    def show(self, title: str, rounds: int) -> None:
        plain = LAYOUTS[title]
        works: dict[str, Work] = {"statistics": partial(self.measure, plain)}
        for label, settings in ESTIMATORS.items():
            works[label] = partial(self.estimate, replace(plain, **settings))
        seconds = compare(rounds, min, process_time, **works)
        base = seconds.pop("statistics")
        print(f"{title}: a plain statistics pass takes {base * 1e3:.2f} ms")
        for label, value in seconds.items():
            goal = dict(zip(ESTIMATORS, (*GOALS[title], 3, 3), strict=True))[label]
            print(f"  {label:<20} {value * 1e3:8.1f} ms  {value / base:6.1f} x  goal {goal}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--dtype", choices=["BF16", "F16", "F32", "F64"], default="F32")
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="Only this one. Repeatable.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        x = np.random.default_rng(0).standard_normal((options.rows, 4096), np.float32) * np.float32(0.02)
        path = write_safetensors(Path(folder) / "x.safetensors", {"x": x.astype(DTYPES[options.dtype])})
        (shard,) = open_checkpoint(path).shards
        (info,) = shard.tensors
        with shard.open() as reader, Workers() as workers:
            print(f"{workers.num_threads} threads, {' x '.join(map(str, info.shape))} {info.dtype.name}")
            for title in options.layout or LAYOUTS:
                Matrix(info, reader, workers).show(title, options.rounds)


if __name__ == "__main__":
    main()
