"""Decision: what is done to a tensor and, as a Resolution, which table of a recipe decided each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from qdqcli.errors import SpecError
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec
from qdqcli.recipe.keys import ERROR, NONE, SETTINGS, SKIP
from qdqcli.recipe.rule import Rule, Setting, Settings, apply_rule

LAST = "last"
TOO_FEW = "fewer than"
"""How the reason begins for which `min_ndim` leaves a tensor as it is."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """The tensor is left as it is."""

    reason: str
    is_selected: bool = False
    """Whether it holds weights that would be quantized if they could be: a budget may ask how many are left out."""


Decision = QuantSpec | Skip


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a rule says against what came before it."""

    rule: Rule
    text: str
    """With `{tensors}` where they are to be named."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Of all tensors that the same rules match and that have as many dimensions."""

    decision: Decision
    settings: Mapping[str, Setting]
    """By key of a recipe, with what set each; nothing where no recipe is asked, as for integers."""
    rules: Sequence[Rule] = ()
    """All that match, in order."""
    problems: Sequence[Problem] = ()

    @cached_property
    def decided_by(self) -> Mapping[str, str]:
        """Setting -> what decided it, without those that are built in; of a skipped tensor, what skips it."""
        has_no_effect = ("min_ndim", "indivisible") if isinstance(self.decision, QuantSpec) else ()
        return {
            key: setting.places[-1]
            for key, setting in self.settings.items()
            if setting.places and key not in has_no_effect
        }


def base_settings(
    spec: QuantSpec, min_ndim: int, indivisible: str, *, last_axis: bool, places: Mapping[str, Sequence[str]]
) -> Settings:
    """The settings before any rule: those of all tensors."""
    low, high = spec.given_range or (None, None)
    values: dict[str, Any] = {key: getattr(spec, key) for key in SETTINGS if hasattr(spec, key)}
    values |= {
        "axis": LAST if last_axis else NONE if spec.axis == WHOLE_TENSOR else spec.axis,
        "input_min": low,
        "input_max": high,
        "percentile": spec.percentile if spec.estimator == "percentile" else None,
        "min_ndim": min_ndim,
        "indivisible": indivisible,
        "skip": None,
        "ranges": True if spec.range_given and spec.given_range is None else None,
    }
    return {key: Setting(value=value, places=tuple(places.get(key, ()))) for key, value in values.items()}


def resolve(base: Settings, spec: QuantSpec, rules: Sequence[Rule], ndim: int) -> Resolution:
    """Apply the rules that match a tensor of `ndim` dimensions, in order.

    `spec` is what `base` is made of: it comes back as it is where no rule matches.
    """
    settings = dict(base)
    problems = [Problem(rule=rule, text=text) for rule in rules for text in apply_rule(settings, rule)]
    if settings["skip"].value is not None:
        return _skipped(settings, "skip", settings["skip"].value, rules, problems)
    if ndim < settings["min_ndim"].value:
        reason = f"{TOO_FEW} {settings['min_ndim'].value} dimensions"
        return _skipped(settings, "min_ndim", reason, rules, ())
    try:
        decision = _spec(settings, spec, ndim)
    except SpecError as error:  # each value is one that the op takes, but not together
        text = f"leaves {{tensors}} with settings that the op refuses: {error}"
        problems = problems or [Problem(rule=rules[-1], text=text)]
        decision = spec
    return Resolution(decision=decision, settings=settings, rules=rules, problems=problems)


def divided(resolution: Resolution, shape: tuple[int, ...]) -> Resolution:
    """What holds for tensors of a shape: as `indivisible` says where groups do not divide its last dimension."""
    spec, settings = resolution.decision, resolution.settings
    if not isinstance(spec, QuantSpec) or spec.group_size is None or spec.ragged_groups:
        return resolution
    way = settings["indivisible"]
    if way.value == ERROR or (shape[-1] if shape else 1) % spec.group_size == 0:
        return resolution
    if way.value == SKIP:
        reason = f"group_size {spec.group_size} does not divide the last dimension"
        return replace(resolution, decision=Skip(reason=reason), settings={"indivisible": way})
    place = way.places[-1] if way.places else "--indivisible"
    axis = 0 if len(shape) > 1 else WHOLE_TENSOR
    changed = {
        "axis": settings["axis"].over(NONE if axis == WHOLE_TENSOR else axis, place),
        "group_size": settings["group_size"].over(None, place),
    }
    return replace(resolution, decision=replace(spec, group_size=None, axis=axis), settings={**settings, **changed})


def _skipped(
    settings: Settings, key: str, reason: str, rules: Sequence[Rule], problems: Sequence[Problem]
) -> Resolution:
    return Resolution(decision=Skip(reason=reason), settings={key: settings[key]}, rules=rules, problems=problems)


def _spec(settings: Settings, spec: QuantSpec, ndim: int) -> QuantSpec:
    values = {key: setting.value for key, setting in settings.items()}
    axis = values["axis"]
    values["axis"] = {NONE: WHOLE_TENSOR, LAST: max(ndim - 1, 0)}.get(axis, axis)
    low, high = values.pop("input_min"), values.pop("input_max")
    is_from_file = values.pop("ranges") is not None
    del values["skip"], values["min_ndim"], values["indivisible"]
    return replace(
        spec, **values, range_given=is_from_file or low is not None, given_range=None if low is None else (low, high)
    )
