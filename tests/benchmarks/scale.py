"""Simulation of a run on many machines, from costs that are measured here.

    python tests/benchmarks/scale.py [--storage GB/S] [--shard-gb GB] [--check]

The model: a shard takes its bytes by the speed of one thread, as long as the storage, shared by all workers, keeps up.
The scheduler hands out tasks and the driver takes results one at a time. A worker that is killed loses what it did of
its shard, which runs again, first; another worker takes its place after a while.

`--check` compares the model with real runs of 2 and 4 workers on this machine, whose tasks sleep: this checks the
overhead, not the speed of this machine.
"""

import argparse
import heapq
import json
import os
import random
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import numpy as np

from qdqcli.interrupt import Interruption
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.run import cluster
from qdqcli.run.cluster import TASKS_PER_THREAD, Dask
from qdqcli.run.driver import drive
from qdqcli.run.fingerprint import fingerprint_of
from qdqcli.run.journal import Journal, run_id_of, target_of
from qdqcli.run.pipeline import Measuring
from qdqcli.run.record import restore_rows
from qdqcli.run.shard import AS_THEY_ARE, ShardRef, WorkerResources, process, task_of
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.benchmarks.many_shards import cluster_in
from tests.run.checkpoints import write_safetensors

NUM_TENSORS = 100
"""Tensors of a shard whose rows the driver takes."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of what does not depend on the size of a shard, and bytes per second of what does."""

    thread_gbps: float
    """GB of input per second that one thread quantizes, reads and writes, with flushes."""
    scheduler_s: float
    """Time of the scheduler per task: the tasks per second of a full cluster."""
    driver_s: float
    """Time of the driver per shard: the journal and the rows of 100 tensors."""
    start_s: float
    """Time from the command to the first task."""
    restart_s: float = 10.0
    """Time until a worker takes the place of one that was killed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run took."""

    seconds: float
    wasted: float
    """Work of killed workers, as a share of all work."""
    num_kills: int
    bounds: dict[str, float]
    """Cause -> seconds that it alone would take."""

    @property
    def limit(self) -> str:
        """The cause that takes longest."""
        return max(self.bounds, key=lambda cause: self.bounds[cause])


class Run:
    """A simulated run: tasks of some seconds each on workers, `capacity` of which the storage feeds at full speed."""

    def __init__(
        self, tasks: Sequence[float], workers: int, capacity: float, costs: Costs, kills: Sequence[float], seed: int = 0
    ) -> None:
        self._tasks, self._costs, self._capacity = tasks, costs, capacity
        self._num_workers = workers
        self._waiting = deque(range(len(tasks)))
        self._submitted: deque[int] = deque()
        self._in_flight = 0
        self._idle = deque(range(workers))
        self._running: dict[int, tuple[int, float]] = {}
        """Worker -> task, and the progress at which it ends."""
        self._progress = self._now = 0.0
        """Seconds of work that each running task has done since the begin."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._scheduler_free = self._driver_free = costs.start_s
        self._num_received = 0
        self._random = random.Random(seed)
        self._wasted = 0.0
        self._kills = kills
        self._num_kills = 0

    def outcome(self) -> Outcome:
        """Run to the end."""
        for at in self._kills:
            self._at(at, self._kill)
        self._at(self._costs.start_s, self._fill)
        while self._num_received < len(self._tasks):
            self._step()
        total = sum(self._tasks)
        bounds = {
            "workers": total / self._num_workers,
            "storage": total / self._capacity,
            "scheduler": len(self._tasks) * self._costs.scheduler_s,
            "driver": len(self._tasks) * self._costs.driver_s,
            "the largest shard": max(self._tasks),
        }
        return Outcome(seconds=self._now, wasted=self._wasted / total, num_kills=self._num_kills, bounds=bounds)

    @property
    def _speed(self) -> float:
        """Share of its full speed at which each task runs."""
        return min(1.0, self._capacity / max(len(self._running), 1))

    def _step(self) -> None:
        worker = min(self._running, key=lambda one: self._running[one][1], default=None)
        ends = inf if worker is None else self._now + max(self._running[worker][1] - self._progress, 0) / self._speed
        begins = self._events[0][0] if self._events else inf
        until = min(ends, begins)
        self._progress += (until - self._now) * self._speed if self._running else 0.0
        self._now = until
        if begins <= ends:
            heapq.heappop(self._events)[2]()
        elif worker is not None:
            del self._running[worker]
            self._idle.append(worker)
            self._driver_free = max(self._driver_free, self._now) + self._costs.driver_s
            self._at(self._driver_free, self._receive)
            self._hand_out()

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def _fill(self) -> None:
        """Submit what the driver's window holds."""
        while self._waiting and self._in_flight < TASKS_PER_THREAD * self._num_workers:
            self._submitted.append(self._waiting.popleft())
            self._in_flight += 1
        self._hand_out()

    def _receive(self) -> None:
        self._num_received += 1
        self._in_flight -= 1
        self._fill()

    def _hand_out(self) -> None:
        while self._submitted and self._idle:
            task, worker = self._submitted.popleft(), self._idle.popleft()
            self._scheduler_free = max(self._scheduler_free, self._now) + self._costs.scheduler_s
            self._at(self._scheduler_free, lambda task=task, worker=worker: self._begin(task, worker))  # type: ignore[misc]

    def _begin(self, task: int, worker: int) -> None:
        self._running[worker] = task, self._progress + self._tasks[task]

    def _kill(self) -> None:
        if not self._running:
            return
        worker = self._random.choice(sorted(self._running))
        task, ends = self._running.pop(worker)
        self._wasted += self._tasks[task] - (ends - self._progress)
        self._num_kills += 1
        self._submitted.appendleft(task)
        self._at(self._now + self._costs.restart_s, lambda: self._come_back(worker))
        self._hand_out()

    def _come_back(self, worker: int) -> None:
        self._idle.append(worker)
        self._hand_out()


