"""Memory of the driver and its workers, and bytes through the scheduler, with 1,000 shards and 100,000 tensors.

    python tests/benchmarks/many_shards.py [--shards 1000] [--tensors 100] [--command run|stats|sweep]

Tensors are tiny: what is measured grows with their number. The goals are those of `qdq help scale`: 300 MB for the
driver, 300 MB and --max-memory for a worker, and a table of the tensors that passes the scheduler once.
"""

import argparse
import json
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.run.checkpoints import write_safetensors

MAX_MEMORY = 16 << 20


def write_many(folder: Path, num_shards: int, num_tensors: int) -> None:
    """Write a checkpoint of tiny tensors, under names as long as real ones."""
    x = np.random.default_rng(0).standard_normal((2, 32), np.float32)
    for i in range(num_shards):
        names = [f"model.layers.{i}.block_sparse_moe.experts.{k}.w1.weight" for k in range(num_tensors)]
        write_safetensors(folder / f"model-{i:05}-of-{num_shards:05}.safetensors", dict.fromkeys(names, x))


@contextmanager
def cluster_in(folder: Path, num_workers: int) -> Iterator[tuple[Path, list[int]]]:
    """Yield the scheduler file and the process numbers of the workers."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dask"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    worker = [*command, "worker", "--scheduler-file", file, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    scheduler = [
        *command,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--scheduler-file",
        file,
        "--no-dashboard",
    ]
    processes = [subprocess.Popen(scheduler, **quiet)]
    while not file.exists() or not file.stat().st_size:
        time.sleep(0.05)
    processes += [subprocess.Popen([*worker, "--local-directory", folder], **quiet) for _ in range(num_workers)]
    try:
        yield file, [process.pid for process in processes[1:]]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def peak_mb(process: int) -> float:
    """Return the peak of a process' resident memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def drive(arguments: list[str]) -> None:
    """Run qdq in this process, and print what went through the scheduler and the peak of memory, as JSON."""
    from qdqcli.cli.main import run
    from qdqcli.run.cluster import Dask

    sent = received = 0
    submit = Dask.submit
    lock = threading.Lock()

    def weigh(self: Dask, function: Any, /, *args: Any) -> Future[Any]:
        nonlocal sent
        sent += len(pickle.dumps((function, args)))
        future = submit(self, function, *args)

        def add(done: Future[Any]) -> None:
            nonlocal received
            if not done.cancelled() and done.exception() is None:
                with lock:
                    received += len(pickle.dumps(done.result()))

        future.add_done_callback(add)
        return future

    Dask.submit = weigh  # type: ignore[method-assign, assignment]
    began = time.perf_counter()
    code = run(arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    seconds = time.perf_counter() - began
    print(
        json.dumps({"code": code, "peak_mb": peak, "sent_mb": sent / 1e6, "received_mb": received / 1e6, "s": seconds})
    )


def main() -> None:
    """Print the figures."""
    if sys.argv[1:2] == ["--driver"]:
        drive(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--tensors", type=int, default=100)
    parser.add_argument("--command", choices=["run", "stats", "sweep"], default="run")
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_many(folder / "many", asked.shards, asked.tensors)
        tables = sum(path.stat().st_size for path in (folder / "many").iterdir())
        options = ["--num-bits", "4"] if asked.command != "sweep" else ["--scheme", "int4-channel"]
        output = ["-o", str(folder / "out")] if asked.command == "run" else []
        with cluster_in(folder, 2) as (file, workers):
            command = [asked.command, str(folder / "many"), *output, *options, "--format", "none", "-q"]
            command += ["--max-memory", str(MAX_MEMORY), "--dask", str(file)]
            here = [sys.executable, __file__, "--driver"]
            done = subprocess.run([*here, *command], stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            peaks = [peak_mb(worker) - MAX_MEMORY / 1e6 for worker in workers]
    print(f"{asked.command}: {asked.shards:,} shards, {asked.shards * asked.tensors:,} tensors, {tables / 1e6:.0f} MB")
    print(f"driver, peak of memory            {found['peak_mb']:7.0f} MB   goal 300")
    print(f"worker, peak without --max-memory {max(peaks):7.0f} MB   goal 300")
    print(f"tasks sent                        {found['sent_mb']:7.1f} MB")
    print(f"results received                  {found['received_mb']:7.1f} MB")
    print(f"time                              {found['s']:7.1f} s    exit code {found['code']}")


if __name__ == "__main__":
    main()
