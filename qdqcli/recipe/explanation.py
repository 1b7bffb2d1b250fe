"""Explanation: the recipe table that decided each setting of each tensor, from the headers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Self

from qdqcli.errors import UsageError
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Resolution, Skip
from qdqcli.recipe.patterns import compile_pattern, holders_of, matches_any, unmatched
from qdqcli.recipe.plan import Plan, inputs_of, notes_of, settings_of
from qdqcli.result.result import Headed
from qdqcli.tensors.tensor import TensorInfo

BUILT_IN = "built in"


@dataclass(frozen=True, kw_only=True)
class ExplainedTensor:
    """One tensor and the decision on it."""

    tensor: TensorInfo
    file: str
    """Path of the shard, as the user finds it."""
    resolution: Resolution


def fields_of(resolution: Resolution) -> Mapping[str, tuple[object, Sequence[str]]]:
    """Return setting -> (value, its origins, the effective one last), without settings that do not apply."""
    return {
        key: (setting.value, setting.places)
        for key, setting in resolution.settings.items()
        if setting.places or (setting.value is not None and key != "min_ndim")
    }


@dataclass(frozen=True, kw_only=True)
class Explanation(Headed):
    """The tensors of all inputs, in order."""

    tensors: Sequence[ExplainedTensor]
    is_detailed: bool = False
    """True where the tensors were asked for by name."""

    @classmethod
    def of(cls, command: str, plans: Sequence[Plan], settings: Mapping[str, object], pattern: str | None) -> Self:
        """Explain the matching tensors, or all.

        Raises:
            UsageError: none matches; offers the nearest.
        """
        holders = holders_of((tensor.name, plan.file) for plan in plans for tensor in plan.shard.tensors)
        if pattern is not None and not matches_any(pattern, holders):
            raise UsageError(unmatched(pattern, holders))
        is_asked = None if pattern is None else compile_pattern(pattern, holders)
        tensors = [
            ExplainedTensor(tensor=tensor, file=plan.file.path, resolution=resolution)
            for plan in plans
            for tensor, resolution in zip(plan.shard.tensors, plan.resolutions, strict=True)
            if is_asked is None or is_asked(tensor.name, plan.file)
        ]
        return cls(
            command=command,
            inputs=inputs_of(plans),
            settings=settings_of(plans, settings),
            tensors=tensors,
            notes=notes_of(plans),
            is_detailed=pattern is not None,
        )


def explanation_summary(explanation: Explanation) -> dict[str, int]:
    """Return counts of tensors."""
    quantized = sum(isinstance(tensor.resolution.decision, QuantSpec) for tensor in explanation.tensors)
    total = len(explanation.tensors)
    return {"num_tensors": total, "num_quantized": quantized, "num_skipped": total - quantized}


def head_to_json(explained: ExplainedTensor) -> dict[str, object]:
    """Return the identity of a tensor (name, file, dtype, shape) as JSON values."""
    tensor = explained.tensor
    return {"name": tensor.name, "file": explained.file, "dtype": tensor.dtype.name, "shape": list(tensor.shape)}


def resolution_to_json(resolution: Resolution) -> dict[str, object]:
    """Return a resolution, shared by many tensors, as JSON values."""
    decision = resolution.decision
    reason = {"reason": decision.reason} if isinstance(decision, Skip) else {}
    fields = {
        key: {
            "value": value if not isinstance(value, float) or isfinite(value) else None,
            "decided_by": places[-1] if places else BUILT_IN,
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
