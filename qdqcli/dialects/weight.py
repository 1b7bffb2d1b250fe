"""WeightFormat: what quantization tools agree on for a weight, symmetric integers and what shares a scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from qdqcli.errors import SpecError
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec, RoundMode, axis_text
from qdqcli.recipe.plan import Plan
from qdqcli.tensors.tensor import DType

WEIGHT = ".weight"
"""Suffix of a module's name in the name of its weight."""
TENSOR, CHANNEL = "tensor", "channel"


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """Signed symmetric integers of one weight."""

    num_bits: int
    scale: int | str
    """Group size, or `channel` or `tensor`: what shares a scale."""
    estimator: str = "minmax"
    """`minmax` or `mse`."""

    @property
    def scheme(self) -> str:
        """Name of the scheme in a recipe: `int4-g128`, `int8-channel`."""
        return f"int{self.num_bits}-{self.scale if isinstance(self.scale, str) else f'g{self.scale}'}"

    def __str__(self) -> str:
        return self.scheme + (f" {self.estimator}" if self.estimator != "minmax" else "")

    @classmethod
    def of(cls, spec: QuantSpec) -> Self:
        """Return the format of these settings.

        Raises:
            SpecError: no other tool has them; says which.
        """
        if not spec.signed_input:
            raise SpecError("unsigned codes without a zero point")
        if spec.narrow_range:
            raise SpecError("narrow_range")
        if spec.round_mode != RoundMode.HALF_TO_EVEN:
            raise SpecError(f"round_mode {spec.round_mode}")
        if spec.range_given:
            raise SpecError("a given range: other tools take it from the weights")
        if spec.estimator not in ("minmax", "mse"):
            raise SpecError(f"estimator {spec.estimator}")
        if spec.ragged_groups:
            raise SpecError("ragged_groups")
        if spec.group_size is None and spec.axis not in (WHOLE_TENSOR, 0):
            raise SpecError(f"axis {axis_text(spec.axis)}: other tools have one scale per row, axis 0")
        scale = spec.group_size or (TENSOR if spec.axis == WHOLE_TENSOR else CHANNEL)
        return cls(num_bits=spec.num_bits, scale=scale, estimator=spec.estimator)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A floating-point tensor and what becomes of it."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    spec: QuantSpec | None
    """None where it stays in float."""

    @property
    def module(self) -> str:
        """Name of the module whose weight it is."""
        return self.name.removesuffix(WEIGHT)

    @property
    def is_matrix(self) -> bool:
        """Tell whether it is the weight of a module that tools may quantize."""
        return self.name.endswith(WEIGHT) and len(self.shape) > 1

    @property
    def format(self) -> WeightFormat | None:
        """The format; raises like `WeightFormat.of`."""
        return None if self.spec is None else WeightFormat.of(self.spec)


def weights_of(plans: Sequence[Plan]) -> Iterator[Weight]:
    """Yield the floating-point tensors of all inputs."""
    for plan in plans:
        for tensor, decision in plan.tensors:
            if tensor.dtype.is_floating:
                spec = decision if isinstance(decision, QuantSpec) else None
                yield Weight(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, spec=spec)
