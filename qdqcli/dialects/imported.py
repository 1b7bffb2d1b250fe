"""Imported: the recipe of another tool as rules on tensor names, and its text as a recipe of `qdq`."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from qdqcli.dialects import match
from qdqcli.dialects.weight import WEIGHT, WeightFormat
from qdqcli.errors import UsageError
from qdqcli.op.spec import DEFAULT_ESTIMATOR
from qdqcli.plain import JsonObject, Parsed
from qdqcli.recipe.folding import folded_globs, folded_regexes, plain_name
from qdqcli.recipe.patterns import compile_pattern, listed
from qdqcli.recipe.preset import preset
from qdqcli.recipe.toml_text import comment_lines, rule_lines, setting_lines
from qdqcli.tensors.tensor import TensorInfo

EVERYTHING = ("*",)
NO_MODULE = r"re:.*(?<!\.weight)"
"""Tensors that are not the weight of a module: biases, stacked experts, buffers."""
_STACKED = re.compile(r"experts|switch_mlp")
"""Names of linear layers of all experts, which have three dimensions."""
OUTPUT_HEAD, ROUTER, EMBEDDING, STATE_SPACE = "output head", "router", "embedding", "state space"
_NO_LINEAR = (EMBEDDING, STATE_SPACE, "norm", "bias")
"""Reasons in the preset `linear-only` for tensors that are no matrices of linear layers."""


@dataclass(frozen=True, kw_only=True)
class ImportedRule:
    """Format of the tensors that the patterns match, over what came before."""

    patterns: Sequence[str]
    format: WeightFormat | None = None
    """None: they stay in float."""
    reason: str = ""
    """Reason for float."""
    origin: str = ""
    """Entry of the file, for comments."""
    comment: str = ""
    """Loss of meaning: what the op cannot say."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Content of a file on the weights of a model."""

    title: str
    """The kind of file."""
    rules: Sequence[ImportedRule]
    """In order: a later rule overrides an earlier one."""
    notes: Sequence[str] = ()
    """What is lost, or assumed."""
    skips_indivisible: bool = False
    """True where the tool leaves weights in float that groups do not divide."""


def patterns_of(*reasons: str) -> list[str]:
    """Return the patterns of the preset `linear-only` for these reasons."""
    return [pattern for rule in preset("linear-only").rules if rule.skip in reasons for pattern in rule.patterns]


def linear_layers(base: WeightFormat | None, *others: str, origin: str = "", comment: str = "") -> list[ImportedRule]:
    """Return rules that give `base` to all linear layers, as their names tell; `others` are reasons to skip more."""
    reasons = (*_NO_LINEAR, *others)
    return [
        ImportedRule(patterns=EVERYTHING, format=base, origin=origin, comment=comment, reason=comment or "not named"),
        ImportedRule(patterns=[NO_MODULE], reason="not the weight of a module"),
        *(ImportedRule(patterns=patterns_of(reason), reason=reason) for reason in reasons),
    ]


def left_in_float(patterns: Sequence[str], key: str) -> ImportedRule:
    """Return the rule of an entry of the file that names what stays in float."""
    return ImportedRule(patterns=patterns, reason=key, origin=key)


def joined(rules: Sequence[ImportedRule]) -> list[ImportedRule]:
    """Join successive rules that differ in their patterns alone."""
    found: list[ImportedRule] = []
    for rule in rules:
        if found and replace(rule, patterns=found[-1].patterns) == found[-1]:
            found[-1] = replace(rule, patterns=[*found[-1].patterns, *rule.patterns])
        else:
            found.append(rule)
    return found


