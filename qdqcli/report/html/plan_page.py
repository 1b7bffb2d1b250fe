"""HTML report of a plan: the frontier with the chosen point, bits by layer, and all decisions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import fsum, isfinite, log10

from qdqcli.plain import Parsed
from qdqcli.report.allocation import PlanView, answers, best_text, rate_and_loss, uniform
from qdqcli.report.command import each, options_given
from qdqcli.report.html.chart import Point, scatter
from qdqcli.report.html.document import document
from qdqcli.report.html.grid import Field, Grid, grid_html
from qdqcli.report.html.layers import Mark, matrix_of
from qdqcli.report.html.made import made
from qdqcli.report.html.markup import cards_html, plain, quote
from qdqcli.report.number import EXACT, counted, metric_text, size_text
from qdqcli.result.result import TensorResult
from qdqcli.study.allocation import FLOAT, Decision, Option, frontier
from qdqcli.study.steps import Step, steps_down, steps_up

_CURVE_POINTS = 12
_GOALS = ("avg_bits", "target_size", "max_loss", "min_sqnr")
_LOSSES = {
    "relative": "sum of the tensors' relative squared errors",
    "energy": "sum of squared errors",
    "worst": "largest relative squared error of a tensor",
}
_PLAIN: Mapping[str, object] = {
    **dict.fromkeys((*_GOALS, "candidates", "importance", "from", "against")), "group_size": 128, "estimator": "minmax",
    "objective": "relative", "tie": "auto", "count": "selected", "backend": "any", "min_bits": [], "max_bits": [],
    "summary": False,
}  # fmt: skip
"""Option of the command -> its default."""
_BASE = ("num_bits", "axis", "signed_input")
"""Settings that each candidate replaces."""

Pair = tuple[Decision, Option]


def page(view: PlanView) -> Iterator[str]:
    """Yield the page in pieces."""
    result, grid = view.result, _grid(view)
    return document("Bit allocation", "plan", result.inputs, result.version, _main(view, grid), grid)


def _main(view: PlanView, grid: Grid[Pair]) -> Iterator[str]:
    yield from cards_html(_cards(view))
    yield "<h2>Loss and size</h2>"
    points, curve = _points(view)
    yield from scatter(points, curve, "-10 log10 of the loss, more is better,")
    yield "<h2>Bits by layer</h2>"
    yield from matrix_of(_marks(view), "Bits", digits=0)
    yield "<h2>Decisions</h2>"
    yield from grid_html(grid)
    if view.explained:
        asked = replace(view, frontier=(), against=None)
        yield f"<h2>Candidates</h2>\n<pre>{chr(10).join(answers(asked, quote)).strip()}</pre>"
    settings = {key: value for key, value in view.result.settings.items() if key not in _BASE}
    run = replace(view.result, settings=settings)
    has_goal = any(settings.get(goal) is not None for goal in _GOALS)  # Python's plans keep none
    options = [*_options(settings), "-o", "plan.toml"] if has_goal else None
    yield from made(run, options, settings.keys() - _PLAIN.keys())


def _cards(view: PlanView) -> Iterator[tuple[str, str, str]]:
    allocation, problem = view.allocation, view.allocation.problem
    yield "bits/weight", f"{allocation.bits_per_weight:.4f}", f"over {problem.num_elements:,} weights, scales included"
    yield "size, packed", size_text(-(-allocation.bits // 8)), ""
    if allocation.budget is not None:
        yield "unused", f"{allocation.budget - allocation.bits:,} bits", f"of a budget of {allocation.budget:,}"
    sqnr = view.result.summary["sqnr_db"]
    yield "SQNR of all elements", EXACT if sqnr is None else f"{metric_text('sqnr_db', sqnr)} dB", ""
    if view.against is not None:
        rate, loss = rate_and_loss(problem, view.against)
        yield "earlier plan", f"{rate:.4f} bits", f"loss {loss:.6g}; {counted(view.num_changed, 'decision')} changed"
    yield "loss", f"{allocation.loss:.6g}", _LOSSES[problem.objective]
    is_exact = allocation.solution.proof == "exact"
    least = "smallest size" if allocation.budget is None else "least loss"
    of = best_text(allocation) if is_exact else f"of the {least}"
    yield "proof", "exact" if is_exact else f"within {allocation.solution.gap:.2%}", of


def _points(view: PlanView) -> tuple[list[Point], list[tuple[float, float]]]:
    """Return plan and uniform settings as points, and the frontier."""
    allocation, problem = view.allocation, view.allocation.problem
    found = [
        Point(x=own[0], y=-10 * log10(own[1]), label=quote(f"all {problem.name_of(candidate)}"), is_faint=True)
        for candidate in range(len(problem.sweep.settings))
        for own in [uniform(allocation, candidate)]
        if own is not None and own[1]
    ]
    if view.against is not None:
        rate, loss = rate_and_loss(problem, view.against)
        found += [Point(x=rate, y=-10 * log10(loss), label="earlier plan", is_faint=True)] if loss else []
    if allocation.loss:
        own = Point(x=allocation.bits_per_weight, y=-10 * log10(allocation.loss), label="this plan", is_chosen=True)
        found.append(own)
    curve = view.frontier or frontier(problem, _CURVE_POINTS)
    return found, [(one.bits_per_weight, -10 * log10(one.loss)) for one in curve if one.loss]


def _marks(view: PlanView) -> Iterator[Mark]:
    rows = view.allocation.rows
    for decision, _ in view.allocation.chosen:
        for row in (rows[member] for member in decision.tie.members):
            bits = row.spec.num_bits if isinstance(row, TensorResult) and row.spec is not None else None
            yield Mark(row.source.name, bits, FLOAT)


def _grid(view: PlanView) -> Grid[Pair]:
    allocation = view.allocation
    rows = list(allocation.chosen)
    total = fsum(option.loss for _, option in rows)

    def sqnr(pair: Pair) -> float | str:
        lowest = allocation.sqnr_db(*pair)
        return lowest if isfinite(lowest) else EXACT

    def price(steps: Sequence[Step]) -> float | None:
        return steps[0].db_per_mb if steps else None

    def choice(pair: Pair) -> str:
        decision, option = pair
        name = allocation.problem.name_of(option.candidate)
        return f"{name}, by the recipe" if decision.is_pinned else name

    fields: list[Field[Pair]] = [
        Field(name="tensor", title="decision", form="text", worst="ascending",
              value=lambda pair: plain(pair[0].tie.name)),
        Field(name="sqnr_db", title="SQNR dB", form="db", worst="ascending", value=sqnr),
        Field(name="choice", title="choice", form="text", worst="ascending", value=choice),
        Field(name="count", title="tensors", form="count", value=lambda pair: len(pair[0].tie.members)),
        Field(name="elements", title="weights", form="count", value=lambda pair: pair[0].num_elements),
        Field(name="rate", title="bits/weight", form="fixed3",
              value=lambda pair: pair[1].bits / max(pair[0].num_elements, 1)),
        Field(name="share", title="share of the loss", form="percent",
              value=lambda pair: pair[1].loss / total if total else 0.0),
        Field(name="up", title="up dB/MB", form="digits", value=lambda pair: price(steps_up(allocation, *pair))),
        Field(name="down", title="down dB/MB", form="digits",
              value=lambda pair: price(steps_down(allocation, *pair))),
    ]  # fmt: skip
    order = sorted(range(len(rows)), key=lambda index: -rows[index][1].loss)
    return Grid(noun="decisions", rows=rows, order=order, fields=fields, sort="share")


def _options(settings: Parsed) -> Iterator[str]:
    """Yield the command's own options that differ from its defaults."""
    for option, value in options_given(settings, _PLAIN):
        for one in [",".join(map(str, each(value)))] if option == "--candidates" else each(value):
            yield from (option, f"{one:g}" if isinstance(one, float) else str(one))
