"""Description of a packed format: the tensors that store one weight, by name, dtype and shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import NamedTuple

from qdqcli.plain import Parsed
from qdqcli.tensors.packed.storage import Block
from qdqcli.tensors.tensor import TensorInfo

CODES = "codes"
SCALE = "scale"
ZERO_POINT = "zero point"
GLOBAL_SCALE = "global scale"
GROUP_INDEX = "group index"
CODE_BOOK = "code book"
INPUT_SCALE = "input channel scale"
OFFSET = "offset"
SHAPE = "shape"
FORMAT = "format"
SCALE_OF_SCALES = "scale of scales"
BOOK_OF_SCALES = "code book of scales"

Shape = tuple[int, ...]
Parts = Mapping[str, TensorInfo]
"""Role -> tensor with that role; `codes` is always present."""


@dataclass(frozen=True, kw_only=True)
class WeightPart:
    """A tensor that belongs to a packed weight."""

    role: str
    suffix: str
    """Name suffix that replaces the codes' suffix."""
    dtypes: Sequence[str]
    is_optional: bool = False


@dataclass(frozen=True, kw_only=True)
class PackedFormat:
    """A storage format of quantized weights."""

    name: str
    codes: str
    """Suffix of the tensor that holds the codes."""
    dtypes: Sequence[str]
    """Dtypes of the codes."""
    parts: Sequence[WeightPart] = ()
    weight: str = ".weight"
    """Suffix of the weight in a float checkpoint."""
    methods: Sequence[str] = ()
    """Values of `quant_method` that declare the format; they decide when several formats fit the tensors."""
    is_declared: bool = False
    """Match only if declared: another format has the same tensors."""
    fits: Callable[[Parts], bool] = lambda _: True
    """Predicate on the shapes of the parts."""
    is_tiled: bool = False
    """Scales are stored in tiles and padded: their shape does not tell what shares one."""
    decoder: str | None = None
    """`module:attribute` of the function that makes a `Decoder` of a weight; None: the codes are not decoded."""


class PackedWeight(NamedTuple):
    """A weight that is stored as codes."""

    name: str
    """Name in a float checkpoint."""
    format: PackedFormat
    parts: Parts
    config: Parsed = MappingProxyType({})
    """Declaration of the quantization: `quantization_config` or the equivalent of the folder."""
    problem: str | None = None
    """Reason why codes of a declared method fit none of its formats."""

    @property
    def title(self) -> str:
        """Format name with the type of GGUF's blocks, or the scale granularity if there is one code per weight."""
        return self.titled(None)

    def titled(self, shared_by: str | None) -> str:
        """Return the title; `shared_by` is the granularity where it is known, else the shapes tell it."""
        codes, scale = self.parts[CODES], self.parts.get(SCALE)
        if codes.dtype.is_block:
            return f"{self.format.name} {codes.dtype.name}"
        if scale is None or self.format.is_tiled:
            return self.format.name
        if codes.dtype.name not in FP8 and not (codes.dtype.name == "I8" and scale.dtype.is_floating):
            return self.format.name
        what = shared_by or granularity(codes.shape, scale.shape)
        return self.format.name if what is None else f"{self.format.name} with a scale per {what}"


FP8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FLOATS = ("F32", "BF16", "F16")
E8M0 = ("U8", "F8_E8M0")
"""Dtypes of scales that are powers of two; libraries also store them as bytes."""


def grid_shape(codes: Shape, scale: Shape) -> Shape:
    """Return the shape of scales; ModelOpt keeps an axis of 1 after each axis of a block: (rows, 1, columns, 1)."""
    return scale[::2] if len(scale) == 2 * len(codes) and set(scale[1::2]) == {1} else scale


def is_grid(codes: Shape, scale: Shape) -> bool:
    """Tell whether the scales form a grid over the codes: one, one per row, or at most one per code along each axis."""
    scale = grid_shape(codes, scale)
    if prod(scale) == 1 or scale == codes[:1]:
        return True
    return len(scale) == len(codes) and all(1 <= s <= c for s, c in zip(scale, codes, strict=True))


def scales_on_grid(parts: Parts) -> bool:
    """Tell whether the scales (and MLX's biases) form a grid over the codes."""
    return is_grid(parts[CODES].shape, parts[SCALE].shape)


def granularity(codes: Shape, scale: Shape) -> str | None:
    """Return what shares a scale: `tensor`, `matrix`, `row`, `group of 32` or `128x128 block`; None if unclear."""
    scale = grid_shape(codes, scale)
    if prod(scale) == 1:
        return "tensor"
    if len(codes) < 2 or 0 in codes:
        return None
    if scale == codes[:1]:
        return "row"
    if len(scale) != len(codes) or scale[:-2] != codes[:-2] or 0 in scale:
        return None
    height, width = (codes_per_scale(c, s) for c, s in zip(codes[-2:], scale[-2:], strict=True))
    return block_text(codes, (height, width))


def block_text(shape: Shape, block: Block) -> str:
    """Return what shares a scale, from its rows and columns of the last two dimensions."""
    height, width = block
    if width >= shape[-1]:
        if height >= prod(shape[:-1]):
            return "tensor"
        if height == 1:
            return "row"
        if height >= shape[-2]:
            return "matrix"
    return f"group of {width}" if height == 1 else f"{height}x{width} block"


def codes_per_scale(codes: int, scales: int) -> int:
    """Return the codes per scale: a power of two if one fits, since the last block may be shorter."""
    return next((1 << n for n in range(codes.bit_length()) if -(-codes // (1 << n)) == scales), -(-codes // scales))
