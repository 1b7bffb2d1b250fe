"""What the processor allows at most, beside what qdq's kernels reach: hand-written C for the same work, in one run.

    python tests/benchmarks/limits.py [--rounds 100]

`limits.c` is compiled with `cc -O3 -march=native` into a temporary folder; without a C compiler, or on a processor
without AVX-512, nothing is measured and the exit code is 1. Every time is the least of many short rounds, each work in
turn. Sums and counts of both must be the same to the last bit. Not run by CI.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, c_float, c_int, c_long, c_void_p
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.measure.workers import Workers
from qdqcli.op.arguments import AHEAD, Loop
from qdqcli.op.columns import MAX_ABS_ERROR, NUM_SUMS, ZEROED, empty_sums
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.cpu import histograms as cpu_patterns
from qdqcli.op.cpu import quantize as cpu_quantize
from qdqcli.op.jit.compiler import jit
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.params import (
    INVERSE_SCALE,
    SCALE,
    QuantParams,
    SettingsParams,
    empty_order_keys,
    ranges_of_order_keys,
)
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.op.threads import available_threads
from qdqcli.stats.sums import CHUNK_ELEMENTS as CHUNK
from tests.benchmarks.in_memory import Matrix
from tests.benchmarks.ratios import Work, compare, machine

Array = NDArray[Any]
NEEDED = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vpopcntdq", "fma"}
NOWHERE, CACHED, PAST_THE_CACHES = range(3)
NONE, FIRST, LAST = range(3)
SPECS = {NONE: QuantSpec(), FIRST: QuantSpec(axis=0), LAST: QuantSpec(axis=1)}
SUMS = [*range(NUM_SUMS), MAX_ABS_ERROR, ZEROED]
"""The columns that limits.c fills, in its order."""
AGAIN = 16
"""Repetitions of cached work in one call, to hide the cost of the call."""
FILE_BYTES, PART_BYTES = 256 << 20, 32 << 20
"""Bytes of a file in the page cache, and of its part per round, so that the processor's caches do not hold it."""
STRIDES = (256 << 10, 1 << 20, 4 << 20)
NO_PATTERNS = np.empty(0, np.uint16)


@jit
def sum_again(loop: Any, steps: Any, qparams: Any, sums: Any) -> None:
    elements = Elements(0, 0, loop.x.size)
    for _ in range(AGAIN):
        cpu_quantize.quantize_and_sum(loop, elements, steps, qparams, sums)  # type: ignore[no-untyped-call]


@jit
def count_again(words: Any, tables: Any) -> None:
    for _ in range(AGAIN):
        cpu_patterns.count_in_tables(words, tables)  # type: ignore[no-untyped-call]


