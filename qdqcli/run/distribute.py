"""Work on shards by other processes or machines, collected in the order of the shards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol, TypeVar

from qdqcli.errors import OutputError
from qdqcli.escape import show_path
from qdqcli.interrupt import Interruption
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan, checkpoints_of
from qdqcli.result.result import Row
from qdqcli.run.driver import Executor, drive
from qdqcli.run.journal import Journal, run_id_of, target_of
from qdqcli.run.pipeline import Measuring
from qdqcli.run.record import restore_rows
from qdqcli.run.shard import (
    AS_THEY_ARE,
    Made,
    Opening,
    Outcome,
    ShardRef,
    ShardTask,
    Task,
    WorkerResources,
    process,
    task_of,
)
from qdqcli.tensors.input_file import FileIdentity

Value = TypeVar("Value")
Result = TypeVar("Result")

_PAUSE_S = 0.2


class Cluster(Executor, Protocol):
    """Executor on other processes or machines."""

    def preflight(self, shards: Sequence[ShardRef], folder: Path | None) -> None:
        """Check that each process sees the shards, can write to `folder`, and computes the same numbers.

        Raises:
            QdqError: one does not; names it.
        """


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Executor of the shards, and the resources of each."""

    executor: Cluster
    resources: WorkerResources
    interruption: Interruption
    opening: Opening = AS_THEY_ARE
    patience_s: float = 10.0
    """Seconds to wait for a file, or its size: a network file system may show late what another machine wrote."""

    def refs(self, plans: Sequence[Plan]) -> list[ShardRef]:
        """Return the shards of plans of all inputs that were opened together, as other processes find them.

        Raises:
            InputError: a shard cannot be read.
        """
        inputs = checkpoints_of(plans)
        return [
            ShardRef.of(plan.shard, sorted(inputs, key=lambda one: one is not plan.checkpoint), self.opening)
            for plan in plans
        ]

    def preflight(self, *sides: Sequence[Plan], folder: Path | None = None) -> None:
        """Check before the work that every process sees the inputs, and can write to `folder`.

        Raises:
            QdqError: one cannot; says why.
        """
        firsts = [list({id(plan.checkpoint): plan for plan in reversed(plans)}.values()) for plans in sides]
        self.executor.preflight([ref for plans in firsts for ref in self.refs(plans)], folder)

    def run(self, tasks: Sequence[tuple[int, Task[Value]]], receive: Callable[[int, Outcome[Value]], None]) -> None:
        """Do the work of each task, given with its index; `receive` gets index and outcome, and raises its error.

        Raises:
            QdqError: the failure of the first task in order, once no other runs.
        """
        drive(process, tasks, self.executor, receive, self.interruption)

    def collect(self, tasks: Sequence[Task[Value]], convert: Callable[[int, Value], Result]) -> list[Result]:
        """Return what `convert` makes of the index and the value of each task, called as soon as a task is done.

        Raises:
            QdqError: as `run`.
        """
        found: dict[int, Result] = {}

        def receive(index: int, outcome: Outcome[Value]) -> None:
            found[index] = convert(index, outcome.get())

        self.run(list(enumerate(tasks)), receive)
        return [found[index] for index in range(len(tasks))]

    def run_shards(
        self,
        plans: Sequence[Plan],
        measuring: Measuring,
        output: OutputTree | None = None,
        journal: Journal | None = None,
    ) -> list[Row]:
        """Run every shard that the journal does not have as finished; return the rows of all.

        Raises:
            QdqError: the failure of the first shard in order; the others are finished, or kept for a resumed run.
        """
        found: dict[int, list[Row]] = {}
        tasks: list[tuple[int, ShardTask]] = []
        run_id = None if journal is None else run_id_of(journal.fingerprint)
        if output is not None:
            output.prepare()
        self.preflight(plans, folder=None if output is None else output.rows_path(0).parent)
        if output is not None:
            output.is_kept = True  # whatever ends this run, others may still be writing
        for i, (plan, ref) in enumerate(zip(plans, self.refs(plans), strict=True)):
            if journal is not None and journal.shards[i].finished is not None:
                found[i] = journal.rows(i, plan)
                measuring.on_bytes(plan.nbytes)
                continue
            target = None if output is None or run_id is None else target_of(output, i, plan, run_id)
            tasks.append((i, task_of(plan, measuring, self.resources, target, ref)))

        def receive(index: int, outcome: Outcome[Made]) -> None:
            plan, made = plans[index], outcome.get()
            if output is not None and journal is not None:
                journal.add(index, made.record, finished=self._seen(output, plan, made.size))
            found[index] = restore_rows(made.record, plan, 0, measuring.scale_bits)
            measuring.on_bytes(plan.nbytes)

        self.run(tasks, receive)
        return [row for index in range(len(plans)) for row in found[index]]

    def _seen(self, output: OutputTree, plan: Plan, size: int | None) -> FileIdentity:
        """Return the identity of an output written elsewhere.

        Raises:
            OutputError: it does not appear with that size.
        """
        end = monotonic() + self.patience_s
        while True:
            identity = output.identity_of(plan.checkpoint, plan.shard)
            if identity is not None and identity.size == size:
                return identity
            self.interruption.check()
            if monotonic() > end:
                raise OutputError(
                    f"{show_path(output.shard_path(plan.checkpoint, plan.shard))}: was written elsewhere and is not "
                    f"here (size {size} expected); OUTPUT must be on a disk that all machines share"
                )
            sleep(_PAUSE_S)
