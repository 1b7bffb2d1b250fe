"""Conventions: how other libraries turn the elements that share a scale into integers and back, to the bit.

Each takes finite float32 elements, a row for each scale, and returns float32. The tests compare them with what the
libraries computed (`tests/peers/conventions.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.arrays import quantize_and_dequantize_v4

F32 = NDArray[np.float32]
"""Elements: (scales, elements of each)."""
_EPS = np.finfo(np.float32).eps
"""Smallest scale of PyTorch's observers, and scale of zeros in compressed-tensors."""
_TINY = np.finfo(np.float32).tiny
"""Smallest scale of ONNX Runtime; below it the scale is 1."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One way to choose a scale and to round."""

    name: str
    scale: str
    """The scale, with `{half}`, `{high}`, `{low}` and `{steps}` for the numbers that depend on the bits."""
    library: str
    """Whose arithmetic it is."""
    arithmetic: Callable[[F32, int], F32]
    """Quantize and dequantize rows with that many bits."""
    num_bits: int | None = None
    """The only number of bits that it has, if it is limited."""
    group_size: int | None = None
    """The only group size that it has, if it is limited."""

    def apply(self, x: F32, num_bits: int) -> F32:
        """Quantize and dequantize; scales of zeros and tiny numbers divide by zero, as in the library."""
        with np.errstate(all="ignore"):
            return self.arithmetic(x, num_bits)

    def formula(self, num_bits: int) -> str:
        """Return the scale in words: `max|x| / 7.5`."""
        lowest, highest = _codes(num_bits)
        return self.scale.format(half=_half(num_bits), high=highest, low=lowest, steps=highest - lowest)

    def fits(self, num_bits: int, group_size: int | None) -> bool:
        """Tell whether it has this number of bits and this group size; None: no groups."""
        return self.num_bits in (None, num_bits) and self.group_size in (None, group_size)


def _codes(num_bits: int) -> tuple[int, int]:
    """Return the lowest and the highest signed code."""
    return -(1 << (num_bits - 1)), (1 << (num_bits - 1)) - 1


def _largest(x: F32) -> F32:
    largest: F32 = np.abs(x).max(axis=1, keepdims=True)
    return largest


def _extremes(x: F32) -> tuple[F32, F32]:
    """Return the range of each row, extended to zero."""
    return np.minimum(x.min(axis=1, keepdims=True), 0), np.maximum(x.max(axis=1, keepdims=True), 0)


def op(x: F32, num_bits: int) -> F32:
    """Return what this op gives: the larger of max(x) / 7 and -min(x) / 8."""
    return quantize_and_dequantize_v4(x, num_bits=num_bits, axis=0)


def narrow(x: F32, num_bits: int) -> F32:
    """Return what ONNX Runtime gives for symmetric int8: the lowest code is left out."""
    highest = _codes(num_bits)[1]
    return _divided(x, _largest(x) / np.float32(highest), -highest, highest)


def onnx(x: F32, num_bits: int) -> F32:
    """Return what ONNX Runtime gives for symmetric int4."""
    return _divided(x, _largest(x) / np.float32(_half(num_bits)), *_codes(num_bits))


def _half(num_bits: int) -> float:
    """Return half of the distance from the lowest to the highest code: 7.5."""
    return ((1 << num_bits) - 1) / 2


def _divided(x: F32, scale: F32, lowest: int, highest: int) -> F32:
    scale = np.where(scale < _TINY, np.float32(1), scale)
    y: F32 = np.clip(np.rint(x / scale), lowest, highest) * scale
    return y


def torch(x: F32, num_bits: int) -> F32:
    """Return what PyTorch's per_channel_symmetric observer and fake_quantize give: it multiplies by 1 / scale."""
    scale = np.maximum(_largest(x) / np.float32(_half(num_bits)), _EPS)
    y: F32 = np.clip(np.rint(x * (np.float32(1) / scale)), *_codes(num_bits)) * scale
    return y


