"""compressed-tensors `quantization_config`, and the recipe of llm-compressor, which has the same groups.

Targets and `ignore` name modules, classes of modules, or `re:` and an expression for `re.match`. A module takes the
group of an exact name before that of an expression, before that of a class; among expressions the first in alphabetical
order counts, whatever the order of the groups; `ignore` wins. Source: compressed-tensors 0.20, utils/match.py and
quantization/lifecycle/apply.py.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from qdqcli.dialects import match
from qdqcli.dialects.dialect import Dialect, as_json, as_yaml, by_format, folded
from qdqcli.dialects.imported import EMBEDDING, Imported, ImportedRule, left_in_float, linear_layers, patterns_of
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import CHANNEL, TENSOR, Weight, WeightFormat
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.plain import JsonObject, Parsed
from qdqcli.recipe.patterns import listed

ASYMMETRIC = "asymmetric (integer zero points) in the file; symmetric here, about 1 dB worse at 4 bits"
ACTIVATIONS = "quantized activations in the file; weights alone here"
NO_INTEGERS = "in the file: not simulated, left in float"
_CLASSES = ("Linear", "Embedding")
"""Classes that names tell."""
_CLASS = re.compile(r"[A-Z]\w*")
_STRATEGIES = ("group", "channel", "tensor")
_SCHEME = re.compile(r"W([2-8])A(4|8|16|FP8)(_ASYM)?")


def write_config(weights: Sequence[Weight]) -> JsonObject:
    """Return the content of a config.json with nothing but its `quantization_config`."""
    groups, ignore = _groups(weights)
    for group in groups.values():
        group["format"] = "pack-quantized"
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    return {"quantization_config": {**config, "ignore": ignore}}


def write_recipe(weights: Sequence[Weight]) -> JsonObject:
    """Return the content of a recipe; `ignore` is left out, since the groups name what they take."""
    return {"quant_stage": {"quant_modifiers": {"QuantizationModifier": {"config_groups": _groups(weights)[0]}}}}


def _groups(weights: Sequence[Weight]) -> tuple[dict[str, JsonObject], list[str]]:
    """Return the groups, and what is ignored."""
    groups: dict[str, JsonObject] = {}
    ignore: list[str] = []
    for own, modules in by_format(weights).items():
        targets = [text if is_name else f"re:{text}$" for is_name, text in folded(modules, weights)]
        if own is None:
            ignore = targets
            continue
        strategy = {"strategy": own.scale} if isinstance(own.scale, str) else {"strategy": "group",
                                                                               "group_size": own.scale}  # fmt: skip
        observer = {"observer": own.estimator} if own.estimator != "minmax" else {}
        arguments = {"num_bits": own.num_bits, "type": "int", "symmetric": True, **strategy, "dynamic": False}
        groups[f"group_{len(groups)}"] = {"targets": targets, "weights": {**arguments, **observer}}
    return groups, ignore


def read_config(config: Table) -> Imported:
    """Read a `quantization_config`."""
    groups = [(name, group) for name, group in config.table("config_groups").items()]
    named = [(name, config.table("config_groups").texts(name)) for name, group in
             config.table("config_groups").data.items() if isinstance(group, list)]  # fmt: skip
    entries = [entry for _, group in groups for entry in _entries(group.texts("targets"), *_format_of(group))]
    entries += [entry for name, targets in named for entry in _entries(targets, *_preset(name, config))]
    if not entries:
        config.fail("config_groups", "groups with targets")
    ignore = config.texts("ignore")
    return Imported(title="compressed-tensors", rules=_rules(entries, ignore), notes=_unknown(entries, ignore))


def read_recipe(recipe: Parsed, where: str) -> Imported | None:
    """Read a recipe; None where no modifier of it quantizes weights."""
    entries: list[tuple[str, WeightFormat | None, str]] = []
    ignore: list[str] = []
    for name, modifier in _modifiers(Table(recipe, where)):
        found = [entry for _, group in modifier.table("config_groups").items()
                 for entry in _entries(group.texts("targets"), *_format_of(group))]  # fmt: skip
        scheme = modifier.data.get("scheme")
        if isinstance(scheme, dict):
            for preset in scheme:
                found += _entries(modifier.table("scheme").texts(preset), *_preset(str(preset), modifier))
        elif scheme is not None:
            found += _entries(modifier.texts("targets") or ["Linear"], *_preset(modifier.text("scheme"), modifier))
        if found and entries:
            raise UsageError(f"{where}{name}: a second modifier that quantizes; keep one of them")
        entries += found
        ignore += modifier.texts("ignore") if found else []
    if not entries:
        return None
    return Imported(title="llm-compressor", rules=_rules(entries, ignore), notes=_unknown(entries, ignore))


def _modifiers(table: Table, depth: int = 3) -> Iterator[tuple[str, Table]]:
    """Yield the modifiers of a recipe, wherever its stages hold them."""
    for name, inner in table.items():
        if name.endswith("Modifier"):
            yield name, inner
        elif depth:
            yield from _modifiers(inner, depth - 1)


Entry = tuple[str, WeightFormat | None, str]
"""Target, format (None: not in integers) and what is lost."""


def _entries(targets: Sequence[str], own: WeightFormat | None, comment: str) -> list[Entry]:
    return [(target, own, comment) for target in targets]


def losses(*reasons: str) -> str:
    """Return what is lost in one comment."""
    return "; ".join(filter(None, reasons))


def _format_of(group: Table) -> tuple[WeightFormat | None, str]:
    """Return the format of a group's weights, and what is lost."""
    if "weights" not in group:
        return None, "weights stay in float"
    weights = group.table("weights")
    bits = weights.bits("num_bits", default=8)
    if weights.text("type", default="int").lower() != "int":
        return None, f"{bits}-bit floats {NO_INTEGERS}"
    size = weights.integer("group_size", default=0)
    strategy = weights.text("strategy", default="group" if size > 0 else CHANNEL if size < 0 else TENSOR)
    if strategy not in _STRATEGIES:
        return None, f"{bits}-bit integers with a scale per {escape_name(strategy)} {NO_INTEGERS}"
    if strategy == "group" and size < 1:
        weights.fail("group_size", "the size of a group")
    observer = weights.text("observer", default="minmax")
    estimator = "mse" if observer.endswith("mse") else "minmax"
    own = WeightFormat(num_bits=bits, scale=size if strategy == "group" else strategy, estimator=estimator)
    is_symmetric = weights.flag("symmetric", default=True)
    return own, losses("" if is_symmetric else ASYMMETRIC, ACTIVATIONS if "input_activations" in group else "")


