"""Executor on a Dask cluster: an existing one by its address, or worker processes on this machine.

Only functions, a shard's job and its rows travel. A task runs again elsewhere when its worker is lost: Dask's work.
"""

import json
import logging
import os
import re
import secrets
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import numpy as np

from qdqcli import __version__
from qdqcli.errors import InputError, OutputError, QdqError, UnavailableError
from qdqcli.escape import escape_name, show_path
from qdqcli.interrupt import Interruption
from qdqcli.measure.arrays import quantize_and_measure
from qdqcli.op.threads import available_threads
from qdqcli.run.distribute import Distribution
from qdqcli.run.driver import TransientError
from qdqcli.run.shard import AS_THEY_ARE, Opening, ShardRef, WorkerResources
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.remote_path import is_url

Task = TypeVar("Task")
Result = TypeVar("Result")

LOCAL = "local"
CONNECT_S = 10.0
NO_WORKER_S = 30.0
"""Seconds without any worker after which a run ends: one that is started again takes a second or two."""
LOOK_S = 1.0
TASKS_PER_THREAD = 2
"""Tasks in flight per thread of a worker: the next one waits at the scheduler."""
WORKER_BYTES = 1 << 30
"""Memory of a local worker beside its buffers; Dask ends one that takes more, and starts another."""
_LOGGERS = ("distributed", "tornado", "asyncio")


class Dask:
    """Executor whose tasks run on the workers of a Dask cluster, a thread each unless told otherwise.

    Raises:
        UnavailableError: distributed is not installed, there is no scheduler at the address, or it has no workers.
    """

    def __init__(self, address: str, resources: WorkerResources) -> None:
        try:
            distributed: Any = import_module("distributed")  # its types are incomplete
        except ImportError as error:
            raise UnavailableError(
                f"--dask needs the package distributed ({error}); install it: pip install 'qdqcli[dask]'"
            ) from None
        self._killed: type[Exception] = distributed.scheduler.KilledWorker
        self._address = address
        self._tasks: set[object] = set()
        self._num_threads: int = 0
        self._seen = self._looked = monotonic()
        with ExitStack() as undo:
            undo.enter_context(_quiet())
            try:
                where = _start(undo, distributed, resources) if address == LOCAL else {"address": address}
                if _is_file(address):
                    where = {"address": _address_in(Path(address), CONNECT_S)}
                self._client = undo.enter_context(distributed.Client(**where, timeout=CONNECT_S, set_as_default=False))
                self._client.wait_for_workers(1, timeout=CONNECT_S)
                self._num_threads = sum(self._client.nthreads().values())
            except (OSError, TimeoutError, ValueError, RuntimeError) as error:
                is_local = address == LOCAL
                advice = "try again" if is_local else "check the address, and that 'dask worker' was started"
                what = "its workers did not start" if is_local else "no Dask scheduler with workers answers there"
                raise UnavailableError(
                    f"--dask {escape_name(address)}: {what} ({escape_name(str(error), 120)}); {advice}"
                ) from error
            self._undo = undo.pop_all()

    @property
    def slots(self) -> int:
        return max(TASKS_PER_THREAD * self._num_threads, 1)

    def submit(self, function: Callable[[Task], Result], task: Task, /) -> Future[Result]:
        future: Future[Result] = Future()
        path = getattr(task, "path", None)
        try:
            sent = self._client.submit(function, task, pure=False)
        except (OSError, RuntimeError) as error:
            raise self._lost("the scheduler does not answer") from error
        self._tasks.add(sent)  # Dask drops a task that nobody refers to
        sent.add_done_callback(lambda done: self._settle(done, future, path))
        return future

    def check(self) -> None:
        """Check now and then that the cluster still has workers.

        Raises:
            OutputError: it has had none for a while.
        """
        now = monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            self._num_threads = sum(self._client.nthreads().values())
        except (OSError, TimeoutError, RuntimeError) as error:
            raise self._lost("the scheduler does not answer") from error
        if self._num_threads:
            self._seen = now
        elif now - self._seen > NO_WORKER_S:
            raise self._lost(f"there has been no worker for {NO_WORKER_S:.0f} s")

    def preflight(self, shards: Sequence[ShardRef], folder: Path | None) -> None:
        """Check every worker: version, numbers, these shards, and the folder of OUTPUT.

        One worker of each machine goes first, so that kernels are compiled once there.

        Raises:
            UnavailableError: a worker cannot run the tasks, or has another version or other numbers.
            InputError: a worker does not see the inputs.
            OutputError: a worker cannot write to OUTPUT, or its file is not seen here.
        """
        expected = _Probe(shards, None).run()
        seen_hosts: set[str] = set()
        first: list[str] = []
        others: list[str] = []
        for worker in self._client.nthreads():
            host = worker.rpartition(":")[0]
            (others if host in seen_hosts else first).append(worker)
            seen_hosts.add(host)
        for workers in (first, others):
            probes = {worker: _Probe.beside(shards, folder) for worker in workers}
            futures = {
                worker: self._client.submit(probe.run, workers=[worker], pure=False, allow_other_workers=False)
                for worker, probe in probes.items()
            }
            for worker, future in futures.items():
                _compare(worker, _answer(worker, future), expected, probes[worker].file)

    def close(self) -> None:
        """Leave the cluster, and end the workers that were started here. Tasks that have not begun are dropped."""
        with suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(self._tasks))
        with suppress(Exception):
            self._undo.close()

    def _settle(self, task: Any, future: Future[Result], path: Path | None) -> None:
        """Pass on the result of a finished task, or its failure as an error for the user; runs in a thread of Dask."""
        self._tasks.discard(task)
        if not future.set_running_or_notify_cancel():
            return
        try:
            if task.status in ("cancelled", "lost"):
                raise self._lost("the connection to the scheduler was lost")
            future.set_result(task.result())
        except self._killed:
            name = "a task" if path is None else show_path(path)
            future.set_exception(
                OutputError(
                    f"{name}: ended every worker that worked on it; they may have too little memory: lower "
                    "--max-memory, or give workers more"
                )
            )
        except (QdqError, TransientError) as error:
            future.set_exception(error)
        except BaseException as error:
            is_of_dask = isinstance(error, OSError) or type(error).__module__.startswith(("distributed", "tornado"))
            future.set_exception(TransientError(self._lost(escape_name(str(error), 120))) if is_of_dask else error)

    def _lost(self, what: str) -> OutputError:
        return OutputError(f"--dask {escape_name(self._address)}: {what}")


