"""Writing of outputs: a measuring job whose quantized tensors become an output tree, verified and with provenance."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from qdqcli.errors import Interrupted, QdqError
from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan, settings_of
from qdqcli.result.result import Row, RunResult, summary_to_json
from qdqcli.run.digest import VerificationError, digest_output
from qdqcli.run.distribute import Distribution
from qdqcli.run.driver import drive_in_two
from qdqcli.run.execute import Job, check_memory, measure_plans, result_of, result_of_job
from qdqcli.run.fingerprint import digests_of_decisions, fingerprint_of
from qdqcli.run.journal import Journal
from qdqcli.run.pipeline import Measuring
from qdqcli.run.provenance import Provenance
from qdqcli.run.shard_output import begin_shard
from qdqcli.run.verify import verification_of, verify_output
from qdqcli.tensors.output_file import write_file


class ProgressListener(Protocol):
    """A listener that counts the bytes of finished work, from any thread."""

    def __call__(self, num_bytes: int) -> None: ...

    def begin(self, phase: str) -> None:
        """Start another pass over the data."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """OUTPUT of a run, and what is made certain of it."""

    tree: OutputTree
    verify: bool = False
    """Read the output back before it gets its name."""
    provenance: bool = False
    """Write the provenance file of a single file; a folder always has one."""
    void_dtype: str | None = None
    """dtype of `.npy` elements of an unnamed kind."""
    needs_rows: bool = True
    """Measure again for the report if OUTPUT is finished already."""
    must_be_complete: bool = False
    """Make no shard: all were made in parts."""

    @property
    def has_provenance(self) -> bool:
        return self.provenance or self.tree.is_folder

    @property
    def num_passes(self) -> int:
        """Number of times that the bytes of the inputs are read or hashed."""
        has_digests = self.verify or self.has_provenance
        return 1 + self.verify + has_digests + self.has_provenance


def execute_run(
    job: Job,
    destination: Destination,
    workers: Workers,
    progress: ProgressListener,
    on_note: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Quantize into the entered output tree and commit it; until then it has a journal. `on_note` gets messages.

    Raises:
        VerificationError: the written output differs from what the job gives.
        UsageError: the run resumes, and OUTPUT is finished with other settings.
        QdqError: see `write_plans` and `OutputTree`.
    """
    output, plans, measuring = destination.tree, job.plans, job.measuring
    made = Provenance(
        command=job.command,
        inputs=output.checkpoints,
        decisions=digests_of_decisions(plans),
        settings=settings_of(plans, job.request.settings),
        ranges=measuring.ranges,
        distribution=job.distribution,
    )
    if output.resumes and output.may_be_finished():
        if made.recognises(output, workers):
            output.accept()
            on_note(f"{show_path(output.output)}: is finished already, nothing is written")
            if not (destination.verify or destination.needs_rows):
                return result_of(job.command, plans, job.request.settings, [])
        elif not output.may_replace:
            made.check_settings(output)
    if output.is_committed:
        rows = measure_plans(plans, measuring, workers, job.distribution)
        return _complete(job, destination, workers, progress, made, rows, None)
    fingerprint = fingerprint_of(plans, made.decisions, made.settings, measuring)
    with closing(Journal(output, plans, fingerprint, measuring.scale_bits)) as journal:
        if destination.must_be_complete:
            output.is_kept = True
            journal.check_complete(plans)
        rows = write_plans(plans, measuring, workers, output, journal, job.distribution)
        return _complete(job, destination, workers, progress, made, rows, journal)


def _complete(
    job: Job,
    destination: Destination,
    workers: Workers,
    progress: ProgressListener,
    made: Provenance,
    rows: Sequence[Row],
    journal: Journal | None,
) -> RunResult:
    """Verify the output, record its provenance and commit it, all where requested and not done; returns the result."""
    output, on_bytes = destination.tree, job.measuring.on_bytes
    num_opened = 0
    if destination.verify:
        progress.begin("verifying")
        num_opened = _verify(job, rows, destination, workers, journal)
    result = result_of_job(job, rows, workers)
    result = replace(result, notes=[*result.notes, *output.notes])
    if destination.verify or destination.has_provenance:
        progress.begin("hashing")
        digests = digest_output(output.result, output.names, workers, on_bytes, job.distribution)
        if destination.verify:
            result = replace(result, verification=verification_of(output, digests, num_opened))
        if destination.has_provenance:
            text = made.text(output, digests, summary_to_json(result), workers, on_bytes)
    if journal is not None and output.is_remote:
        journal.check_unchanged(job.plans)
    if not output.is_committed:
        if output.is_folder:
            output.write_marker(text)
        output.commit()
    if destination.has_provenance and not output.is_folder:
        write_file(output.provenance_path, [text.encode()])
    return result


def write_plans(
    plans: Sequence[Plan],
    measuring: Measuring,
    workers: Workers,
    output: OutputTree,
    journal: Journal | None = None,
    distribution: Distribution | None = None,
) -> list[Row]:
    """Write the shards of an output, each whole, here or on a cluster, and copy its side files.

    With a journal, finished work is not repeated, and new work is recorded.

    Raises:
        QdqError: what failed, with the file; the caller's output tree removes what was built.
    """
    check_memory(plans, measuring, workers)
    if journal is not None and journal.is_committed:
        return [row for i, plan in enumerate(plans) for row in journal.rows(i, plan)]
    try:
        begin = partial(begin_shard, measuring, workers, output, journal)
        if distribution is not None:
            rows = distribution.run_shards(plans, measuring, output, journal)
        elif output.is_remote:  # a shard is sent beside the next one
            found: dict[int, list[Row]] = {}
            tasks = [(index, (index, plan)) for index, plan in enumerate(plans)]
            drive_in_two(begin, tasks, found.__setitem__, workers.interruption, max_failures=1)
            rows = [row for index in range(len(plans)) for row in found[index]]
        else:
            rows = []
            for numbered in enumerate(plans):
                rows += begin(numbered)()
                workers.interruption.check()
        if output.side_files:
            output.copy_side_files(workers.interruption.check)
        if journal is not None:
            journal.add_built()
    except QdqError as error:
        if isinstance(error, Interrupted):
            error.advise(f"{show_path(output.output)} was not written")
        if journal is not None and journal.has_progress:
            error.advise(f"{journal.num_finished} of {len(plans)} files are finished, --resume goes on from here")
        raise
    return rows


def _verify(job: Job, rows: Sequence[Row], destination: Destination, workers: Workers, journal: Journal | None) -> int:
    """Read the output back, see `verify_output`; files that differ are made again by a resumed run."""
    output = destination.tree
    try:
        return verify_output(
            job.plans,
            rows,
            job.measuring,
            workers,
            output,
            void_dtype=destination.void_dtype,
            distribution=job.distribution,
        )
    except VerificationError as error:
        if error.plan is not None and journal is not None and not output.is_committed:
            journal.add_damaged(error.plan)
            output.discard(job.plans[error.plan].checkpoint, job.plans[error.plan].shard)
            error.advise("--resume makes the file again")
        raise
