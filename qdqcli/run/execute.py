"""Work of the measuring commands, for the command line and for Python. Prints nothing and reads no environment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.ranges.file import read_ranges
from qdqcli.recipe.plan import Plan, with_decisions
from qdqcli.recipe.request import Request
from qdqcli.result.result import Row, RunResult
from qdqcli.run.count import with_histograms
from qdqcli.run.pipeline import Measuring, Ranges, check_ranges, result_of, run_plans

if TYPE_CHECKING:  # 3 ms, for a cluster alone
    from qdqcli.run.distribute import Distribution


@dataclass(frozen=True, kw_only=True)
class Job:
    """A measuring command on planned inputs."""

    command: str
    plans: Sequence[Plan]
    request: Request
    """Recipe and settings; a report names them."""
    measuring: Measuring
    has_histograms: bool = False
    distribution: "Distribution | None" = None
    """Where shards run; None: here."""


def ranges_of(plans: Sequence[Plan], request: Request, *, allow_unmatched: bool) -> tuple[Ranges | None, list[str]]:
    """Return the ranges of `--ranges`, if given, and warnings.

    Raises:
        UsageError: the ranges do not fit the tensors, see `check_ranges`.
    """
    if request.ranges_file is None:
        return None, []
    ranges = read_ranges(request.ranges_file)
    return ranges, check_ranges(plans, ranges, show_path(request.ranges_file), allow_unmatched=allow_unmatched)


def execute(job: Job, workers: Workers) -> RunResult:
    """Measure every selected tensor and write nothing."""
    return result_of_job(job, run_plans(job.plans, job.measuring, workers, distribution=job.distribution), workers)


def result_of_job(job: Job, rows: Sequence[Row], workers: Workers) -> RunResult:
    """Return the result for a report: rows with histograms and deciding tables, where requested."""
    if job.has_histograms:
        rows = list(with_histograms(job.plans, rows, job.measuring, workers))
    if job.request.has_recipe:
        rows = with_decisions(job.plans, rows)
    device = None if workers.backend.name == "cpu" else workers.backend.name
    return replace(result_of(job.command, job.plans, job.request.settings, rows), device=device)
