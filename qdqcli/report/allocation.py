"""Report of a plan, for people and programs: each decision with its choice, then total size and loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import fsum, isfinite, log10

from qdqcli.report import markdown
from qdqcli.report.forms import Forms, json_lines
from qdqcli.report.layout import fit
from qdqcli.report.number import EXACT, counted, metric_text, percent, size_text
from qdqcli.report.options import ReportOptions
from qdqcli.report.table import Column, Quote, column
from qdqcli.report.text import quoted, table_lines
from qdqcli.result.result import RunResult, finite, header_to_json, row_to_json, summary_to_json
from qdqcli.study.allocation import Allocation, Decision, Option, Problem
from qdqcli.study.steps import Step, step_to, steps_down, steps_up

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """A plan and the options of its report."""

    allocation: Allocation
    result: RunResult
    """Rows under the chosen settings."""
    frontier: Sequence[Allocation] = ()
    """Optimal plans at several sizes, ascending."""
    explained: Sequence[tuple[Decision, Option]] = ()
    """Decisions whose candidates are shown, with the choice."""
    against: Sequence[int] | None = None
    """Choice of the earlier plan that this one was made against."""

    @property
    def num_changed(self) -> int:
        """Number of decisions that differ from the earlier plan."""
        choice = self.allocation.solution.choice
        return 0 if self.against is None else sum(a != b for a, b in zip(self.against, choice, strict=True))


def ranked(allocation: Allocation) -> list[tuple[Decision, Option]]:
    """Return the decisions with their choices, those that lose most first."""
    return sorted(allocation.chosen, key=lambda pair: -pair[1].loss)


def columns(allocation: Allocation, quote: Quote, top: int) -> list[Column]:
    """Return the columns of the decisions, sorted by their share of the loss, largest first."""
    rows = ranked(allocation)[: top or None]
    total = fsum(option.loss for _, option in allocation.chosen)

    def sqnr(pair: tuple[Decision, Option]) -> str:
        lowest = allocation.sqnr_db(*pair)
        return metric_text("sqnr_db", lowest) if isfinite(lowest) else EXACT

    def choice(pair: tuple[Decision, Option]) -> str:
        return "by the recipe" if pair[0].is_pinned else allocation.problem.name_of(pair[1].candidate)

    numbers = partial(column, rows=rows, is_number=True)
    return [
        column("tensor", "decision", rows, lambda pair: quote(pair[0].tie.name)),
        numbers("count", "tensors", cell=lambda pair: f"{len(pair[0].tie.members):,}"),
        column("choice", "choice", rows, choice),
        numbers("rate", "bits/weight", cell=lambda pair: f"{pair[1].bits / max(pair[0].num_elements, 1):.3f}"),
        numbers("sqnr", "SQNR dB", cell=sqnr),
        numbers("share", "of the loss", cell=lambda pair: percent(pair[1].loss / total) if total else "0"),
    ]


def facts(allocation: Allocation, result: RunResult) -> Iterator[str]:
    """Yield size, loss, bound, and the uniform candidates beside the plan."""
    problem, solution = allocation.problem, allocation.solution
    yield f"bits/weight   {allocation.bits_per_weight:.4f} over {problem.num_elements:,} weights"
    yield f"size          {size_text(-(-allocation.bits // 8))} packed, scales included"
    if allocation.budget is not None:
        left = allocation.budget - allocation.bits
        yield f"unused        {left:,} bits of the budget{_next_step(allocation, left)}"
    yield f"loss          {_loss_text(problem, allocation.loss)}"
    gap = (
        f"exact: {best_text(allocation)}"
        if solution.proof == "exact"
        else f"within {solution.gap:.2%} of the {'smallest size' if allocation.budget is None else 'least loss'}"
    )
    yield f"proof         {gap}"
    if (extreme := _extreme(allocation)) is not None:
        yield f"note          nothing was decided: {extreme}"
    for candidate in range(len(problem.sweep.settings)):
        if (found := uniform(allocation, candidate)) is not None:
            rate, loss = found
            yield f"uniform       {problem.name_of(candidate)}: {rate:.4f} bits/weight, {_brief(problem, loss)}"
    sqnr = result.summary["sqnr_db"]
    yield f"SQNR          {EXACT if sqnr is None else metric_text('sqnr_db', sqnr) + ' dB'} over all quantized elements"


def best_text(allocation: Allocation) -> str:
    """Return the property of an exact plan."""
    if allocation.budget is None:
        return "no smaller size keeps the goal"
    return "no choice within the budget loses less"


def _extreme(allocation: Allocation) -> str | None:
    """Return the reason why a plan decides nothing; None where it does."""
    free = [(decision.options, option) for decision, option in allocation.chosen if len(decision.options) > 1]
    if not free:
        return "no tensor has two candidates"
    if all(option.bits == min(other.bits for other in options) for options, option in free):
        return "all tensors have their smallest candidate"
    if all(option.loss == min(other.loss for other in options) for options, option in free):
        return "all tensors have their best candidate; fewer bits may lose as little"
    return None


def uniform(allocation: Allocation, candidate: int) -> tuple[float, float] | None:
    """Return bits per weight and loss of one candidate for all tensors; None where it does not fit some."""
    choice = allocation.problem.uniform(candidate)
    return None if choice is None else rate_and_loss(allocation.problem, choice)


def rate_and_loss(problem: Problem, choice: Sequence[int]) -> tuple[float, float]:
    """Return bits per weight and loss of a choice."""
    options = [d.options[k] for d, k in zip(problem.decisions, choice, strict=True)]
    bits, losses = sum(option.bits for option in options), [option.loss for option in options]
    loss = max(losses) if problem.objective == "worst" else fsum(losses)
    return bits / max(problem.num_elements, 1), loss


def _next_step(allocation: Allocation, left: int) -> str:
    """Return the cheapest upgrade that did not fit."""
    steps = [
        (other.bits - option.bits, decision.tie.name)
        for decision, option in allocation.chosen
        for other in decision.options
        if other.loss < option.loss and other.bits - option.bits > left
    ]
    return f"; the cheapest step up takes {min(steps)[0]:,}" if steps else ""


def _loss_text(problem: Problem, loss: float) -> str:
    match problem.objective:
        case "energy":
            return f"sum of squared errors {loss:.6g}"
        case "relative":
            return f"sum of relative squared errors {loss:.6g}"
    return _brief(problem, loss)


def _brief(problem: Problem, loss: float) -> str:
    """Return a loss without its definition."""
    if problem.objective != "worst":
        return f"loss {loss:.6g}"
    return f"lowest SQNR {-10 * log10(loss):.2f} dB" if loss else "no error"


def answers(view: PlanView, quote: Quote) -> Iterator[str]:
    """Yield the earlier plan, the frontier and the explanations, where requested."""
    if view.against is not None:
        rate, loss = rate_and_loss(view.allocation.problem, view.against)
        yield (
            f"against       {rate:.4f} bits/weight, {_brief(view.allocation.problem, loss)}; "
            f"{counted(view.num_changed, 'decision')} of it changed"
        )
    if view.frontier:
        yield ""
        yield "frontier      bits/weight, size, loss"
        for found in view.frontier:
            size = size_text(-(-found.bits // 8))
            yield f"              {found.bits_per_weight:.4f}, {size}, {_brief(found.problem, found.loss)}"
    for decision, chosen in view.explained:
        yield ""
        tensors = counted(len(decision.tie.members), "tensor")
        yield f"{quote(decision.tie.name)}: {tensors}, {decision.num_elements:,} weights"
        for option in decision.options:
            lowest = view.allocation.sqnr_db(decision, option)
            sqnr = f"{lowest:.2f} dB" if isfinite(lowest) else EXACT
            is_step = option.bits != chosen.bits
            step = _step_text(step_to(view.allocation, decision, chosen, option)) if is_step else "chosen"
            name = view.allocation.problem.name_of(option.candidate)
            yield f"  {name}: {option.bits:,} bits, loss {option.loss:.6g}, {sqnr}, {step}"
        yield f"  why {view.allocation.problem.name_of(chosen.candidate)}: {_reason(view.allocation, decision, chosen)}"


def _step_text(step: Step) -> str:
    multiple = "" if step.of_price is None else f", {step.of_price:.3g} times the price"
    return f"{step.loss_per_bit:.3g} per bit{multiple}"


def _reason(allocation: Allocation, decision: Decision, chosen: Option) -> str:
    """Return why a decision has its choice: its steps against the price of a bit."""
    if decision.is_pinned:
        return "the recipe sets it"
    if len(decision.options) == 1:
        return "no other candidate fits"
    price, name_of = allocation.price, allocation.problem.name_of
    if price is None:
        return "it keeps the goal at the smallest size"
    if not price:
        return "the budget pays for the best candidate of every decision"
    parts = []
    if up := max(steps_up(allocation, decision, chosen), key=lambda step: step.loss_per_bit, default=None):
        parts.append(f"a step up saves at most {_multiple(up, price)} that ({name_of(up.option.candidate)})")
        parts += ["for which the goal leaves no room"] if up.loss_per_bit > price else []
    if down := min(steps_down(allocation, decision, chosen), key=lambda step: step.loss_per_bit, default=None):
        words = f"a step down loses at least {_multiple(down, price)} that ({name_of(down.option.candidate)})"
        parts.append(words)
        parts += ["but the goal leaves room for it"] if down.loss_per_bit < price else []
    return f"the price of a bit is {price:.3g} of the loss in this plan; {', '.join(parts)}"


def _multiple(step: Step, price: float) -> str:
    return f"{step.loss_per_bit / price:.3g} times"


def _step_columns(allocation: Allocation) -> list[Column]:
    """Return the price of the next step up and down of each decision, in the order of `columns`."""

    def text(steps: Sequence[Step]) -> str:
        if not steps:
            return ""
        db = steps[0].db_per_mb
        return f"{allocation.problem.name_of(steps[0].option.candidate)}: {EXACT if db is None else f'{db:.3g}'}"

    rows = ranked(allocation)
    return [
        column("up", "step up, dB/MB", rows, lambda pair: text(steps_up(allocation, *pair)), is_number=True),
        column("down", "step down, dB/MB", rows, lambda pair: text(steps_down(allocation, *pair)), is_number=True),
    ]


def _table(view: PlanView, options: ReportOptions) -> Iterator[str]:
    allocation, result = view.allocation, view.result
    quote = partial(quoted, options=options)
    top = _SHOWN if options.top is None else options.top
    shown = columns(allocation, quote, top)
    layout = fit(shown, "choice", options.width, options.ellipsis, dropped=("rate", "count"))
    yield from table_lines(layout, options)
    yield from layout.remarks
    if top and len(allocation.chosen) > top:
        yield f"{options.ellipsis} and {len(allocation.chosen) - top:,} more decisions (--top 0 shows all)"
    yield ""
    yield from facts(allocation, result)
    yield from answers(view, quote)


def _markdown(view: PlanView, options: ReportOptions) -> Iterator[str]:
    allocation, result = view.allocation, view.result
    quote = partial(markdown.quoted, options=options)
    yield from markdown.table_lines([*columns(allocation, quote, 0), *_step_columns(allocation)])
    yield ""
    yield from (f"- {fact}" for fact in facts(allocation, result))
    yield from answers(view, quote)


def to_json(view: PlanView) -> dict[str, object]:
    """Return the report: every decision with all its candidates, and the rows of the chosen settings."""
    allocation, result = view.allocation, view.result
    points = [{"bits": found.bits, "bits_per_weight": found.bits_per_weight, "loss": found.loss,
               "proof": found.solution.proof} for found in view.frontier]  # fmt: skip
    problem, solution = allocation.problem, allocation.solution
    names = [row.source.name for row in allocation.rows]
    return (
        header_to_json(result)
        | {
            "objective": problem.objective,
            "loss": allocation.loss,
            "lower_bound": solution.lower_bound * problem.unit,
            "gap": solution.gap,
            "proof": solution.proof,
            "budget_bits": allocation.budget,
            "loss_per_bit": allocation.price,
            "bits": allocation.bits,
            "bits_per_weight": allocation.bits_per_weight,
            "decisions": [
                {
                    "name": decision.tie.name,
                    "tensors": [names[member] for member in decision.tie.members],
                    "num_elements": decision.num_elements,
                    "pinned": decision.is_pinned,
                    "choice": problem.name_of(option.candidate),
                    "candidates": [option_to_json(allocation, decision, other) for other in decision.options],
                    "step_up": _step_to_json(allocation, steps_up(allocation, decision, option)),
                    "step_down": _step_to_json(allocation, steps_down(allocation, decision, option)),
                }
                for decision, option in allocation.chosen
            ],
            "summary": summary_to_json(result),
            "tensors": [row_to_json(row) for row in result.rows],
        }
        | ({"frontier": points} if points else {})
    )


def _step_to_json(allocation: Allocation, steps: Sequence[Step]) -> dict[str, object] | None:
    """Return the first of the steps; its price in decibels per 1,000,000 bytes."""
    if not steps:
        return None
    step = steps[0]
    return {
        "name": allocation.problem.name_of(step.option.candidate),
        "bits_added": step.bits_added,
        "loss_per_bit": step.loss_per_bit,
        "gain_db": step.gain_db,
        "db_per_mb": step.db_per_mb,
    }


def option_to_json(allocation: Allocation, decision: Decision, option: Option) -> dict[str, object]:
    """Return a candidate of a decision with what it costs and loses."""
    lowest = allocation.sqnr_db(decision, option)
    return {
        "name": allocation.problem.name_of(option.candidate),
        "bits": option.bits,
        "loss": option.loss,
        "lowest_sqnr_db": finite(lowest),
    }


PLAN = Forms[PlanView](
    what="a plan",
    lines={
        "table": _table,
        "json": json_lines(to_json),
        "markdown": _markdown,
    },
    page="qdqcli.report.html.plan_page:page",
)