def torch_affine(x: F32, num_bits: int) -> F32:
    """Return what PyTorch's per_channel_affine observer and fake_quantize give: an integer zero point."""
    lowest, highest = _codes(num_bits)
    low, high = _extremes(x)
    scale = np.maximum((high - low) / np.float32(highest - lowest), _EPS)
    zero = np.clip(lowest - np.rint(low / scale), lowest, highest)
    y: F32 = (np.clip(np.rint(x * (np.float32(1) / scale)) + zero, lowest, highest) - zero) * scale
    return y


def compressed_tensors(x: F32, num_bits: int) -> F32:
    """Return what compressed-tensors gives: it clamps before it rounds."""
    scale = _largest(x) / np.float32(_half(num_bits))
    scale = np.where(scale == 0, _EPS, scale)
    y: F32 = np.rint(np.clip(x / scale, *_codes(num_bits))) * scale
    return y


def compressed_tensors_affine(x: F32, num_bits: int) -> F32:
    """Return what compressed-tensors gives without symmetry: the zero point is added before the rounding."""
    lowest, highest = _codes(num_bits)
    low, high = _extremes(x)
    scale = (high - low) / np.float32(highest - lowest)
    zero = np.rint(np.clip(np.float32(lowest) - low / scale, lowest, highest))
    zero, scale = np.where(scale == 0, np.float32(0), zero), np.where(scale == 0, _EPS, scale)
    y: F32 = (np.rint(np.clip(x / scale + zero, lowest, highest)) - zero) * scale
    return y


def gguf_q4_0(x: F32, _num_bits: int) -> F32:
    """Return what gguf gives for Q4_0: the element of the largest magnitude is -8, the scale is float16."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    scale = largest / np.float32(-8)
    codes = _nibbles(x * _inverse(scale) + np.float32(8.5)) - np.float32(8)
    return codes * scale.astype(np.float16).astype(np.float32)


def gguf_q4_1(x: F32, _num_bits: int) -> F32:
    """Return what gguf gives for Q4_1: scale and minimum are float16."""
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    scale = (high - low) / np.float32(15)
    codes = _nibbles((x - low) * _inverse(scale) + np.float32(0.5))
    stored_scale, stored_low = (part.astype(np.float16).astype(np.float32) for part in (scale, low))
    y: F32 = codes * stored_scale + stored_low
    return y


def _nibbles(x: F32) -> F32:
    """Return codes of 4 bits; NaN becomes 0, as in a conversion to an integer."""
    return np.fmin(np.fmax(np.trunc(x), np.float32(0)), np.float32(15))


def _inverse(scale: F32) -> F32:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


OP = Convention(name="op", scale="max(max(x) / {high}, min(x) / {low})", library="this op", arithmetic=op)
_SYMMETRIC, _AFFINE = "max|x| / {half}", "(max(x) - min(x)) / {steps}"
CONVENTIONS: tuple[Convention, ...] = (
    Convention(name="narrow-onnx", scale="max|x| / {high}", library="ONNX Runtime int8", arithmetic=narrow),
    Convention(name="full-torch", scale=_SYMMETRIC, library="PyTorch", arithmetic=torch),
    Convention(name="full-compressed-tensors", scale=_SYMMETRIC, library="compressed-tensors",
               arithmetic=compressed_tensors),
    Convention(name="full-onnx", scale=_SYMMETRIC, library="ONNX Runtime int4", arithmetic=onnx),
    Convention(name="zero-point-torch", scale=_AFFINE + ", zero point", library="PyTorch", arithmetic=torch_affine),
    Convention(name="zero-point-compressed-tensors", scale=_AFFINE + ", zero point", library="compressed-tensors",
               arithmetic=compressed_tensors_affine),
    Convention(name="gguf-q4_0", scale="max|x| / {low}, signed", library="gguf Q4_0", arithmetic=gguf_q4_0, num_bits=4,
               group_size=32),
    Convention(name="gguf-q4_1", scale=_AFFINE + ", offset", library="gguf Q4_1", arithmetic=gguf_q4_1, num_bits=4,
               group_size=32),
)  # fmt: skip
"""Conventions of the field, beside that of this op."""
