"""Settings of a sweep and the results measured under each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from qdqcli.plain import JsonObject
from qdqcli.recipe.axis import BY_TENSOR, CHANNEL, fixed_axis
from qdqcli.recipe.keys import SKIP
from qdqcli.recipe.recipe import Recipe
from qdqcli.result.result import RunResult


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One column of a sweep: the settings of every tensor that no rule overrides."""

    num_bits: int
    axis: str | int = "none"
    """`none`, `last`, `channel`, the index of a dimension, or two: `0,1`."""
    group_size: int | None = None
    """Excludes `axis`."""
    estimator: str = "minmax"
    signed_input: bool = True
    percentile: float | None = None
    """Upper percentile of the range, for the estimator percentile; None is the default."""

    @property
    def name(self) -> str:
        """Short name: `int4 g128 mse`, `int8 channel`, `int8 axis 0`, `int8 tensor`."""
        words = [f"{'' if self.signed_input else 'u'}int{self.num_bits}"]
        if self.group_size is not None:
            words.append(f"g{self.group_size}")
        else:
            words.append({"none": "tensor", CHANNEL: CHANNEL}.get(str(self.axis), f"axis {self.axis}"))
        if self.estimator != "minmax":
            words.append(self.estimator if self.percentile is None else f"p{self.percentile:g}")
        return " ".join(words)

    def apply(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this setting in place of its own; tensors that cannot take it are skipped."""
        spec = replace(
            recipe.spec,
            num_bits=self.num_bits,
            signed_input=self.signed_input,
            axis=self.axis if isinstance(self.axis, int) else fixed_axis(self.axis),
            group_size=self.group_size,
            estimator=self.estimator,
            percentile=self.percentile,
        )
        axis = str(self.axis) if self.axis in BY_TENSOR else None
        return replace(recipe, spec=spec, axis=axis, indivisible=SKIP, skips_misfits=True)

    def to_json(self) -> JsonObject:
        """Return the setting under the options' names."""
        return {
            "num_bits": self.num_bits,
            "signed_input": self.signed_input,
            "axis": self.axis,
            "group_size": self.group_size,
            "estimator": self.estimator,
            "percentile": self.percentile,
        }


def settings_of(
    num_bits: Sequence[int],
    axes: Sequence[str | int],
    group_sizes: Sequence[int],
    estimators: Sequence[str],
    *,
    signed_input: bool = True,
) -> list[Setting]:
    """Return every combination: bits first, then granularities (axes, then groups), then estimators."""
    granularities: list[JsonObject] = [*({"axis": a} for a in axes), *({"group_size": g} for g in group_sizes)]
    return [
        Setting(num_bits=bits, estimator=estimator, signed_input=signed_input, **granularity)
        for bits, granularity, estimator in product(num_bits, granularities, estimators)
    ]


LADDER = [
    Setting(num_bits=8, axis=CHANNEL),
    *settings_of([4, 3], [CHANNEL], [128, 64, 32], ["minmax", "mse"]),
]
"""Commonly published settings, for a sweep without options."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One result per setting, over the same tensors in the same order."""

    settings: Sequence[Setting]
    results: Sequence[RunResult]

    def dominated(self) -> list[bool]:
        """Tell for each setting whether another has no more bits per weight, no less SQNR, and is better in one.

        Only settings that were measured on the same elements are compared.
        """
        points = [_point(result) for result in self.results]
        return [any(_is_better(other, point) for other in points if other[2] == point[2]) for point in points]

    def front(self) -> "Sweep":
        """Return the settings that no other dominates."""
        kept = [number for number, is_dominated in enumerate(self.dominated()) if not is_dominated]
        return Sweep(settings=[self.settings[k] for k in kept], results=[self.results[k] for k in kept])


def _point(result: RunResult) -> tuple[float, float, int]:
    """Return (bits per weight, SQNR in dB, number of elements)."""
    summary = result.summary
    bits, sqnr = summary["bits_per_weight"], summary["sqnr_db"]
    exact = float("inf") if result.is_exact else float("-inf")
    return (
        float("inf") if bits is None else float(bits),
        exact if sqnr is None else float(sqnr),
        int(summary["num_elements"] or 0),
    )


def _is_better(one: tuple[float, float, int], other: tuple[float, float, int]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one[:2] != other[:2]
