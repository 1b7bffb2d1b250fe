"""Many settings of one shard, measured on one read of each tensor; each with the rows of a run under that setting."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qdqcli.measure.tensor import measure_settings
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import Parsed
from qdqcli.recipe.decision import Decision
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row, TensorResult
from qdqcli.run.batch import Task
from qdqcli.run.distribute import Distribution
from qdqcli.run.pipeline import Measuring, ShardJob
from qdqcli.run.record import record_rows, restore_rows
from qdqcli.run.shard import OnBytes, TaskOnShard, plans_of


@dataclass(frozen=True, kw_only=True)
class SettingsTask(TaskOnShard):
    """Decisions on a shard under each setting."""

    columns: Sequence[Sequence[Decision]]
    """A decision per tensor, for each setting."""

    def work(self, workers: Workers, on_bytes: OnBytes) -> list[Parsed]:
        """Measure the shard under each setting; returns the rows of each, see `record_rows`."""
        plans = plans_of(self.shard, self.columns)
        return [record_rows(rows) for rows in measure_shard_settings(plans, Measuring(on_bytes=on_bytes), workers)]


def measure_settings_elsewhere(
    columns: Sequence[Sequence[Plan]], measuring: Measuring, distribution: Distribution
) -> list[list[list[Row]]]:
    """Measure each shard in another process under its plans, one per setting; returns the rows by shard and setting."""
    of_shards = list(zip(*columns, strict=True))
    distribution.preflight(columns[0])
    tasks = [
        SettingsTask(
            shard=ref,
            columns=[plan.decisions for plan in plans],
            resources=distribution.resources,
        )
        for ref, plans in zip(distribution.refs(columns[0]), of_shards, strict=True)
    ]

    def restored(index: int, records: list[Parsed]) -> list[list[Row]]:
        plans = of_shards[index]
        measuring.on_bytes(plans[0].nbytes)
        return _shared([restore_rows(*pair, 0, measuring.scale_bits) for pair in zip(records, plans, strict=True)])

    return distribution.collect(tasks, restored)


def measure_shard_settings(plans: Sequence[Plan], measuring: Measuring, workers: Workers) -> list[list[Row]]:
    """Measure the tensors of one shard under its plans, one per setting; returns the rows of each.

    `measuring` receives the bytes of each tensor once.
    """
    with plans[0].shard.open() as reader:
        silent = replace(measuring, on_bytes=lambda _: None)
        jobs = [ShardJob(plan=plan, measuring=silent, workers=workers, reader=reader) for plan in plans]

        def run(batches: Sequence[Sequence[Task]]) -> list[list[Row]]:
            return _run_batch(jobs, batches, measuring)

        jobs[0].read_ahead()  # what one setting leaves out and another measures is requested when it is read
        batches = zip(*(job.batches() for job in jobs), strict=True)
        found = workers.map(run, batches, lambda each: jobs[0].runs_in_caller(each[0]))
    return [[row for rows in found for row in rows[number]] for number in range(len(jobs))]


def _run_batch(jobs: Sequence[ShardJob], batches: Sequence[Sequence[Task]], measuring: Measuring) -> list[list[Row]]:
    """Return the rows of consecutive tensors under each setting."""
    at_once = [job.measure_at_once(batch) for job, batch in zip(jobs, batches, strict=True)]
    rows: list[list[Row]] = [[] for _ in jobs]
    for k, (tensor, _) in enumerate(batches[0]):
        jobs[0].workers.interruption.check()
        specs = {n: batch[k][1] for n, batch in enumerate(batches)}
        measured = {n: found for n, own in enumerate(at_once) if (found := own[k]) is not None}
        left = {n: spec for n, spec in specs.items() if isinstance(spec, QuantSpec) and n not in measured}
        if left:
            settings = [(spec, measuring.range_of(jobs[n].plan, tensor, spec)) for n, spec in left.items()]
            found_each = measure_settings(tensor, settings, jobs[0].reader, jobs[0].workers, measuring.on_bytes)
            measured |= dict(zip(left, found_each, strict=True))
        else:
            measuring.on_bytes(tensor.nbytes)
        for n, spec in specs.items():
            own = jobs[n]
            row = own.row_of(tensor, spec, measured[n]) if isinstance(spec, QuantSpec) else own.skip(tensor, spec)
            rows[n].append(row)
    return _shared(rows)


def _shared(rows: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return the rows of each setting; those of one tensor share what is equal."""
    by_tensor = []
    for of_tensor in zip(*rows, strict=True):
        first = next((row for row in of_tensor if isinstance(row, TensorResult)), None)
        by_tensor.append([_sharing(row, first) if isinstance(row, TensorResult) else row for row in of_tensor])
    return [list(column) for column in zip(*by_tensor, strict=True)] or [[] for _ in rows]


def _sharing(row: TensorResult, other: TensorResult | None) -> TensorResult:
    """Return the row with the objects of another setting's row that say the same: a fifth of its memory."""
    if other is None or row is other:
        return row
    sums, same = row.sums, other.sums
    of_input = sums.sq_input, sums.input_min, sums.input_max
    if of_input != (same.sq_input, same.input_min, same.input_max):
        return row
    sums = sums._replace(sq_input=same.sq_input, input_min=same.input_min, input_max=same.input_max)
    return row._replace(source=other.source, sums=sums)
