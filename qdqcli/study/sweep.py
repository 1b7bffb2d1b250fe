"""Sweep: many settings measured on one read of each tensor, each with the result of `qdq stats` under that setting."""

from collections.abc import Iterable, Mapping, Sequence

from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.plan import Plan, check_selection, make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.sweep import Setting, Sweep
from qdqcli.result.result import Row
from qdqcli.run.distribute import Distribution
from qdqcli.run.execute import result_of
from qdqcli.run.pipeline import Measuring
from qdqcli.run.settings import measure_settings_elsewhere, measure_shard_settings
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed


def plan_sweep(
    checkpoints: Sequence[Checkpoint],
    recipe: Recipe,
    settings: Sequence[Setting],
    packed: Sequence[Packed] | None = None,
    *,
    allow_unmatched: bool = False,
) -> tuple[list[list[Plan]], list[str]]:
    """Decide on every tensor for every setting, a list of plans each; also returns warnings.

    Raises:
        UsageError: the selection does not fit the checkpoints, or no setting fits any tensor.
    """
    columns: list[list[Plan]] = []
    warnings: dict[str, None] = {}
    for setting in settings:
        plans, found = make_plans(checkpoints, setting.apply(recipe), packed, allow_unmatched=allow_unmatched)
        columns.append(plans)
        warnings |= dict.fromkeys(found)
    check_selection(next(filter(_selects, columns), columns[0]))
    return columns, list(warnings)


def _selects(plans: Sequence[Plan]) -> bool:
    return any(isinstance(decision, QuantSpec) for plan in plans for decision in plan.decisions)


def run_sweep(
    columns: Sequence[Sequence[Plan]],
    settings: Sequence[Setting],
    measuring: Measuring,
    workers: Workers,
    described: Mapping[str, object],
    distribution: Distribution | None = None,
) -> Sweep:
    """Measure every setting on every tensor, here or where `distribution` says.

    `described` are the options for the report; each result's settings are these, overridden by its own setting.
    """
    rows: list[list[Row]] = [[] for _ in settings]
    found: Iterable[Sequence[list[Row]]] = (
        (measure_shard_settings(plans, measuring, workers) for plans in zip(*columns, strict=True))
        if distribution is None
        else measure_settings_elsewhere(columns, measuring, distribution)
    )
    for of_shard in found:
        for own, new in zip(rows, of_shard, strict=True):
            own += new
    results = [
        result_of("sweep", plans, {**described, **setting.to_json()}, own)
        for setting, plans, own in zip(settings, columns, rows, strict=True)
    ]
    return Sweep(settings=settings, results=results)
