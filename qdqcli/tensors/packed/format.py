"""How a packed format is described: the tensors that hold one weight, by name, dtype and shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from qdqcli.tensors.tensor import TensorInfo

CODES = "codes"
SCALE = "scale"

Shape = tuple[int, ...]
Parts = Mapping[str, TensorInfo]
"""Role -> the tensor that has it; `codes` is always there."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A tensor that belongs to a packed weight."""

    role: str
    suffix: str
    """What it has where the codes have theirs."""
    dtypes: Sequence[str]
    is_optional: bool = False


@dataclass(frozen=True, kw_only=True)
class PackedFormat:
    """One way of storing a quantized weight."""

    name: str
    codes: str
    """The suffix of the tensor with the codes."""
    dtypes: Sequence[str]
    """Of the codes."""
    parts: Sequence[Part] = ()
    weight: str = ".weight"
    """The suffix of the weight in a float checkpoint."""
    methods: Sequence[str] = ()
    """The `quant_method` that declares it; where several formats fit the tensors, the declared one is meant."""
    is_declared: bool = False
    """It is never meant without its declaration: another format has the same tensors."""
    fits: Callable[[Parts], bool] = lambda _: True
    """Whether the shapes agree."""


class PackedWeight(NamedTuple):
    """A weight that is stored as codes."""

    name: str
    """What a float checkpoint calls it."""
    format: PackedFormat
    parts: Parts

    @property
    def title(self) -> str:
        """The format with what its scales are for, where the codes are as many as the weights."""
        codes, scale = self.parts[CODES], self.parts.get(SCALE)
        if scale is None or not (codes.dtype.name in FP8 or (codes.dtype.name == "I8" and scale.dtype.is_floating)):
            return self.format.name
        what = granularity(codes.shape, scale.shape)
        return self.format.name if what is None else f"{self.format.name} with a scale per {what}"


FP8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FLOATS = ("F32", "BF16", "F16")


def is_grid(codes: Shape, scale: Shape) -> bool:
    """Whether the scales lie on a grid over the codes: one, one per row, or no more than codes in each dimension."""
    if prod(scale) == 1 or scale == codes[:1]:
        return True
    return len(scale) == len(codes) and all(1 <= s <= c for s, c in zip(scale, codes, strict=True))


def scales_on_grid(parts: Parts) -> bool:
    """The scales, and MLX's biases, lie on a grid over the codes."""
    return is_grid(parts[CODES].shape, parts[SCALE].shape)


def granularity(codes: Shape, scale: Shape) -> str | None:
    """What one scale is for: `tensor`, `matrix` of a stack, `row`, `group of 32`, `128x128 block`; None: not shown."""
    if prod(scale) == 1:
        return "tensor"
    if len(codes) < 2 or 0 in codes:
        return None
    if scale == codes[:1] or scale == (*codes[:-1], 1):
        return "row"
    if len(codes) > 2 and scale == (*codes[:-2], 1, 1):
        return "matrix"
    if len(scale) != len(codes) or scale[:-2] != codes[:-2] or 0 in scale:
        return None
    height, width = (_block(c, s) for c, s in zip(codes[-2:], scale[-2:], strict=True))
    return f"group of {width}" if height == 1 else f"{height}x{width} block"


def _block(codes: int, scales: int) -> int:
    """Codes for each scale: a power of two where one fits, since the last block may be shorter."""
    return next((1 << n for n in range(codes.bit_length()) if -(-codes // (1 << n)) == scales), -(-codes // scales))
