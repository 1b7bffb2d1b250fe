"""Many settings of one shard, measured on one read of each tensor; each with the rows of a run under that setting."""

from collections.abc import Sequence
from dataclasses import replace

from qdqcli.measure.settings import measure_settings
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row, TensorResult
from qdqcli.run.pipeline import Measuring, ShardJob, Task


def measure_shard_settings(plans: Sequence[Plan], measuring: Measuring, workers: Workers) -> list[list[Row]]:
    """Measure the tensors of one shard under its plans, one per setting; returns the rows of each.

    `measuring` receives the bytes of each tensor once.
    """
    with plans[0].shard.open() as reader:
        silent = replace(measuring, on_bytes=lambda _: None)
        jobs = [ShardJob(plan=plan, measuring=silent, workers=workers, reader=reader, writer=None) for plan in plans]

        def run(batches: Sequence[Sequence[Task]]) -> list[list[Row]]:
            return _run_batch(jobs, batches, measuring)

        found = jobs[0].map(lambda batches: batches[0], run, zip(*(job.batches() for job in jobs), strict=True))
        reader.close()  # raises if the input changed meanwhile
    return [[row for rows in found for row in rows[number]] for number in range(len(jobs))]


def _run_batch(jobs: Sequence[ShardJob], batches: Sequence[Sequence[Task]], measuring: Measuring) -> list[list[Row]]:
    """Return the rows of consecutive tensors under each setting."""
    at_once = [job.measure_at_once(batch) or [None] * len(batch) for job, batch in zip(jobs, batches, strict=True)]
    rows: list[list[Row]] = [[] for _ in jobs]
    for k, (tensor, _) in enumerate(batches[0]):
        jobs[0].workers.interruption.check()
        specs = {n: batch[k][1] for n, batch in enumerate(batches)}
        measured = {n: found for n, own in enumerate(at_once) if (found := own[k]) is not None}
        left = {n: spec for n, spec in specs.items() if isinstance(spec, QuantSpec) and n not in measured}
        if left:
            settings = [(spec, jobs[n].given_range(tensor, spec)) for n, spec in left.items()]
            found_each = measure_settings(tensor, settings, jobs[0].reader, jobs[0].workers, measuring.on_bytes)
            measured |= dict(zip(left, found_each, strict=True))
        else:
            measuring.on_bytes(tensor.nbytes)
        first: TensorResult | None = None
        for n, spec in specs.items():
            if isinstance(spec, QuantSpec):
                row = jobs[n].row_of(tensor, spec, measured[n])
                first = first or row
                rows[n].append(_sharing(row, first))
            else:
                rows[n].append(jobs[n].run_tensor(tensor, spec))
    return rows


def _sharing(row: TensorResult, other: TensorResult) -> TensorResult:
    """Return the row with the objects of another setting's row that say the same: a fifth of its memory."""
    sums, same = row.sums, other.sums
    of_input = sums.sq_input, sums.input_min, sums.input_max
    if row is other or of_input != (same.sq_input, same.input_min, same.input_max):
        return row
    sums = sums._replace(sq_input=same.sq_input, input_min=same.input_min, input_max=same.input_max)
    return row._replace(source=other.source, sums=sums)