def recipe_text(imported: Imported, about: Sequence[str]) -> str:
    """Return the TOML text of a recipe.

    Raises:
        UsageError: the file quantizes nothing to integers.
    """
    formats = [rule.format for rule in imported.rules if rule.format is not None]
    if not formats:
        reasons = dict.fromkeys([*(rule.comment for rule in imported.rules if rule.comment), *imported.notes])
        raise UsageError(f"{imported.title}: no weight in integers: {'; '.join(reasons) or 'it names none'}")
    first, *rest = imported.rules
    has_base = first.format is not None and tuple(first.patterns) == EVERYTHING
    base = first if has_base else ImportedRule(patterns=EVERYTHING, format=Counter(formats).most_common(1)[0][0])
    lines = [*comment_lines([*about, *imported.notes]), "schema = 1", "", "[defaults]"]
    lines += [*comment_lines(filter(None, (base.origin, base.comment)))]
    has_estimators = len({own.estimator for own in formats}) > 1
    lines += setting_lines(_settings(base.format, names_estimator=has_estimators))
    lines += setting_lines({"min_ndim": 2} | ({"indivisible": "skip"} if imported.skips_indivisible else {}))
    has_skip = False
    for rule in joined(rest if has_base else imported.rules):
        has_skip = has_skip or rule.format is None
        settings: Parsed = {"skip": rule.reason or rule.comment}
        if rule.format is not None:
            settings = _settings(rule.format, names_estimator=has_estimators) | ({"skip": False} if has_skip else {})
        comments = filter(None, (rule.origin, rule.comment))
        lines += rule_lines(rule.patterns, {**settings, "optional": True}, comments)
    return "\n".join(lines) + "\n"


def _settings(own: WeightFormat | None, *, names_estimator: bool) -> JsonObject:
    """Return the settings of a format by recipe key; all rules name the estimator where it differs between rules."""
    assert own is not None
    is_named = names_estimator or own.estimator != DEFAULT_ESTIMATOR
    return {"scheme": own.scheme} | ({"estimator": own.estimator} if is_named else {})


def fitted(imported: Imported, tensors: Sequence[TensorInfo]) -> tuple[Imported, list[str]]:
    """Return the rules for matrices of the model, with few patterns, and warnings on patterns that match no tensor.

    Raises:
        UsageError: no pattern of the file matches any.
    """
    names = dict.fromkeys(tensor.name for tensor in tensors)
    matrices = dict.fromkeys(tensor.name for tensor in tensors if len(tensor.shape) > 1)
    rules: list[ImportedRule] = []
    is_used: dict[str, bool] = {}  # by entry of the file, of which one may be several patterns
    for rule in joined(imported.rules):
        own: dict[str, None] = {}
        for pattern in rule.patterns:
            matches = compile_pattern(pattern, names)
            found = [pattern] if pattern in names else list(filter(matches, names))
            if rule.origin:
                entry = match.shown(pattern)
                is_used[entry] = is_used.get(entry, False) or bool(found)
            own |= dict.fromkeys(name for name in found if name in matrices)
        if own:
            by_name = rule.origin and tuple(rule.patterns) != EVERYTHING
            rules.append(replace(rule, patterns=_few(list(own), matrices)) if by_name else rule)
    idle = [entry for entry, matches_some in is_used.items() if not matches_some]
    if len(idle) == len(is_used):
        tried = f": none matches {listed(idle, 3)}" if idle else ""
        raise UsageError(
            f"{imported.title}: the file names no tensor of the model{tried}; the model has {listed(list(matrices), 3)}"
        )
    if any(NO_MODULE in rule.patterns for rule in imported.rules):  # the file is on linear layers
        rules += _convolutions(tensors)
    return replace(imported, rules=rules), [f"{listed(idle)}: in the file, but not in the model"] if idle else []


def _convolutions(tensors: Sequence[TensorInfo]) -> list[ImportedRule]:
    """Return the rule that leaves weights of convolutions in float; none without any."""
    found = [tensor.name for tensor in tensors if len(tensor.shape) > 2 and tensor.name.endswith(WEIGHT)
             and not _STACKED.search(tensor.name)]  # fmt: skip
    if not found:
        return []
    names = [tensor.name for tensor in tensors if len(tensor.shape) > 1]
    return [ImportedRule(patterns=_few(found, names), reason="convolution")]


def _few(own: Sequence[str], names: Collection[str]) -> list[str]:
    """Return few patterns for names: globs, or regular expressions where these are fewer."""
    others = set(names) - set(own)
    globs = folded_globs(own, others)
    expressions = [plain_name(found, own) or f"re:{found}" for found in folded_regexes(own, others)]
    return globs if len(globs) <= len(expressions) else expressions


def in_words(formats: Sequence[WeightFormat | None]) -> str:
    """Count formats for a message: `36 int4-g128, 1 int8-channel, 67 in float`."""
    counts = Counter("in float" if own is None else str(own) for own in formats)
    counted: Iterator[str] = (f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return ", ".join(counted)
