"""How near a CUDA device comes to what its memory allows, as shares measured side by side in one run.

    python tests/benchmarks/cuda.py [--bytes 1GB] [--rounds 9] [--file 2.2GB]

The op and the op with all statistics work on a matrix in device memory, timed by the device's own events, against a
device-to-device copy of the matrix. The floor of the op is one and a half copies: it reads everything for the range,
then reads and writes everything. Last, `qdq stats` on a checkpoint in the page cache, on the device and on the CPU,
each a process of its own. Not run by the tests, and needs no network.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.op.backend import backend
from qdqcli.op.columns import SUM_COLUMNS
from qdqcli.op.cuda import launch
from qdqcli.op.cuda.target import cuda
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.params import FLAG_ROWS, FLOAT_TYPE, QPARAM_ROWS, STORAGE, op_and_codes
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.stats.sums import CHUNK_ELEMENTS
from tests.benchmarks.make_checkpoint import parse_size, temporary_llama

NUMPY = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}
COLUMNS = 4096
SPECS = {"tensor": QuantSpec(), "axis 0": QuantSpec(axis=0), "last axis": QuantSpec(axis=1)}
GOAL = 0.8
"""Goal: share of the floor, per tensor and along axis 0."""
COPIES_OF_FLOOR = 1.5


class Matrix:
    """A matrix on the device, space for the result, and the work on it."""

    def __init__(self, dtype: str, nbytes: int) -> None:
        rows = nbytes // (COLUMNS * np.dtype(NUMPY[dtype]).itemsize)
        self.dtype, self.shape = dtype, (rows, COLUMNS)
        host = np.resize(np.random.default_rng(0).standard_normal(1_000_003, np.float32), rows * COLUMNS)
        self.x = cuda.to_device(host.astype(NUMPY[dtype]).view(STORAGE[dtype]))
        self.y = cuda.device_array_like(self.x)
        self.stream = cuda.stream()
        self.sums = cuda.device_array((-(-self.x.size // CHUNK_ELEMENTS), SUM_COLUMNS), np.float64)

    def copy(self) -> None:
        self.y.copy_to_device(self.x, self.stream)

    def op(self, spec: QuantSpec, *, statistics: bool) -> Callable[[], None]:
        """Return the launches of the op into existing memory."""
        layout, number = Layout.of(self.shape, spec), FLOAT_TYPE[self.dtype]
        slices, size = layout.num_slices, self.x.size
        order_keys = cuda.device_array((2, slices), launch.KEY[self.dtype])
        ranges, qparams = (cuda.device_array((rows, slices), number) for rows in (2, QPARAM_ROWS))
        flags = cuda.device_array((FLAG_ROWS, slices), np.bool_)
        elements, filled = Elements(0, 0, size), launch.device_qparams(qparams, flags)
        op, codes = op_and_codes(spec, self.dtype)
        params = launch.DeviceParams(layout, 0, filled, op)

        def work() -> None:
            launch.measure(self.x, elements, layout, 0, order_keys, self.dtype, self.stream)
            launch.decode_order_keys(order_keys, ranges, self.dtype, self.stream)
            launch.make_qparams(ranges, codes, op, filled, self.stream)
            if statistics:
                launch.quantize_and_sum(self.x, self.y, 0, params, np.float32(0), self.sums, self.stream, keep=True)
            else:
                launch.quantize(self.x, self.y, elements, params, self.stream)

        return work

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Return the device's milliseconds for the launches of `work`."""
        begin, end = cuda.event(), cuda.event()
        begin.record(self.stream)
        work()
        end.record(self.stream)
        end.synchronize()
        return float(cuda.event_elapsed_time(begin, end))


def kernels(nbytes: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Yield rows: work, time, speed in bytes read and written, share of the floor, goal."""
    for dtype in NUMPY:
        matrix = Matrix(dtype, nbytes)
        works = {f"{dtype} copy": matrix.copy}
        for name, spec in SPECS.items():
            # The arithmetic of the command line's default; for float32 it is the op's own.
            settled = QuantSpec(axis=spec.axis, compute_dtype=ComputeDType.FLOAT32)
            works[f"{dtype} {name}, op"] = matrix.op(settled, statistics=False)
            works[f"{dtype} {name}, op and statistics"] = matrix.op(settled, statistics=True)
        times: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            matrix.milliseconds(work)  # compiles
        for _ in range(rounds):
            for name, work in works.items():
                times[name].append(matrix.milliseconds(work))
        copy, size = median(times[f"{dtype} copy"]), matrix.x.nbytes
        yield f"{dtype} copy", f"{copy:.3f} ms", f"{2 * size / copy / 1e6:.0f} GB/s", "", ""
        for name, taken in list(times.items())[1:]:
            goal = f"{GOAL}" if "last" not in name else ""
            share = COPIES_OF_FLOOR * copy / median(taken)
            yield name, f"{median(taken):.3f} ms", f"{3 * size / median(taken) / 1e6:.0f} GB/s", f"{share:.2f}", goal
        del matrix, works


def files(nbytes: int) -> Iterator[tuple[str, ...]]:
    """Yield rows of `qdq stats` from start to end, the better of two runs."""
    with temporary_llama(nbytes) as folder:
        for settings in ((), ("--axis", "0", "--min-ndim", "2")):
            for device in ("cuda", "cpu"):
                command = [sys.executable, "-m", "qdqcli", "stats", folder, *settings, "--format", "none", "--quiet"]
                seconds = min(_seconds([*map(str, command), "--device", device]) for _ in range(2))
                name, speed = " ".join(["stats", *settings, "on", device]), f"{nbytes / seconds / 1e9:.2f} GB/s"
                yield name, f"{seconds:.2f} s", speed, "", ""


def _seconds(command: list[str]) -> float:
    began = perf_counter()
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    return perf_counter() - began


def show(rows: Iterator[tuple[str, ...]]) -> None:
    for row in rows:
        print("{:<36} {:>12} {:>12} {:>6} {:>5}".format(*row), flush=True)


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=parse_size, default=parse_size("1GB"), help="of the matrix")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--file", type=parse_size, default=parse_size("2.2GB"), help="of the checkpoint; 0: none")
    chosen = parser.parse_args(arguments)
    print(f"device: {backend('cuda').name}")
    show(iter([("work", "time", "speed", "share", "goal")]))
    show(kernels(chosen.bytes, chosen.rounds))
    if chosen.file:
        show(files(chosen.file))


if __name__ == "__main__":
    main()
