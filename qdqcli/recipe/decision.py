"""Decision on a tensor (quantize or skip) and, as a Resolution, the recipe table behind each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

from qdqcli.errors import SpecError
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import JsonObject
from qdqcli.recipe.axis import BY_TENSOR, CHANNEL, NONE, STACKED_NDIM, axis_of, holds_stacked_experts, word_of
from qdqcli.recipe.keys import ERROR, PLANNING, SETTINGS, SKIP
from qdqcli.recipe.rule import Placed, PlacedSettings, Rule, apply_rule
from qdqcli.tensors.tensor import TensorInfo

TOO_FEW = "fewer than"
"""Start of the reason for a skip by `min_ndim`."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Decision to leave the tensor as it is."""

    reason: str
    is_selected: bool = False
    """True where it holds weights that would be quantized if possible: a budget may limit how many are left out."""
    is_misfit: bool = False
    """True where the tensor's shape forbids its settings."""


Decision = QuantSpec | Skip


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Contradiction between a rule and the settings before it."""

    rule: Rule
    text: str
    """Message; contains `{tensors}` where their names belong."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Decision shared by all tensors that the same rules match and that have the same number of dimensions."""

    decision: Decision
    settings: Mapping[str, Placed]
    """Recipe key -> setting and its origins; empty where no recipe applies, as for integers."""
    rules: Sequence[Rule] = ()
    """All matching rules, in order."""
    problems: Sequence[Contradiction] = ()

    @cached_property
    def decided_by(self) -> Mapping[str, str]:
        """Setting -> the place that decided it, without built-in defaults; for a skipped tensor, that of the skip."""
        has_no_effect = ("min_ndim", "indivisible") if isinstance(self.decision, QuantSpec) else ()
        return {
            key: setting.places[-1]
            for key, setting in self.settings.items()
            if setting.places and key not in has_no_effect
        }


BUILT_IN = "built in"
"""Origin of a setting that nothing names."""


def fields_of(resolution: Resolution) -> Mapping[str, tuple[object, Sequence[str]]]:
    """Return setting -> (value, its origins, the effective one last), without settings that do not apply."""
    return {
        key: (setting.value, setting.places or [BUILT_IN])
        for key, setting in resolution.settings.items()
        if setting.places or (setting.value is not None and key != "min_ndim")
    }


def resolution_to_json(resolution: Resolution) -> JsonObject:
    """Return a resolution, shared by many tensors, as JSON values."""
    decision = resolution.decision
    reason = {"reason": decision.reason} if isinstance(decision, Skip) else {}
    fields = {
        key: {
            "value": value if not isinstance(value, float) or isfinite(value) else None,
            "decided_by": places[-1],
            "overrides": list(places[:-1]),
        }
        for key, (value, places) in fields_of(resolution).items()
    }
    return {
        "status": "skipped" if reason else "quantized",
        **reason,
        "rules": [rule.place for rule in resolution.rules],
        "fields": fields,
    }


def base_settings(
    spec: QuantSpec, min_ndim: int, indivisible: str, *, axis: str | None, places: Mapping[str, Sequence[str]]
) -> PlacedSettings:
    """Return the settings before any rule, common to all tensors.

    `axis` is `last` or `channel` where the axis depends on the tensor.
    """
    low, high = spec.given_range or (None, None)
    values: JsonObject = {key: getattr(spec, key) for key in SETTINGS if hasattr(spec, key)}
    values |= {
        "axis": axis or word_of(spec.axis),
        "input_min": low,
        "input_max": high,
        "percentile": spec.percentile if spec.estimator == "percentile" else None,
        "min_ndim": min_ndim,
        "indivisible": indivisible,
        "skip": None,
        "ranges": True if spec.range_given and spec.given_range is None else None,
    }
    return {key: Placed(value=value, places=tuple(places.get(key, ()))) for key, value in values.items()}


def resolve(
    base: PlacedSettings, spec: QuantSpec, rules: Sequence[Rule], ndim: int, *, is_stacked: bool = False
) -> Resolution:
    """Apply the rules that match a tensor of `ndim` dimensions, in order; `is_stacked` where it holds several experts.

    `spec` holds the settings of `base` and is returned unchanged where no rule matches.
    """
    settings = dict(base)
    problems = [Contradiction(rule=rule, text=text) for rule in rules for text in apply_rule(settings, rule)]
    if settings["skip"].value is not None:
        return _skipped(settings, "skip", settings["skip"].value, rules, problems)
    if ndim < settings["min_ndim"].value:
        reason = f"{TOO_FEW} {settings['min_ndim'].value} dimensions"
        return _skipped(settings, "min_ndim", reason, rules, ())
    if not rules and settings["axis"].value not in BY_TENSOR:
        return Resolution(decision=spec, settings=settings)
    try:
        decision = _spec(settings, spec, ndim, is_stacked=is_stacked)
    except SpecError as error:  # the op takes each value, but not their combination
        text = f"leaves {{tensors}} with settings that the op refuses: {error}"
        problems = problems or [Contradiction(rule=rules[-1], text=text)]
        decision = spec
    return Resolution(decision=decision, settings=settings, rules=rules, problems=problems)


def divided(resolution: Resolution, tensor: TensorInfo) -> Resolution:
    """Return the resolution for one tensor: applies `indivisible` where groups do not divide its last dimension."""
    spec, settings, shape = resolution.decision, resolution.settings, tensor.shape
    if not isinstance(spec, QuantSpec) or spec.group_size is None or spec.ragged_groups:
        return resolution
    way = settings["indivisible"]
    if way.value == ERROR or (shape[-1] if shape else 1) % spec.group_size == 0:
        return resolution
    if way.value == SKIP:
        reason = f"group_size {spec.group_size} does not divide the last dimension"
        return replace(resolution, decision=Skip(reason=reason, is_misfit=True), settings={"indivisible": way})
    place = way.places[-1] if way.places else "--indivisible"
    is_stacked = len(shape) == STACKED_NDIM and holds_stacked_experts(tensor.name)
    axis = axis_of(CHANNEL if len(shape) > 1 else NONE, len(shape), is_stacked=is_stacked)
    changed = {
        "axis": settings["axis"].over(word_of(axis), place),
        "group_size": settings["group_size"].over(None, place),
    }
    return replace(resolution, decision=replace(spec, group_size=None, axis=axis), settings={**settings, **changed})


def _skipped(
    settings: PlacedSettings, key: str, reason: str, rules: Sequence[Rule], problems: Sequence[Contradiction]
) -> Resolution:
    return Resolution(decision=Skip(reason=reason), settings={key: settings[key]}, rules=rules, problems=problems)


def _spec(settings: PlacedSettings, spec: QuantSpec, ndim: int, *, is_stacked: bool) -> QuantSpec:
    values = {key: setting.value for key, setting in settings.items()}
    values["axis"] = axis_of(values["axis"], ndim, is_stacked=is_stacked)
    low, high = values.pop("input_min"), values.pop("input_max")
    is_from_file = values.pop("ranges") is not None
    for key in ("skip", "min_ndim", "indivisible", *PLANNING):
        values.pop(key, None)
    return replace(
        spec, **values, range_given=is_from_file or low is not None, given_range=None if low is None else (low, high)
    )
