"""Measurement of plans, for the command line and for Python."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdqcli.measure.workers import Workers
from qdqcli.recipe.plan import Plan, with_decisions
from qdqcli.result.result import Row, RunResult
from qdqcli.run.count import with_histograms
from qdqcli.run.pipeline import Measuring, result_of, run_plans


def execute(
    command: str,
    plans: Sequence[Plan],
    settings: Mapping[str, Any],
    measuring: Measuring,
    workers: Workers,
    *,
    has_recipe: bool = False,
    has_histograms: bool = False,
) -> RunResult:
    """Measure every selected tensor and write nothing; `settings` are the options for the report."""
    rows = run_plans(plans, measuring, workers)
    return reported(
        command, plans, settings, rows, measuring, workers, has_recipe=has_recipe, has_histograms=has_histograms
    )


def reported(
    command: str,
    plans: Sequence[Plan],
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    measuring: Measuring,
    workers: Workers,
    *,
    has_recipe: bool,
    has_histograms: bool,
) -> RunResult:
    """Return the result for a report: rows with histograms and deciding tables, where requested."""
    if has_histograms:
        rows = list(with_histograms(plans, rows, measuring, workers))
    if has_recipe:
        rows = with_decisions(plans, rows)
    device = None if workers.backend.name == "cpu" else workers.backend.name
    return replace(result_of(command, plans, settings, rows), device=device)
