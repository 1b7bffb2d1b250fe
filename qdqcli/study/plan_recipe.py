"""Recipe of chosen settings: few rules with folded patterns, and a check that they reproduce the choice."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite

from qdqcli.errors import UsageError
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.axis import NONE, word_of
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.file_ref import qualified
from qdqcli.recipe.folding import folded_globs
from qdqcli.recipe.patterns import listed
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.toml_text import comment_lines, rule_lines, setting_lines
from qdqcli.result.result import Row, TensorResult
from qdqcli.study.allocation import LEFT_IN_FLOAT, Allocation, Decision, Option

_NOT_SELECTED = "not selected"


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One decided tensor."""

    pattern: str
    """Pattern that matches only this tensor: its name, with its file where several files share the name."""
    name: str
    spec: QuantSpec | None
    """None where it stays in float."""


def recipe_text(
    rows: Sequence[Row],
    numbers: Iterable[int],
    plans: Sequence[Plan],
    about: Sequence[str],
    min_ndim: int | None,
    notes: Mapping[QuantSpec | None, str],
) -> str:
    """Return the TOML text of the recipe.

    Args:
        rows: one per tensor of the inputs, measured with its chosen setting; skipped where it stays in float.
        numbers: indices of the decided rows.
        plans: plans before the decision: other tensors that they skip stay in float.
        about: lines for the header.
        min_ndim: that option, where it was given.
        notes: settings -> the comment on the tensors that have them.

    Raises:
        UsageError: all tensors stay in float.
    """
    members = list(_members(rows, numbers, plans))
    decided = {member.name for member in members}
    default = _most_common(member.spec for member in members if member.spec is not None)
    if default is None:
        raise UsageError("the plan leaves every tensor in float; allow fewer bits than float has")
    lines = [*comment_lines(about), "schema = 1", "", "[defaults]", *setting_lines(_settings(default))]
    if min_ndim is not None:
        lines.append(f"min_ndim = {min_ndim}")
    if default in notes:
        lines.append(f"# {notes[default]}")
    by_spec: dict[QuantSpec | None, list[_Member]] = defaultdict(list)
    for member in members:
        if member.spec != default:
            by_spec[member.spec].append(member)
    for spec, own in by_spec.items():
        theirs = {member.name for member in members} - {member.name for member in own}
        patterns = folded_globs([member.pattern for member in own], theirs)
        settings = difference(default, spec) if spec is not None else {"skip": LEFT_IN_FLOAT}
        lines += rule_lines(patterns, settings, [notes[spec]] if spec in notes else [])
    idle = _not_selected(plans, decided, min_ndim)
    if idle:
        lines += rule_lines(idle, {"skip": _NOT_SELECTED})
    return "\n".join(lines) + "\n"


def check_recipe(rows: Sequence[Row], plans: Sequence[Plan]) -> None:
    """Check that `plans`, made with the written recipe, match the choice for every tensor.

    Raises:
        UsageError: they do not; names the tensors.
    """
    found = [decision for plan in plans for decision in plan.decisions]
    wrong = [
        row.source.name
        for row, decision in zip(rows, found, strict=True)
        if (row.spec if isinstance(row, TensorResult) else None) != (None if isinstance(decision, Skip) else decision)
    ]
    if wrong:
        raise UsageError(
            f"no recipe can tell {listed(wrong)} from other tensors by a pattern; rename them or --exclude"
        )


def _members(rows: Sequence[Row], numbers: Iterable[int], plans: Sequence[Plan]) -> Iterator[_Member]:
    """Yield the decided tensors, by name."""
    counts = Counter(row.source.name for row in rows)
    tensors = [(plan, tensor) for plan in plans for tensor in plan.shard.tensors]
    for number in sorted(numbers, key=lambda number: rows[number].source):
        row, (plan, tensor) = rows[number], tensors[number]
        pattern = tensor.name if counts[tensor.name] == 1 else qualified(plan.file.relative, tensor.name)
        yield _Member(pattern=pattern, name=tensor.name, spec=row.spec if isinstance(row, TensorResult) else None)


def _most_common(specs: Iterable[QuantSpec]) -> QuantSpec | None:
    counted = Counter(specs)
    return counted.most_common(1)[0][0] if counted else None


def notes_of(allocation: Allocation) -> dict[QuantSpec | None, str]:
    """Describe, for comments, the tensors to which a plan gives each setting."""
    groups: dict[QuantSpec | None, list[tuple[Decision, Option]]] = defaultdict(list)
    for decision, option in allocation.chosen:
        row = allocation.rows[decision.tie.members[0]]
        groups[row.spec if isinstance(row, TensorResult) else None].append((decision, option))
    total = fsum(option.loss for _, option in allocation.chosen)
    found = {}
    for spec, own in groups.items():
        count = sum(len(decision.tie.members) for decision, _ in own)
        bits = sum(option.bits for _, option in own) / max(sum(decision.num_elements for decision, _ in own), 1)
        lowest = min(allocation.sqnr_db(decision, option) for decision, option in own)
        share = fsum(option.loss for _, option in own) / total if total else 0.0
        sqnr = f", lowest SQNR {lowest:.2f} dB, {share:.1%} of the loss" if isfinite(lowest) else ""
        found[spec] = f"{count} tensor{'s' * (count > 1)}, {bits:.3f} bits per weight{sqnr}"
    return found


def _not_selected(plans: Sequence[Plan], decided: set[str], min_ndim: int | None) -> list[str]:
    """Return names of undecided floating-point tensors that the recipe alone would quantize."""
    return [
        tensor.name
        for plan in plans
        for tensor, decision in plan.tensors
        if isinstance(decision, Skip)
        and tensor.dtype.is_floating
        and tensor.name not in decided
        and len(tensor.shape) >= (plan.min_ndim if min_ndim is None else min_ndim)
    ]


def _settings(spec: QuantSpec) -> dict[str, object]:
    """Return all settings of a spec by recipe key."""
    settings: dict[str, object] = {
        "num_bits": spec.num_bits,
        "signed_input": spec.signed_input,
        "narrow_range": spec.narrow_range,
        "round_mode": str(spec.round_mode),
        **_granularity(spec),
        "estimator": spec.estimator,
        "compute_dtype": str(spec.compute_dtype),
    }
    if spec.estimator == "percentile":
        settings["percentile"] = spec.percentile
    if spec.given_range is not None:
        settings["input_min"], settings["input_max"] = spec.given_range
    return settings


def _granularity(spec: QuantSpec) -> dict[str, object]:
    if spec.group_size is not None:
        return {"group_size": spec.group_size, **({"ragged_groups": True} if spec.ragged_groups else {})}
    return {"axis": word_of(spec.axis)}


def difference(default: QuantSpec, spec: QuantSpec) -> dict[str, object]:
    """Return the settings that a rule has to name, by recipe key."""
    before, after = _settings(default), _settings(spec)
    changes = {key: value for key, value in after.items() if before.get(key) != value}
    if "axis" in changes and default.group_size is not None:
        changes["group_size"] = NONE
    if default.ragged_groups and not spec.ragged_groups:
        changes["ragged_groups"] = False
    return changes