@contextmanager
def cluster_at(
    address: str,
    resources: WorkerResources,
    opening: Opening = AS_THEY_ARE,
    interruption: Interruption | None = None,
) -> Iterator[Distribution]:
    """Yield the distribution of work on a cluster, see `Dask`, and leave it in the end."""
    cluster = Dask(address, resources)
    try:
        yield Distribution(
            executor=cluster, resources=resources, interruption=interruption or Interruption(), opening=opening
        )
    finally:
        cluster.close()


def risk_of(address: str) -> str | None:
    """Return a warning where other machines reach the scheduler without encryption; None where they do not."""
    if _is_file(address):
        with suppress(OSError, ValueError):  # connecting will tell
            named = _address_in(Path(address), wait_s=0.0)
            return None if risk_of(named) is None else _RISK.format(escape_name(address))
        return None
    match = re.fullmatch(r"(?:(\w+)://)?(\[[^\]]*\]|[^:/]*)(?::\d+)?/?", address)
    if address == LOCAL or match is None or match[1] not in (None, "tcp"):
        return None
    if re.fullmatch(r"localhost|127(\.\d+){3}|\[::1\]", match[2]):
        return None
    return _RISK.format(escape_name(address))


_RISK = "--dask {}: anyone who reaches this scheduler can run code as its user; tls:// encrypts, see qdq help scale"


def _is_file(address: str) -> bool:
    """Tell whether an address is that of a scheduler file."""
    return address.endswith(".json")


def _address_in(file: Path, wait_s: float) -> str:
    """Return the address in a scheduler file, which a scheduler that starts at the same time may not have written yet.

    Raises:
        OSError, ValueError: it cannot be read; is no scheduler file.
    """
    end = monotonic() + wait_s
    while not file.exists() and monotonic() < end:
        sleep(LOOK_S / 5)
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("address"), str):
        raise ValueError("is not a scheduler file")
    return str(content["address"])


