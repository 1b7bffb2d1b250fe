"""Findings: errors in the rules of a recipe, given the tensors that it applies to.

A rule that matches nothing, one that decides nothing, one that contradicts another: each is a pattern that silently
does something else than it says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qdqcli.errors import UsageError
from qdqcli.recipe.decision import Resolution, Skip
from qdqcli.recipe.patterns import Holders, listed, matches_any, unmatched
from qdqcli.recipe.rule import Rule
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class RuleFinding:
    """One error in one rule."""

    rule: Rule
    text: str
    is_unmatched: bool = False
    """True for a pattern that matches nothing, which may be allowed."""

    def __str__(self) -> str:
        return f"{self.rule.where}: {self.text}"

    def to_json(self) -> dict[str, object]:
        """Return the finding as JSON values."""
        kind = "unmatched" if self.is_unmatched else "error"
        return {"source": self.rule.source, "line": self.rule.line, "rule": self.rule.number, "kind": kind,
                "message": self.text}  # fmt: skip


Group = tuple[Resolution, Sequence[TensorInfo]]
"""A resolution and the tensors that share it."""


def findings_of(
    rules: Sequence[Rule], tensors: Sequence[TensorInfo], resolutions: Sequence[Resolution], holders: Holders
) -> list[RuleFinding]:
    """Return all findings in the order of the rules; `resolutions` are those of all tensors, selected or not."""
    if not rules:
        return []
    by_resolution: dict[int, tuple[Resolution, list[TensorInfo]]] = {}
    for tensor, resolution in zip(tensors, resolutions, strict=True):
        by_resolution.setdefault(id(resolution), (resolution, []))[1].append(tensor)
    groups: list[Group] = list(by_resolution.values())
    order = {id(rule): number for number, rule in enumerate(rules)}
    found = [*_unmatched(rules, holders, groups), *_contradictions(groups), *_idle(groups)]
    return sorted(found, key=lambda finding: order[id(finding.rule)])


def check_rules(
    rules: Sequence[Rule],
    tensors: Sequence[TensorInfo],
    resolutions: Sequence[Resolution],
    holders: Holders,
    *,
    allow_unmatched: bool,
) -> list[str]:
    """Return warnings about the rules, also one for each file whose rules are all optional and match nothing.

    Raises:
        UsageError: a rule has a finding that is not allowed.
    """
    warnings, errors = [], []
    for finding in findings_of(rules, tensors, resolutions, holders):
        if finding.is_unmatched and allow_unmatched:
            warnings.append(str(finding))
        else:
            errors.append(finding)
    if errors:
        raise UsageError(_refusal(errors))
    matching = {id(rule) for resolution in {id(r): r for r in resolutions}.values() for rule in resolution.rules}
    sources = {source: [rule for rule in rules if rule.source == source]
               for source in dict.fromkeys(rule.source for rule in rules)}  # fmt: skip
    return warnings + [
        f"{source}: none of its {len(own)} rules matches any of {len(resolutions)} tensors"
        for source, own in sources.items()
        if all(rule.is_optional and id(rule) not in matching for rule in own)
    ]


def _refusal(errors: Sequence[RuleFinding]) -> str:
    first, *more = errors
    advice = "; --allow-unmatched makes this a warning" if first.is_unmatched else ""
    return f"{first}{advice}" + (f"; {len(more)} more: 'qdq recipe lint' lists them" if more else "")


def _unmatched(rules: Sequence[Rule], holders: Holders, groups: Sequence[Group]) -> Iterator[RuleFinding]:
    matching = {id(rule) for resolution, _ in groups for rule in resolution.rules}
    for rule in rules:
        if rule.is_optional or (len(rule.patterns) == 1 and id(rule) in matching):
            continue
        for pattern in rule.patterns:
            if not matches_any(pattern, holders):
                yield RuleFinding(rule=rule, text=unmatched(pattern, holders), is_unmatched=True)


def _contradictions(groups: Sequence[Group]) -> Iterator[RuleFinding]:
    """Yield contradictions, one finding for all tensors that share it."""
    named: dict[tuple[int, str], tuple[Rule, list[str]]] = {}
    for resolution, tensors in groups:
        for problem in resolution.problems:
            _, names = named.setdefault((id(problem.rule), problem.text), (problem.rule, []))
            names += [tensor.name for tensor in tensors]
    for (_, text), (rule, names) in named.items():
        yield RuleFinding(rule=rule, text=text.replace("{tensors}", _named(names)))


def _named(names: Sequence[str]) -> str:
    return listed(names[:1]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _idle(groups: Sequence[Group]) -> Iterator[RuleFinding]:
    """Yield rules that match tensors but decide nothing for any of them, without a contradiction."""
    settings = [setting for resolution, _ in groups for setting in resolution.settings.values()]
    busy = {setting.places[-1] for setting in settings if setting.places}
    busy |= {problem.rule.place for resolution, _ in groups for problem in resolution.problems}
    idle: dict[int, tuple[Rule, list[Group]]] = {}
    for resolution, tensors in groups:
        for rule in resolution.rules:
            if rule.place not in busy and not rule.is_optional:
                idle.setdefault(id(rule), (rule, []))[1].append((resolution, tensors))
    for rule, matched in idle.values():
        if rule.skip is not None and any(not resolution.settings for resolution, _ in matched):
            continue  # the tensors are skipped anyway; the rule gives the reason
        count = sum(len(tensors) for _, tensors in matched)
        reasons = dict.fromkeys(reason for resolution, _ in matched for reason in _why_idle(rule, resolution))
        what = f"decides nothing for the {count} tensor{'s' * (count > 1)} that it matches: {', '.join(reasons)}"
        yield RuleFinding(rule=rule, text=f"{what}; remove it, or put it where it counts")


def _why_idle(rule: Rule, resolution: Resolution) -> Iterator[str]:
    decision, decided_by = resolution.decision, resolution.decided_by
    if isinstance(decision, Skip):
        is_by_default = "min_ndim" in resolution.settings and not decided_by
        left = f"left as they are, {decision.reason}{' (min_ndim = 0 in the rule takes them)' * is_by_default}"
        yield f"{decided_by['skip']} skips them" if "skip" in decided_by else left
        return
    if rule.skip is not None:
        later = resolution.rules[resolution.rules.index(rule) + 1 :]
        yield from (f"{lifting.place} lifts it" for lifting in later if lifting.lifts_skip)
    if rule.lifts_skip:
        yield "nothing skips them before"
    yield from (
        f"{place} overrides it" for place in dict.fromkeys(resolution.settings[key].places[-1] for key in rule.changes)
    )