def processor() -> dict[str, str]:
    """Return the system's facts on the first processor."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0] if path.exists() else ""
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def compiled(folder: str) -> CDLL:
    """Compile and load limits.c."""
    if missing := sorted(NEEDED - set(processor().get("flags", "").split())):
        raise SystemExit(f"limits.c is written for AVX-512; this processor has no {', '.join(missing)}")
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("there is no C compiler: the command cc was not found")
    source, library = Path(__file__).with_suffix(".c"), Path(folder) / "limits.so"
    subprocess.run(
        [compiler, "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", source, "-o", library], check=True
    )
    lib = CDLL(str(library))
    at, long, integer = c_void_p, c_long, c_int
    lib.quantize_and_sum.argtypes = [at, at, long, long, integer, at, at, integer, at]
    for name in ("count_patterns", "count_in_four", "only_store", "count_by_scatter"):
        getattr(lib, name).argtypes = [at, long, long, at]
    lib.read_file.argtypes = [integer, long, long, at, long, at]
    lib.map_file.argtypes = [integer, long, long, long, at]
    lib.rewrite_file.argtypes = [integer, integer, long, long, at, long, c_float, c_float]
    return lib


def row(what: str, c: float, ours: float | None = None, goal: float | None = None) -> None:
    beside = "" if ours is None else f"{ours:9.3f} {ours / c:6.2f}"
    print(f"{what:<66} {c:9.3f} {beside}{'' if goal is None else f'  goal {goal:g}'}".rstrip(), flush=True)


def must_be_same(what: str, theirs: Array, ours: Array) -> None:
    if not np.array_equal(theirs, ours):
        raise SystemExit(f"{what}: C found {theirs}, qdq {ours}")


def pages(count: int, dtype: Any) -> Array:
    """Return page-aligned zeros: in arrays offset by 64 bytes, loads wait for stores at the same place."""
    nbytes = count * np.dtype(dtype).itemsize
    buffer = np.zeros(nbytes + 4096, np.uint8)
    begin = -buffer.ctypes.data % 4096
    return buffer[begin : begin + nbytes].view(dtype)


def measured(x: Array, dtype: str) -> QuantParams:
    """Return the qparams of one range, in the default arithmetic of the command line."""
    spec = QuantSpec(compute_dtype=ComputeDType.FLOAT32)
    layout, order_keys = Layout.of(x.shape, spec), empty_order_keys(1, dtype)
    cpu.measure_range(x, 0, x.size, layout, 0, order_keys, dtype)
    return cpu.quant_params(ranges_of_order_keys(order_keys, dtype), spec, layout, 0, dtype)


def weights(count: int) -> Array:
    return np.random.default_rng(0).standard_normal(count, np.float32) * np.float32(0.02)


def in_cache(lib: CDLL, rounds: int) -> None:
    """Measure cached work with one range: a float32 chunk with statistics, and patterns of as many BF16 words."""
    x, y, words = pages(CHUNK, np.float32), pages(CHUNK, np.float32), pages(CHUNK, np.uint64)
    x[:], words.view(ml_dtypes.bfloat16)[:] = weights(CHUNK), weights(4 * CHUNK)
    params, sums, theirs = measured(x, "F32"), empty_sums(1), np.zeros((AGAIN, len(SUMS)))
    scales = [params.qparams[k].ctypes.data for k in (SCALE, INVERSE_SCALE)]
    c_sum = partial(lib.quantize_and_sum, x.ctypes.data, y.ctypes.data, AGAIN, 0, NONE, *scales)
    steps, qparams = Layout.of(x.shape, QuantSpec()).steps(), SettingsParams(each=[params]).as_qparams
    qparams = qparams._replace(clipping=np.zeros(1, np.bool_))

    def our_sum(sums: Array, *, keep: bool) -> None:
        sum_again(Loop(x, y, params.op, keep, None, cpu.terms_of(x, x), AHEAD), steps, qparams, sums[None])

    tables, our_tables = np.zeros((4, 1 << 16), np.uint32), np.zeros((2, 1 << 16), np.uint32)
    ways = ("count_patterns", "count_in_four", "count_by_scatter", "only_store")
    counts: dict[str, Work] = {
        way: partial(getattr(lib, way), words.ctypes.data, CHUNK, AGAIN, tables.ctypes.data) for way in ways
    }
    for way in ways[:-1]:
        tables[:], our_tables[:] = 0, 0
        counts[way]()
        count_again(words, our_tables)
        must_be_same(way, tables.sum(axis=0), our_tables.sum(axis=0))
    t = compare(
        rounds,
        min,
        c=partial(c_sum, NOWHERE, theirs.ctypes.data),
        ours=partial(our_sum, sums, keep=False),
        c_writes=partial(c_sum, CACHED, theirs.ctypes.data),
        our_writes=partial(our_sum, sums, keep=True),
        our_count=partial(count_again, words, our_tables),
        **counts,
    )
    must_be_same("sums", theirs[0], sums[0, SUMS])
    t = {name: seconds / AGAIN / CHUNK * 1e9 for name, seconds in t.items()}
    print("from the cache, ns per element and thread")
    row("  float32, one range, op + statistics, nothing written", t["c"], t["ours"])
    row("  the same, written", t["c_writes"], t["our_writes"])
    row("  patterns of BF16, 2 tables", t["count_patterns"] / 4, t["our_count"] / 4)
    row("    4 tables", t["count_in_four"] / 4)
    row("    gather and scatter", t["count_by_scatter"] / 4)
    row("    no counting, only its stores", t["only_store"] / 4)


class CMatrix(Matrix):
    """The matrix of `in_memory.py`, with the work done in C."""

    def __init__(self, rows: int, workers: Workers, lib: CDLL) -> None:
        super().__init__(rows, workers)
        self.lib, self.sums = lib, np.zeros((self.x.size // CHUNK, len(SUMS)))

    def c_pass(self, axis: int, write: int, params: QuantParams | None) -> None:
        """Run one pass over memory; it measures the ranges of rows itself."""
        qparams = None if params is None else params.qparams if params.columns is None else params.columns
        scales = [None if qparams is None else qparams[k].ctypes.data for k in (SCALE, INVERSE_SCALE)]

        def part(start: int, stop: int) -> None:
            x, y, out = (a.ctypes.data for a in (self.x[start:], self.y[start:], self.sums[start // CHUNK :]))
            self.lib.quantize_and_sum(x, y, (stop - start) // CHUNK, CHUNK, axis, *scales, write, out)

        self.over_blocks(part)

    def c_op_and_sums(self, axis: int, write: int) -> None:
        self.c_pass(axis, write, None if axis == FIRST else self.measure(SPECS[axis])[1])

    def sums_of_known_range(self, layout: Layout, params: QuantParams) -> None:
        settings = SettingsParams(each=[params])
        self.over_blocks(
            lambda a, b: cpu.quantize_and_sum(self.x[a:b], self.y[a:b], a, a, b, layout, settings, keep=False)
        )

    def check(self, axis: int) -> None:
        """Compare the sums of all chunks."""
        self.c_op_and_sums(axis, CACHED)
        x, y, size, layout = self.x, self.y, self.x.size, Layout.of(self.shape, SPECS[axis])
        if axis == FIRST:
            found = cpu.fake_quantize_and_sum(x, y, 0, 0, size, layout, [SPECS[axis]], "F32", keep=True)
            ours = found[0].sums if found else empty_sums(0)
        else:
            _, params = self.measure(SPECS[axis])
            (ours,) = cpu.quantize_and_sum(x, y, 0, 0, size, layout, SettingsParams(each=[params]), keep=True)
        must_be_same(f"sums of axis {axis}", self.sums, ours[:, SUMS])


def in_memory(lib: CDLL, rounds: int, threads: int) -> None:
    """Measure a matrix larger than the caches; C with both kinds of store."""
    with Workers(threads) as workers:
        m = CMatrix(2048, workers, lib)
        layout, params = m.measure(SPECS[NONE])
        works: dict[str, Work] = {
            "copy": m.copy,
            "range": partial(m.measure, SPECS[NONE]),
            "c_only": partial(m.c_pass, NONE, NOWHERE, params),
            "ours_only": partial(m.sums_of_known_range, layout, params),
        }
        for axis, spec in SPECS.items():
            m.check(axis)
            works[f"c_cached_{axis}"] = partial(m.c_op_and_sums, axis, CACHED)
            works[f"c_past_{axis}"] = partial(m.c_op_and_sums, axis, PAST_THE_CACHES)
            works[f"ours_{axis}"] = partial(m.op_and_sums, spec)
        t = {name: s * threads / m.x.size * 1e9 for name, s in compare(rounds, min, **works).items()}
    print(f"from memory, threads: {threads}, ns per element and thread")
    row("  copy, non-temporal", t["copy"])
    row("  min/max pass", t["range"])
    row("  float32, op + statistics with a known range, nothing written", t["c_only"], t["ours_only"])
    two_passes, of_two = t["range"] + t["copy"], "(min/max pass + copy)"
    for axis, name, floor, of, goal in (
        (NONE, "one range", two_passes, of_two, 0.95),
        (FIRST, "axis 0", t["copy"], "a copy", 0.75),
        (LAST, "last axis", two_passes, of_two, 0.75),
    ):
        ours, stores = t[f"ours_{axis}"], [t[f"c_{way}_{axis}"] for way in ("cached", "past")]
        row(f"  {name}: range, op and statistics", stores[0], ours)
        row("    stored non-temporally", stores[1])
        row(f"    share of {of}", floor / min(stores), floor / ours, goal)


class CachedFile:
    """BF16 elements in the page cache, an output file of that size, and work on part after part by all threads."""

    def __init__(self, lib: CDLL, folder: str, threads: int) -> None:
        self.lib, self.pool, self.threads, self.offset = lib, ThreadPoolExecutor(threads), threads, 0
        x = weights(PART_BYTES // 2).astype(ml_dtypes.bfloat16)
        paths = [Path(folder) / name for name in ("source", "sink")]
        for path in paths:
            path.write_bytes(x.tobytes() * (FILE_BYTES // PART_BYTES))
        self.source, self.sink = (os.open(path, os.O_RDWR) for path in paths)
        self.params = measured(x.view(np.int16), "BF16")
        self.rooms = [(pages(2 * max(STRIDES), np.uint8), pages(1 << 17, np.uint32)) for _ in range(threads)]

    def each(self, work: Callable[[int, int, Array, Array], object]) -> None:
        """Call work(offset, size, buffer, tables) in all threads; a true result is a failure."""
        size, begin = PART_BYTES // self.threads // max(STRIDES) * max(STRIDES), self.offset
        self.offset = (begin + PART_BYTES) % FILE_BYTES
        if any(self.pool.map(lambda k: work(begin + k * size, size, *self.rooms[k]), range(self.threads))):
            raise SystemExit("a file could not be read, mapped or written")

    def read(self, stride: int) -> None:
        self.each(lambda at, size, x, _: self.lib.read_file(self.source, at, size, x.ctypes.data, stride, None))

    def count(self, stride: int) -> None:
        self.each(
            lambda at, size, x, tables: self.lib.read_file(
                self.source, at, size, x.ctypes.data, stride, tables.ctypes.data
            )
        )

    def map(self, stride: int) -> None:
        self.each(lambda at, size, _, tables: self.lib.map_file(self.source, at, size, stride, tables.ctypes.data))

    def rewrite(self, stride: int, *qparams: float) -> None:
        self.each(
            lambda at, size, x, _: self.lib.rewrite_file(
                self.source, self.sink, at, size, x.ctypes.data, stride, *qparams
            )
        )

    def our_count(self, stride: int) -> None:
        def part(at: int, size: int, x: Array, tables: Array) -> bool:
            for offset in range(at, at + size, stride):
                got = os.preadv(self.source, [x[:stride]], offset)
                cpu_patterns.count_patterns(x[:got].view(np.uint64), NO_PATTERNS, tables.reshape(2, -1))
            return False

        self.each(part)

    def our_rewrite(self, stride: int) -> None:
        def part(at: int, size: int, x: Array, _: Array) -> bool:
            source, sink = x.view(np.int16).reshape(-1, stride // 2)[:2]
            for offset in range(at, at + size, stride):
                os.preadv(self.source, [source], offset)
                cpu.quantize(source, sink, 0, 0, len(source), Layout.of(source.shape, QuantSpec()), self.params)
                os.pwritev(self.sink, [sink], offset)
            return False

        self.each(part)


def from_files(lib: CDLL, rounds: int, threads: int) -> None:
    """Measure patterns of a BF16 file, and the steps of `qdq run`: read, count, read again, quantize, write."""
    with TemporaryDirectory() as folder:
        f = CachedFile(lib, folder, threads)
        qparams = (float(f.params.qparams[SCALE, 0]), float(f.params.qparams[INVERSE_SCALE, 0]))
        works: dict[str, Work] = {"map": partial(f.map, 4 << 20)}
        for s in STRIDES:
            works |= {f"read{s}": partial(f.read, s), f"copy{s}": partial(f.rewrite, s, 0.0, 0.0)}
            works |= {f"count{s}": partial(f.count, s), f"our_count{s}": partial(f.our_count, s)}
            works |= {f"op{s}": partial(f.rewrite, s, *qparams), f"our_op{s}": partial(f.our_rewrite, s)}
        speed = {name: PART_BYTES / seconds / 1e9 for name, seconds in compare(rounds, min, **works).items()}
        f.pool.shutdown()
    print(f"a BF16 file in the page cache, threads: {threads}, GB/s")
    for s in STRIDES:
        row(f"  bare read, strides of {s >> 10} KiB", speed[f"read{s}"])
        row("    read and count", speed[f"count{s}"], speed[f"our_count{s}"], 12.0)
        row("    bare copy", speed[f"copy{s}"])
        row("    read, quantize, write", speed[f"op{s}"], speed[f"our_op{s}"])
    row("  count in mapped pages, no copy", speed["map"])
    read, copy, count, our_count, op, our_op = (
        max(speed[f"{name}{s}"] for s in STRIDES) for name in ("read", "copy", "count", "our_count", "op", "our_op")
    )
    row("  count, share of a bare read", max(count, speed["map"]) / read, our_count / read, 0.9)
    run, our_run = 1 / (1 / max(count, speed["map"]) + 1 / op), 1 / (1 / our_count + 1 / our_op)
    row("  count, then read, quantize and write, share of a bare copy", run / copy, our_run / copy, 0.65)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as folder:
        lib = compiled(folder)
        print(f"processor: {processor()['model name']}, {machine()}")
        print(f"load before: {os.getloadavg()[0]:.1f} (others that run take from several threads more than from one)")
        print(f"{'':<66} {'C':>9} {'qdq':>9}  ratio")
        in_cache(lib, 2 * rounds)
        for threads in sorted({1, available_threads()}):
            in_memory(lib, rounds, threads)
        from_files(lib, rounds, available_threads())


if __name__ == "__main__":
    main()