def measured_costs(folder: Path) -> Costs:
    """Measure the costs on this machine, with a real scheduler and two workers: the best of several."""
    x = np.random.default_rng(0).standard_normal((512, 4096), np.float32)
    write_safetensors(folder / "in" / "model.safetensors", {f"{k}.weight": x for k in range(16)})
    many = {f"{k}.weight": x[:8, :32] for k in range(NUM_TENSORS)}
    write_safetensors(folder / "many" / "model.safetensors", many)
    with cluster_in(folder, 2) as (file, _):
        starts = []
        for _ in range(3):
            began = perf_counter()
            dask = Dask(str(file), WorkerResources(threads=1))
            dask.preflight([], None)
            starts.append(perf_counter() - began)
        scheduler_s = min(per_task(dask, 100) for _ in range(8))
        dask.close()
    return Costs(
        thread_gbps=max(thread_gbps(folder, k) for k in range(3)),
        scheduler_s=scheduler_s,
        driver_s=driver_s(folder),
        start_s=min(starts),
    )


def per_task(dask: Dask, num_tasks: int) -> float:
    """Return the seconds per task of tasks that do nothing."""
    began = perf_counter()
    drive(abs, [(k, k) for k in range(num_tasks)], dask, lambda *_: None, Interruption())
    return (perf_counter() - began) / num_tasks


def thread_gbps(folder: Path, turn: int) -> float:
    """Return the GB per second of one thread that makes a shard, with its journal."""
    (plan,), _ = make_plans([open_checkpoint(folder / "in")], Recipe(spec=QuantSpec(num_bits=4, group_size=128)))
    with OutputTree([plan.checkpoint], folder / f"out-{turn}") as tree:
        journal = Journal(tree, [plan], fingerprint_of([plan], [""], {}, Measuring()), 16)
        tree.prepare()
        resources = WorkerResources(threads=1)
        ref = ShardRef.of(plan.shard, [plan.checkpoint], AS_THEY_ARE)
        task = task_of(plan, Measuring(), resources, target_of(tree, 0, plan, run_id_of(journal.fingerprint)), ref)
        with Workers(1) as workers:
            began = perf_counter()
            process(task, workers).get()
            seconds = perf_counter() - began
        journal.close()
    return plan.nbytes / 1e9 / seconds


def driver_s(folder: Path) -> float:
    """Return the seconds that the driver takes per shard."""
    (plan,), _ = make_plans([open_checkpoint(folder / "many")], Recipe(spec=QuantSpec(num_bits=4)))
    ref = ShardRef.of(plan.shard, [plan.checkpoint], AS_THEY_ARE)
    with OutputTree([plan.checkpoint], folder / "driven") as tree:
        journal = Journal(tree, [plan], fingerprint_of([plan], [""], {}, Measuring()), 16)
        tree.prepare()
        task = task_of(
            plan, Measuring(), WorkerResources(threads=1), target_of(tree, 0, plan, run_id_of(journal.fingerprint)), ref
        )
        made = process(task).get()
        identity = tree.identity_of(plan.checkpoint, plan.shard)
        assert identity is not None
        seconds = inf
        for _ in range(50):
            began = perf_counter()
            task_of(
                plan,
                Measuring(),
                WorkerResources(threads=1),
                target_of(tree, 0, plan, run_id_of(journal.fingerprint)),
                ref,
            )
            journal.add(0, made.record, finished=identity)
            restore_rows(made.record, plan, 0, 16)
            seconds = min(seconds, perf_counter() - began)
        journal.close()
    return seconds