def _start(undo: ExitStack, distributed: Any, resources: WorkerResources) -> dict[str, object]:
    """Start a scheduler and workers on this machine, that only it can reach.

    Workers have Dask's own scratch folder, from which it removes what killed ones left.
    """
    threads = resources.threads or 1
    with _silent_children():
        cluster = distributed.LocalCluster(
            n_workers=max(available_threads() // threads, 1),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=WORKER_BYTES + resources.max_memory,
            silence_logs=logging.CRITICAL,
        )
    undo.enter_context(cluster)
    return {"address": cluster}


@contextmanager
def _silent_children() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C in the terminal, and say nothing when this one ends at once.

    They, and the threads that start others later, inherit the blocked signal; this thread gets what came meanwhile.
    """
    warned = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    resource_tracker.ensure_running()  # now: it unblocks the signal in the thread that starts it
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if warned is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = warned


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries: their tracebacks about lost workers say nothing that the error does not."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@dataclass(frozen=True)
class _Answer:
    """Findings of a probe."""

    version: str
    numbers: str
    inputs: str
    """Empty, or what is wrong with an input."""
    output: str
    """Empty, or why OUTPUT cannot be written."""


@dataclass(frozen=True)
class _Probe:
    """A look at the version, the numbers and the files of a machine."""

    shards: Sequence[ShardRef]
    """The first shard of each input."""
    file: Path | None
    """A file to write beside the output."""

    @classmethod
    def beside(cls, shards: Sequence[ShardRef], folder: Path | None) -> "_Probe":
        return cls(shards, None if folder is None else folder.absolute() / f".qdq-probe-{secrets.token_hex(8)}.tmp")

    def run(self) -> _Answer:
        x = np.linspace(-3.0, 5.0, 4096, dtype=np.float32).reshape(16, 256)
        hashed = sha256()
        for group_size in (None, 32):
            y, sums = quantize_and_measure(x, num_bits=4, group_size=group_size)
            hashed.update(np.asarray(y).tobytes() + repr(sums).encode())
        return _Answer(__version__, hashed.hexdigest(), self._inputs(), self._output())

    def _inputs(self) -> str:
        for shard in self.shards:
            try:
                shard.open()
            except QdqError as error:
                return str(error)
        return ""

    def _output(self) -> str:
        if self.file is None:
            return ""
        try:
            write_file(self.file, [b"qdq"])
        except OutputError as error:
            return str(error)
        return ""


def _answer(worker: str, future: Any) -> _Answer:
    try:
        answer = future.result(timeout=PREFLIGHT_S)
    except Exception as error:
        raise UnavailableError(
            f"worker {escape_name(worker)}: cannot run qdq ({escape_name(f'{type(error).__name__}: {error}', 160)}); "
            f"install qdqcli {__version__} there"
        ) from error
    assert isinstance(answer, _Answer)
    return answer


PREFLIGHT_S = 300.0
"""Seconds for a worker's first task: it may have to compile."""


_SHARED = "{} must be on a disk that all machines share"


def _compare(worker: str, found: _Answer, expected: _Answer, file: Path | None) -> None:
    name = f"worker {escape_name(worker)}"
    if found.version != expected.version:
        raise UnavailableError(
            f"{name}: has qdqcli {found.version}, this is {expected.version}; install the same there"
        )
    if found.numbers != expected.numbers:
        raise UnavailableError(
            f"{name}: computes other numbers than this machine; compare 'qdq info' of both, and install the same "
            "versions of Numba and NumPy"
        )
    if found.inputs:
        where = "each worker reads it with credentials of its own" if is_url(found.inputs) else _SHARED.format("INPUT")
        raise InputError(f"{name}: {found.inputs}; {where}")
    if found.output:
        raise OutputError(f"{name}: {found.output}; {_SHARED.format('OUTPUT')}")
    if file is not None:
        try:
            file.stat()  # a store does not say whether there was what it removes
            file.unlink()
        except OSError as error:
            raise OutputError(
                f"{name}: what it writes to {show_path(file.parent)} is not seen here; {_SHARED.format('OUTPUT')}"
            ) from error
