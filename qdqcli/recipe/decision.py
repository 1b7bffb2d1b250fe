"""Decision on a tensor (quantize or skip) and, as a Resolution, the recipe table behind each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from qdqcli.op.spec import QuantSpec
from qdqcli.plain import JsonObject
from qdqcli.recipe.rule import Placed, Rule

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