def _preset(name: str, table: Table) -> tuple[WeightFormat | None, str]:
    """Return the format of a named scheme such as W4A16."""
    upper = name.upper()
    if upper in ("INT8", "W8A8"):
        return WeightFormat(num_bits=8, scale=CHANNEL), ACTIVATIONS
    found = _SCHEME.fullmatch(upper)
    if found:
        lost = losses(ASYMMETRIC if found[3] else "", "" if found[2] == "16" else ACTIVATIONS)
        return WeightFormat(num_bits=int(found[1]), scale=128), lost
    if upper == "UNQUANTIZED":
        return None, ""
    if "FP" in upper:
        return None, f"{escape_name(upper)} {NO_INTEGERS}"
    raise UsageError(f"{table.where}scheme: '{escape_name(name)}' is not a known scheme such as W4A16 or W8A8")


def _rules(entries: Sequence[Entry], ignore: Sequence[str]) -> list[ImportedRule]:
    """Return rules in which the later ones win."""
    merged = {target: (own, comment) for target, own, comment in entries}
    classes = [target for target in merged if _CLASS.fullmatch(target)]
    expressions = [target for target in merged if target.startswith("re:")]
    names = [target for target in merged if target not in (*classes, *expressions)]
    linear = merged.get("Linear")
    rules = linear_layers(linear and linear[0], origin='targets: "Linear"' if linear else "",
                          comment=linear[1] if linear else "")  # fmt: skip
    ordered = [*(target for target in classes if target == "Embedding"), *sorted(expressions, reverse=True), *names]
    for target in ordered:
        own, comment = merged[target]
        reason = comment or "not quantized"
        rules.append(
            ImportedRule(patterns=_pattern(target), format=own, comment=comment, reason=reason, origin="targets")
        )
    patterns = [pattern for target in ignore for pattern in _pattern(target)]
    if patterns:
        rules.append(left_in_float(patterns, "ignore"))
    return rules


def _unknown(entries: Sequence[Entry], ignore: Sequence[str]) -> list[str]:
    """Return a note on classes of modules that names do not tell."""
    targets = dict.fromkeys([*(target for target, _, _ in entries), *ignore])
    found = [target for target in targets if _CLASS.fullmatch(target) and target not in _CLASSES]
    return [f"left out: {listed(found)}: classes of modules, which names do not tell"] if found else []


def _pattern(target: str) -> list[str]:
    """Return the patterns of a target; none for a class whose modules have no weights of their own."""
    if target.startswith("re:"):
        return [match.matched(target.removeprefix("re:"))]
    if _CLASS.fullmatch(target):
        return patterns_of(EMBEDDING) if target == "Embedding" else []
    return [match.exact(target)]


CONFIG = Dialect(
    title="compressed-tensors",
    bits=range(2, 9),
    estimators=("minmax", "mse"),
    engine="vLLM",
    write=lambda weights: as_json(write_config(weights)),
    usage="the quantization_config of a config.json, or the config of model_free_ptq; vLLM runs 4 and 8 bits",
)
RECIPE = replace(
    CONFIG,
    title="llm-compressor",
    write=lambda weights: as_yaml(write_recipe(weights)),
    usage="oneshot(model, recipe=FILE); a GPTQModifier or AWQModifier in place of QuantizationModifier takes the same "
    "groups",
)
