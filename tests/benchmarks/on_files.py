"""Checkpoints in the page cache, against a bare read and a bare copy of the same files by as many threads."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from qdqcli.cli.main import run
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.op.threads import available_threads
from qdqcli.recipe.plan import make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.run.pipeline import Measuring
from qdqcli.run.write import write_plans
from qdqcli.tensors import flat
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.output_file import OutputFile
from tests.benchmarks.make_checkpoint import temporary_llama, temporary_small_tensors
from tests.benchmarks.ratios import Table, compare


def qdq(*arguments: object) -> None:
    """Run a command in this process, to measure the work without the start."""
    with redirect_stderr(StringIO()) as told:
        code = run([*map(str, arguments), "--format", "none"])
    if code:
        raise SystemExit(told.getvalue())


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


class WrittenOver(OutputFile):
    """An output that overwrites a file of the same size, to exclude the cost of new pages."""

    def __init__(self, path: Path, _unfinished: str | None = None, **_: object) -> None:
        self.path = self._blamed = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT)

    def resize(self, size: int) -> None: ...

    def commit(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def abort(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Stub of the output tree."""

    path: Path
    is_remote = False
    side_files = ()

    def create(self, _checkpoint, shard, reader, _unfinished):
        return shard.create(self.path / shard.name, reader)


def write_over(model: Path, target: Path, recipe: Recipe) -> None:
    """Do the work of `qdq run` over files that exist and are cached."""
    plans, _ = make_plans([open_checkpoint(model)], recipe)
    with Workers(available_threads()) as workers:
        write_plans(plans, Measuring(), workers, Folder(path=target))


def measure_large(table: Table, rounds: int, nbytes: int, of: Callable[[Sequence[float]], float] = median) -> None:
    plain = QuantSpec(compute_dtype=ComputeDType.FLOAT32)  # as on the command line
    tensor, axis0 = Recipe(spec=plain), Recipe(spec=replace(plain, axis=0), min_ndim=2)
    was, flat.OutputFile = flat.OutputFile, WrittenOver
    with temporary_llama(nbytes, shards=3) as model, TemporaryDirectory(dir=model.parent) as folder:
        target = Path(folder)
        shards = sorted(model.glob("*.safetensors"))
        t = compare(
            rounds,
            of,
            read=lambda: bare(shards),
            stats=lambda: qdq("stats", model),
            axis0=lambda: qdq("stats", model, "--axis", 0, "--min-ndim", 2),
            last=lambda: qdq("stats", model, "--axis", "last", "--min-ndim", 2),
            groups=lambda: qdq("stats", model, "--group-size", 64, "--min-ndim", 2),
            copy=lambda: bare(shards, target),
            over=partial(write_over, model, target, tensor),
            over_axis0=partial(write_over, model, target, axis0),
        )
        gigabytes = sum(path.stat().st_size for path in shards) / 1e9
        peak = peak_of("stats", model)
    flat.OutputFile = was
    table.ratio("BF16 checkpoint, stats, share of a bare read", t["read"] / t["stats"], 0.9)
    table.value("  the same in GB/s", gigabytes / t["stats"], 12.0)
    table.ratio("BF16 checkpoint, stats with axis 0, share of a bare read", t["read"] / t["axis0"])
    table.value("  the same in GB/s", gigabytes / t["axis0"])
    table.ratio("BF16 checkpoint, stats with the last axis, share of a bare read", t["read"] / t["last"])
    table.ratio("BF16 checkpoint, stats with groups of 64, share of a bare read", t["read"] / t["groups"])
    table.ratio("BF16 checkpoint, run over cached files, share of a bare copy", t["copy"] / t["over"], 0.65)
    table.ratio("  the same with axis 0", t["copy"] / t["over_axis0"], 0.65)
    table.value("peak memory of stats on it, MB", peak, 160)


def measure_small(table: Table, rounds: int, count: int) -> None:
    with temporary_small_tensors(count) as small:
        files = [small] if small.is_file() else sorted(small.glob("*.safetensors"))
        t = compare(rounds, read=lambda: bare(files), stats=lambda: qdq("stats", small))
        peak = peak_of("stats", small)
    table.value(f"each of {count:,} tensors of 1,024 elements, microseconds", t["stats"] / count * 1e6, 10)
    table.value("peak memory of stats on them, MB", peak, 160)


def peak_of(*arguments: object) -> float:
    """Return the peak resident memory of a `qdq` process.

    A small launcher starts it, since a child inherits the peak of its parent.
    """
    launcher = (
        "import os, sys; command = [sys.executable, '-m', 'qdqcli', *sys.argv[1:]];"
        "pid = os.posix_spawn(sys.executable, command, os.environ); print(os.wait4(pid, 0)[2].ru_maxrss)"
    )
    command = [sys.executable, "-c", launcher, *map(str, arguments), "--format", "none"]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return kilobytes * 1024 / 1e6
