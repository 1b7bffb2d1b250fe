"""How near qdq comes to what the machine allows, as ratios measured side by side in one run.

    python tests/benchmarks/speed.py [--size 2.2GB] [--rounds 7] [--short]

Kernels work on a float32 matrix in memory, on all cores, against a copy past the caches (what memory allows) and a pass
for minimum and maximum. Files are a llama-like BF16 checkpoint in the page cache, against a bare read and a bare copy
of the same files by as many threads. Each pair is run in turn and compared by medians; `--short` takes small ones for
CI.
"""

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.op import cpu
from qdqcli.op.kernel_cache import kernel
from qdqcli.op.lanes import LANES, load, stream
from qdqcli.op.layout import Layout
from qdqcli.op.params import QuantParams, empty_keys, ends_of_keys, merge_keys
from qdqcli.op.spec import QuantSpec
from qdqcli.run.workers import available_threads
from tests.benchmarks.make_checkpoint import temporary_llama, temporary_small_tensors

Work = Callable[[], object]
BLOCK = 1 << 20
"""Elements that a thread takes at a time."""


@kernel()
def copy_past_caches(x, y):
    for i in range(0, x.size // LANES * LANES, LANES):
        stream(y, i, load(x, i))


def compare(rounds: int, **works: Work) -> dict[str, float]:
    """Median seconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            began = perf_counter()
            work()
            if turn:  # the first one compiles, and touches memory for the first time
                times[name].append(perf_counter() - began)
    return {name: median(seconds) for name, seconds in times.items()}


def aligned(size: int) -> np.ndarray:
    room = np.empty(size + 16, np.float32)
    begin = -room.ctypes.data % 64 // 4
    return room[begin : begin + size]


class Matrix:
    """A float32 matrix and the work of qdq on it, block by block on a pool."""

    def __init__(self, rows: int, columns: int, pool: ThreadPoolExecutor) -> None:
        self.shape, self.pool = (rows, columns), pool
        self.x, self.y = aligned(rows * columns), aligned(rows * columns)
        self.x[:] = np.random.default_rng(0).standard_normal(rows * columns, np.float32) * 0.02
        self.y[:] = 0
        self.blocks = [(start, min(start + BLOCK, self.x.size)) for start in range(0, self.x.size, BLOCK)]

    def over_blocks(self, work: Callable[[int, int], object]) -> list[object]:
        return list(self.pool.map(lambda block: work(*block), self.blocks))

    def copy(self) -> None:
        self.over_blocks(lambda start, stop: copy_past_caches(self.x[start:stop], self.y[start:stop]))

    def measure(self, spec: QuantSpec) -> tuple[Layout, QuantParams]:
        layout = Layout.of(self.shape, spec)
        keys = empty_keys(layout.num_slices, "F32")

        def part(start: int, stop: int) -> np.ndarray:
            own = empty_keys(layout.num_slices, "F32")
            cpu.measure_range(self.x[start:stop], start, stop, layout, 0, own, "F32")
            return own

        for own in self.over_blocks(part):
            merge_keys(keys, own)
        return layout, cpu.quant_params(ends_of_keys(keys, "F32"), spec, layout, 0, "F32")

    def two_passes(self, spec: QuantSpec, *, sums: bool) -> None:
        layout, params = self.measure(spec)

        def part(start: int, stop: int) -> object:
            x, y = self.x[start:stop], self.y[start:stop]
            if sums:
                return cpu.quantize_and_sum(x, y, start, start, stop, layout, params, keep=True)
            return cpu.quantize(x, y, start, start, stop, layout, params)

        self.over_blocks(part)

    def one_pass(self, spec: QuantSpec) -> None:
        layout = Layout.of(self.shape, spec)

        def part(start: int, stop: int) -> object:
            x, y = self.x[start:stop], self.y[start:stop]
            return cpu.requantize_and_sum(x, y, start, start, stop, layout, spec, "F32", keep=True)

        self.over_blocks(part)


def kernels(rounds: int, rows: int) -> None:
    with ThreadPoolExecutor(available_threads()) as pool:
        m = Matrix(rows, 4096, pool)
        tensor, axis0, last, group = QuantSpec(), QuantSpec(axis=0), QuantSpec(axis=1), QuantSpec(group_size=32)
        t = compare(
            rounds,
            copy=m.copy,
            minmax=lambda: m.measure(tensor),
            tensor_op=lambda: m.two_passes(tensor, sums=False),
            tensor_sums=lambda: m.two_passes(tensor, sums=True),
            axis0_sums=lambda: m.one_pass(axis0),
            last_op=lambda: m.two_passes(last, sums=False),
            last_sums=lambda: m.two_passes(last, sums=True),
            group_sums=lambda: m.one_pass(group),
        )
    floor = t["minmax"] + t["copy"]
    say("float32, op, share of min/max pass + copy", floor / t["tensor_op"], 0.95)
    say("float32, op + statistics, share of min/max pass + copy", floor / t["tensor_sums"], 0.95)
    say("axis 0, op + statistics, share of copy", t["copy"] / t["axis0_sums"], 0.75)
    say("last axis, op, share of min/max pass + copy", floor / t["last_op"], 0.85)
    say("last axis, op + statistics, share of min/max pass + copy", floor / t["last_sums"], 0.75)
    say("groups of 32, op + statistics, share of copy", t["copy"] / t["group_sums"], None)


def qdq(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "qdqcli", *map(str, arguments), "--format", "none"], check=True)


def in_process(*arguments: object) -> None:
    from qdqcli.cli.main import run

    if run([*map(str, arguments), "--format", "none"]):
        raise SystemExit("qdq failed")


def bare(files: Sequence[Path], target: Path | None = None) -> None:
    """Read the files, or copy them over existing ones, 1 MiB at a time in as many threads as qdq has."""

    def part(path: Path, begin: int, end: int) -> None:
        buffer = bytearray(1 << 20)
        source = os.open(path, os.O_RDONLY)
        sink = None if target is None else os.open(target / path.name, os.O_WRONLY | os.O_CREAT)
        for offset in range(begin, end, len(buffer)):
            size = os.preadv(source, [buffer], offset)
            if sink is not None:
                os.pwrite(sink, memoryview(buffer)[:size], offset)
        os.close(source)
        if sink is not None:
            os.close(sink)

    threads = available_threads()
    jobs = []
    for path in files:
        cuts = [path.stat().st_size * k // threads for k in range(threads + 1)]
        jobs += [(path, begin, end) for begin, end in pairwise(cuts)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda job: part(*job), jobs))


def files(rounds: int, size: int, num_small: int) -> None:
    with temporary_llama(size, shards=3) as model:
        shards = sorted(model.glob("*.safetensors"))
        t = compare(
            rounds,
            read=lambda: bare(shards),
            stats=lambda: in_process("stats", model),
            axis0=lambda: in_process("stats", model, "--axis", 0, "--min-ndim", 2),
        )
        total = sum(path.stat().st_size for path in shards)
        say("BF16 checkpoint, stats per tensor, share of a bare read", t["read"] / t["stats"], 0.9)
        say("  the same in GB/s", total / 1e9 / t["stats"], 12.0)
        say("BF16 checkpoint, stats with axis 0, share of a bare read", t["read"] / t["axis0"], None)
        say("  the same in GB/s", total / 1e9 / t["axis0"], None)
        say("peak memory of stats on it, MB", peak_of("stats", model), 160)
    with temporary_small_tensors(num_small) as small:
        t = compare(max(rounds // 2, 1), stats=lambda: in_process("stats", small))
        say(f"each of {num_small:,} tensors of 1,024 elements, microseconds", t["stats"] / num_small * 1e6, 10)
        say("peak memory of stats on them, MB", peak_of("stats", small), 160)


def processes(rounds: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, np.random.default_rng(0).standard_normal((15500, 4096), np.float32))

        def cold() -> None:
            environment = os.environ | {"QDQ_CACHE_DIR": ""}
            command = [sys.executable, "-m", "qdqcli", "stats", str(path), "--format", "none"]
            subprocess.run(command, check=True, env=environment)

        t = compare(
            max(rounds // 2, 1),
            cold=cold,
            warm=lambda: qdq("stats", path),
            help=lambda: subprocess.run([sys.executable, "-m", "qdqcli", "--help"], check=True, capture_output=True),
        )
    say("process, statistics of 254 MB, kernels compiled, seconds", t["cold"], 1.0)
    say("process, statistics of 254 MB, kernels from the cache, seconds", t["warm"], 0.3)
    say("process, --help, seconds", t["help"], 0.06)


def peak_of(*arguments: object) -> float:
    """Peak resident memory of a `qdq` process, measured by a small launcher: a child counts what its parent had."""
    launcher = (
        "import os, sys; command = [sys.executable, '-m', 'qdqcli', *sys.argv[1:]];"
        "pid = os.posix_spawn(sys.executable, command, os.environ); print(os.wait4(pid, 0)[2].ru_maxrss)"
    )
    command = [sys.executable, "-c", launcher, *map(str, arguments), "--format", "none"]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return kilobytes * 1024 / 1e6


def say(what: str, value: float, goal: float | None) -> None:
    print(f"{what:<62} {value:9.3g}  {'' if goal is None else f'goal {goal:g}'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="2.2GB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--short", action="store_true", help="small inputs, three rounds")
    options = parser.parse_args()
    from qdqcli.cli.options import parse_size

    short = options.short
    print(f"{available_threads()} threads")
    kernels(3 if short else options.rounds, 1024 if short else 4096)
    files(3 if short else options.rounds, parse_size("200MB" if short else options.size), 2000 if short else 20000)
    processes(2 if short else options.rounds)
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB")


if __name__ == "__main__":
    main()