@dataclass(frozen=True)
class Nap:
    """A task that sleeps."""

    seconds: float
    path: Path = Path("nap")


def take(nap: Nap) -> float:
    """Sleep."""
    sleep(nap.seconds)
    return nap.seconds


def check(costs: Costs, folder: Path) -> None:
    """Compare the model with real runs on this machine, without and with a kill."""
    print("\nworkers  tasks of       kills  model s   real s   model / real")
    for workers in (2, 4):
        for seconds, num_tasks in ((0.02, 200), (0.2, 40), (0.5, 24)):
            for kills in (0, 1) if seconds == 0.5 else (0,):
                at = num_tasks * seconds / workers / 2
                lost = replace(costs, start_s=0.0, driver_s=0.0, restart_s=inf)
                run = Run([seconds] * num_tasks, workers, inf, lost, [at] * kills)
                expected = run.outcome().seconds
                with cluster_in(folder, workers) as (file, processes):
                    dask = Dask(str(file), WorkerResources(threads=1))
                    dask._client.wait_for_workers(workers)
                    dask.check()
                    drive(take, [(k, Nap(0.0)) for k in range(2 * workers)], dask, lambda *_: None, Interruption())
                    naps: list[tuple[int, Any]] = [(k, Nap(seconds)) for k in range(num_tasks)]
                    began = perf_counter()
                    drive(
                        take, naps, Killing(dask, processes[0], at) if kills else dask, lambda *_: None, Interruption()
                    )
                    real = perf_counter() - began
                    dask.close()
                told = f"{workers:7}  {num_tasks:4} x {seconds:4} s  {kills:5}"
                print(f"{told}  {expected:7.2f}  {real:7.2f}   {expected / real:7.2f}", flush=True)


class Killing:
    """An executor that kills a worker after some seconds."""

    def __init__(self, dask: Dask, process: int, at: float) -> None:
        self._dask, self._process, self._at = dask, process, at
        self._began = perf_counter()
        self.submit, self.slots = dask.submit, dask.slots

    def check(self) -> None:
        if self._process and perf_counter() - self._began > self._at:
            os.kill(self._process, signal.SIGKILL)
            self._process = 0
        self._dask.check()


def main() -> None:
    """Print the costs and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", type=float, default=10.0, metavar="GB/S", help="read and written together")
    parser.add_argument("--shard-gb", type=float, default=8.2, metavar="GB", help="size of a shard")
    parser.add_argument("--kills-per-hour", type=float, default=1.0, metavar="N", help="of each worker")
    parser.add_argument("--check", action="store_true", help="compare the model with real runs")
    parser.add_argument("--costs", type=json.loads, metavar="JSON", help="costs measured before")
    asked = parser.parse_args()
    cluster.CONNECT_S = 120.0  # of a machine that is busy
    with TemporaryDirectory() as temporary:
        costs = Costs(**asked.costs) if asked.costs else measured_costs(Path(temporary))
        print(json.dumps(vars(costs)))
        table(costs, asked)
        if asked.check:
            check(costs, Path(temporary))


def table(costs: Costs, asked: argparse.Namespace) -> None:
    """Print the runs of 163 and 1,000 shards on 1 to 256 workers, one of each with kills."""
    seconds = asked.shard_gb / costs.thread_gbps
    capacity = asked.storage / (2 * costs.thread_gbps)
    print(f"\nshards of {asked.shard_gb:g} GB: {seconds:.0f} s on one thread; storage {asked.storage:g} GB/s for reads "
          f"and writes: {capacity:.0f} workers at full speed")  # fmt: skip
    print("\nshards  workers  kills        time  of the least time  wasted  limit")
    for shards in (163, 1000):
        for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            least = Run([seconds] * shards, workers, capacity, costs, []).outcome()
            rate = asked.kills_per_hour * workers / 3600
            chance = random.Random(workers)
            at, kills = 0.0, []
            while rate and at < 3 * least.seconds:
                at += chance.expovariate(rate)
                kills.append(at)
            for outcome in (least, Run([seconds] * shards, workers, capacity, costs, kills).outcome()):
                bound = max(outcome.bounds.values())
                print(f"{shards:6}  {workers:7}  {outcome.num_kills:5}  {outcome.seconds / 60:6.1f} min  "
                      f"{outcome.seconds / bound:17.3f}  {outcome.wasted:6.2%}  {outcome.limit}")  # fmt: skip


if __name__ == "__main__":
    main()
