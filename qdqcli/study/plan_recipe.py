"""Recipe of chosen settings: few rules with folded patterns, and a check that they reproduce the choice."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite

from qdqcli.errors import UsageError
from qdqcli.escape import escape
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.axis import NONE, word_of
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.file import parse_recipe
from qdqcli.recipe.file_ref import SEPARATOR, qualified
from qdqcli.recipe.patterns import compile_pattern, listed
from qdqcli.recipe.plan import Plan, make_plans
from qdqcli.recipe.request import DEFAULTS, merge_options, request_from
from qdqcli.result.result import Row, TensorResult
from qdqcli.study.allocation import LEFT_IN_FLOAT, Allocation, Decision, Option
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
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
    decided = {member.name for member in members if member.spec is not None}
    default = _most_common(member.spec for member in members if member.spec is not None)
    if default is None:
        raise UsageError("the plan leaves every tensor in float; allow fewer bits than float has")
    lines = [f"# {escape(line)}" for line in about]
    lines += ["schema = 1", "", "[defaults]", *_lines(_settings(default))]
    if min_ndim is not None:
        lines.append(f"min_ndim = {min_ndim}")
    if default in notes:
        lines.append(f"# {notes[default]}")
    by_spec: dict[QuantSpec | None, list[_Member]] = defaultdict(list)
    for member in members:
        if member.spec != default:
            by_spec[member.spec].append(member)
    for spec, own in by_spec.items():
        patterns = _folded(own, members)
        lines += ["", "[[rules]]"]
        if spec in notes:
            lines.append(f"# {notes[spec]}")
        lines += ["match = [", *(f"    {_quoted(pattern)}," for pattern in patterns), "]"]
        lines += _lines(difference(default, spec)) if spec is not None else [f"skip = {_quoted(LEFT_IN_FLOAT)}"]
    idle = _not_selected(plans, decided, min_ndim)
    if idle:
        lines += ["", "[[rules]]", "match = [", *(f"    {_quoted(p)}," for p in idle), "]"]
        lines.append(f"skip = {_quoted(_NOT_SELECTED)}")
    return "\n".join(lines) + "\n"


def plans_of(
    text: str, checkpoints: Sequence[Checkpoint], packed: Sequence[Packed], source: str = "the recipe"
) -> list[Plan]:
    """Return the plans of a recipe from its text, as `--recipe` reads it."""
    read = parse_recipe(text, source)
    return make_plans(checkpoints, request_from(merge_options(DEFAULTS, [read], {}, {})).recipe, packed)[0]


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


def _folded(own: Sequence[_Member], members: Sequence[_Member]) -> list[str]:
    """Return patterns for `own`: a glob over layer numbers where it matches no other decided tensor."""
    globs: dict[str, list[_Member]] = defaultdict(list)
    for member in own:
        plain = not set(member.pattern) & set("*?[")
        globs[_NUMBER.sub("*", member.pattern) if plain else member.pattern].append(member)
    theirs = {member.name for member in members} - {member.name for member in own}
    patterns = []
    for glob, matched in globs.items():
        matches = compile_pattern(glob)
        if len(matched) == 1 or SEPARATOR in glob or any(matches(name) for name in theirs):
            patterns += [member.pattern for member in matched]
        else:
            patterns.append(glob)
    return patterns


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


def _lines(settings: Mapping[str, object]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in settings.items()]


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
