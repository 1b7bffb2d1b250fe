"""Listing of every tensor with its dtype, shape, sizes and settings, from the headers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from qdqcli.errors import UsageError
from qdqcli.measure.layout import layout_of
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Decision, Resolution, Skip
from qdqcli.recipe.pairing import located
from qdqcli.recipe.patterns import compile_pattern, holders_of, matches_any, unmatched
from qdqcli.recipe.plan import Plan, inputs_of, notes_of, settings_of
from qdqcli.result.result import Headed, RunResult, Source, TensorResult, range_to_json, source_to_json, spec_to_json
from qdqcli.stats.metrics import METRICS, MetricValue
from qdqcli.tensors.tensor import TensorInfo

RANGES = ("input_min", "input_max", "num_nonfinite")
"""Columns that `inspect --data` adds after reading the data."""


@dataclass(frozen=True, kw_only=True)
class ListedTensor:
    """One tensor and the decision on it."""

    source: Source
    num_elements: int
    num_bytes: int
    resolution: Resolution
    """The decision on it, and what decided each setting."""
    num_slices: int = 0
    """Number of ranges; 0 where the tensor is skipped."""
    quantized_bits: int = 0
    """Storage bits of the codes and scales; 0 where the tensor is skipped."""
    decided_by: Mapping[str, str] | None = None
    """Setting -> the recipe table that decided it; None without a recipe."""
    ranges: Mapping[str, MetricValue] = field(default_factory=dict)
    """Values of `RANGES`, where the data was read."""
    estimated: tuple[float, float] | None = None
    """Overall range (min, max), where an estimator chose the ranges."""

    @property
    def decision(self) -> Decision:
        return self.resolution.decision

    @property
    def num_quantized_bytes(self) -> int:
        """Bytes of the packed codes and scales, or of the tensor where it is skipped."""
        return -(-self.quantized_bits // 8) or self.num_bytes

    @property
    def bits_per_weight(self) -> float | None:
        """Storage bits per element: of the codes and scales, or of the tensor where it is skipped."""
        bits = self.quantized_bits or 8 * self.num_bytes
        return bits / self.num_elements if self.num_elements else None

    @classmethod
    def of(
        cls, source: Source, tensor: TensorInfo, resolution: Resolution, scale_bits: int, *, has_recipe: bool
    ) -> Self:
        """Compute the sizes of one tensor."""
        decision = resolution.decision
        slices = layout_of(tensor, decision).num_slices if isinstance(decision, QuantSpec) else 0
        bits = tensor.num_elements * decision.num_bits + slices * scale_bits if isinstance(decision, QuantSpec) else 0
        return cls(
            source=source,
            num_elements=tensor.num_elements,
            num_bytes=tensor.nbytes,
            resolution=resolution,
            num_slices=slices,
            quantized_bits=bits,
            decided_by=resolution.decided_by if has_recipe else None,
        )


@dataclass(frozen=True, kw_only=True)
class Listing(Headed):
    """The tensors of all inputs, in order."""

    tensors: Sequence[ListedTensor]

    @classmethod
    def of(
        cls,
        command: str,
        plans: Sequence[Plan],
        settings: Mapping[str, object],
        scale_bits: int,
        *,
        has_recipe: bool = False,
    ) -> Self:
        """List the tensors of the plans; with a recipe, also the tables that decided each setting."""
        tensors = [
            ListedTensor.of(plan.source_of(tensor), tensor, resolution, scale_bits, has_recipe=has_recipe)
            for plan in plans
            for tensor, resolution in zip(plan.shard.tensors, plan.resolutions, strict=True)
        ]
        return cls(
            command=command,
            inputs=inputs_of(plans),
            settings=settings_of(plans, settings),
            tensors=tensors,
            notes=notes_of(plans),
        )

    def matching(self, pattern: str) -> Self:
        """Return the listing of the tensors that match.

        Raises:
            UsageError: none does; offers the nearest.
        """
        locations = list(located(self, self.tensors))
        holders = holders_of(locations)
        if not matches_any(pattern, holders):
            raise UsageError(unmatched(pattern, holders))
        matches = compile_pattern(pattern, holders)
        kept = [tensor for tensor, place in zip(self.tensors, locations, strict=True) if matches(*place)]
        return replace(self, tensors=kept)

    @property
    def summary(self) -> dict[str, MetricValue]:
        """Totals over all tensors."""
        quantized = [tensor for tensor in self.tensors if isinstance(tensor.decision, QuantSpec)]
        elements = sum(tensor.num_elements for tensor in quantized)
        kept = sum(tensor.num_bytes for tensor in self.tensors if isinstance(tensor.decision, Skip))
        bits = sum(tensor.quantized_bits for tensor in quantized)
        return {
            "num_tensors": len(self.tensors),
            "num_quantized": len(quantized),
            "num_skipped": len(self.tensors) - len(quantized),
            "num_elements": elements,
            "num_bytes": sum(tensor.num_bytes for tensor in self.tensors),
            "num_quantized_bytes": kept + -(-bits // 8),
            "bits_per_weight": bits / elements if elements else None,
        }


def with_ranges(listing: Listing, run: RunResult) -> Listing:
    """Return the listing with the ranges found in the data; the rows of `run` have the same order."""
    tensors = [
        replace(tensor, ranges={name: METRICS[name].value(row.sums) for name in RANGES})
        if isinstance(row, TensorResult)
        else tensor
        for tensor, row in zip(listing.tensors, run.rows, strict=True)
    ]
    return replace(listing, tensors=tensors)


def with_estimates(listing: Listing, overall_ranges: Mapping[tuple[str, str], tuple[float, float]]) -> Listing:
    """Return the listing with the overall estimated ranges, keyed by (file, name) of a tensor."""
    tensors = [
        replace(tensor, estimated=overall_ranges.get((tensor.source.file, tensor.source.name)))
        if isinstance(tensor.decision, QuantSpec)
        else tensor
        for tensor in listing.tensors
    ]
    return replace(listing, tensors=tensors)


def listed_to_json(tensor: ListedTensor) -> dict[str, object]:
    """Return a tensor as JSON values under a report's keys; `num_quantized_bytes` counts packed codes and scales."""
    decision = tensor.decision
    sizes = {"num_bytes": tensor.num_bytes, "num_quantized_bytes": tensor.num_quantized_bytes}
    head = source_to_json(tensor.source) | sizes
    decided_by = {} if tensor.decided_by is None else {"decided_by": dict(tensor.decided_by)}
    stats = {"num_elements": tensor.num_elements, **tensor.ranges, "bits_per_weight": tensor.bits_per_weight}
    if isinstance(decision, Skip):
        return {**head, "status": "skipped", "reason": decision.reason, "stats": stats, **decided_by}
    return {
        **head,
        "status": "quantized",
        "spec": spec_to_json(decision),
        "num_ranges": tensor.num_slices,
        **({} if tensor.estimated is None else {"range": range_to_json(*tensor.estimated)}),
        "stats": stats,
        **decided_by,
    }
