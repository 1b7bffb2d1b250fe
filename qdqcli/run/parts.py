"""Parts of a run: which shards each makes, and the work of one."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qdqcli.measure.workers import Workers
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import settings_of
from qdqcli.run.driver import drive_in_two
from qdqcli.run.execute import Job
from qdqcli.run.fingerprint import digests_of_decisions, fingerprint_of
from qdqcli.run.journal import CommandLine, join, target_of
from qdqcli.run.shard import Made, Opening, ShardRef, ShardTask, WorkerResources, blamed, task_of


@dataclass(frozen=True)
class Part:
    """One of `count` processes that share the shards of a run."""

    number: int
    """From 1 to `count`."""
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def choose(self, sizes: Sequence[int]) -> list[int]:
        """Return the indices of this part's shards, in order: parts have about as many bytes, the same on each call."""
        parts = [(0, number) for number in range(1, self.count + 1)]
        chosen = []
        for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
            nbytes, number = heapq.heappop(parts)
            heapq.heappush(parts, (nbytes + sizes[index], number))
            if number == self.number:
                chosen.append(index)
        return sorted(chosen)


def execute_part(
    job: Job, indices: Sequence[int], tree: OutputTree, workers: Workers, command: CommandLine, void_dtype: str | None
) -> int:
    """Make the shards with these indices that are not there yet; returns how many were.

    The tree was entered as a part. A shard that fails does not stop the others.

    Raises:
        UsageError: the parts before had another input or other settings.
        QdqError: the failure of the first shard in order.
    """
    settings = settings_of(job.plans, job.request.settings)
    fingerprint = fingerprint_of(job.plans, digests_of_decisions(job.plans), settings, job.measuring)
    run_id = join(tree, fingerprint, command)
    tree.prepare()
    resources = WorkerResources(max_memory=workers.max_memory)
    tasks = []
    for index in indices:
        plan = job.plans[index]
        target = target_of(tree, index, plan, run_id)
        if target.finished() is not None:
            job.measuring.on_bytes(plan.nbytes)
            continue
        shard = ShardRef.of(plan.shard, [plan.checkpoint], Opening(void_dtype=void_dtype))
        tasks.append((index, task_of(plan, job.measuring, resources, target, shard)))

    def begin(task: ShardTask) -> Callable[[], Made]:
        with blamed(task.path):
            publish = task.begin(workers, job.measuring.on_bytes)

        def rest() -> Made:
            with blamed(task.path):
                return publish()

        return rest

    drive_in_two(begin, tasks, lambda _index, _made: None, workers.interruption)
    return len(indices) - len(tasks)
