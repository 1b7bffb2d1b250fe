"""Shards of a run on other processes or machines, collected in the order of the shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import sleep

from qdqcli.errors import OutputError
from qdqcli.escape import show_path
from qdqcli.interrupt import Interruption
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row
from qdqcli.run.driver import Executor, drive
from qdqcli.run.journal import Journal
from qdqcli.run.pipeline import Measuring
from qdqcli.run.record import restore_rows
from qdqcli.run.shard import Resources, ShardResult, ShardTask, job_of, process_shard
from qdqcli.tensors.storage import FileIdentity

SEEN_ATTEMPTS = 50
SEEN_PAUSE_S = 0.2
"""A network file system may show a new file, or its size, seconds after another machine wrote it."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Executor of the shards, and the resources of each."""

    executor: Executor
    resources: Resources
    interruption: Interruption
    void_dtype: str | None = None

    def run_shards(
        self, plans: Sequence[Plan], measuring: Measuring, output: OutputTree | None, journal: Journal | None
    ) -> dict[int, list[Row]]:
        """Run every shard that the journal does not have as finished; return the rows of all by index.

        Raises:
            QdqError: the failure of the first shard in order; the others are finished, or kept for a resumed run.
        """
        found: dict[int, list[Row]] = {}
        tasks: list[tuple[int, ShardTask]] = []
        if output is not None:
            output.prepare()
            output.keep()  # whatever ends this run, others may still be writing
        for i, plan in enumerate(plans):
            if journal is not None and journal.progress(i).finished is not None:
                found[i] = journal.rows(i, plan)
                measuring.on_bytes(plan.nbytes)
                continue
            target = None if journal is None else journal.target(i, plan)
            tasks.append((i, job_of(plan, measuring, self.resources, target, self.void_dtype)))

        def receive(index: int, result: ShardResult) -> None:
            result.check()
            plan = plans[index]
            if output is not None and journal is not None:
                journal.add_shard(index, result.record, _seen(output, plan, result.size, self.interruption))
            found[index] = restore_rows(result.record, plan, 0, measuring.scale_bits)
            measuring.on_bytes(plan.nbytes)

        drive(process_shard, tasks, self.executor, receive, self.interruption)
        return found


def _seen(output: OutputTree, plan: Plan, size: int | None, interruption: Interruption) -> FileIdentity:
    """Return the identity of an output written elsewhere, which a network file system may show late.

    Raises:
        OutputError: it does not appear with that size.
    """
    for _ in range(SEEN_ATTEMPTS):
        identity = output.identity_of(plan.checkpoint, plan.shard)
        if identity is not None and identity.size == size:
            return identity
        interruption.check()
        sleep(SEEN_PAUSE_S)
    raise OutputError(
        f"{show_path(output.shard_path(plan.checkpoint, plan.shard))}: was written elsewhere and is not here (size "
        f"{size} expected); OUTPUT must be on a disk that all machines share"
    )
