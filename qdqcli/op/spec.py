"""QuantSpec: the attributes of QuantizeAndDequantizeV4, validated, frozen and printable."""

from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from operator import index
from typing import Any

from qdqcli.errors import SpecError

MAX_SIGNED_BITS = 61
MAX_UNSIGNED_BITS = 62
DEFAULT_ESTIMATOR = "minmax"
"""The range that the elements span, as in the op itself."""
DEFAULT_PERCENTILE = 99.99
WHOLE_TENSOR = -1
"""The op's value for "one range for the whole tensor"; not the last axis."""


class RoundMode(StrEnum):
    """Rounding of scaled values to integers."""

    HALF_TO_EVEN = "HALF_TO_EVEN"
    HALF_UP = "HALF_UP"
    """floor(p + 0.5), the sum rounded in the arithmetic's dtype."""


class ComputeDType(StrEnum):
    """Arithmetic of bfloat16 and float16 tensors; float32 and float64 tensors always use their own."""

    NATIVE = "native"
    """Every operation rounded to the tensor's dtype, as TensorFlow runs it."""
    FLOAT32 = "float32"
    """The float32 op on the converted tensor, its output rounded once."""


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """Quantization settings of one tensor. Names and defaults are the op's."""

    num_bits: int = 8
    """Bits of a code: 1 to 61, or 62 unsigned."""
    signed_input: bool = True
    """Use signed codes; elements may be negative in any case."""
    narrow_range: bool = False
    """Leave out the lowest signed code, -2^(num_bits-1)."""
    round_mode: RoundMode = RoundMode.HALF_TO_EVEN
    """Rounding of ties."""
    axis: int | tuple[int, int] = WHOLE_TENSOR
    """Dimension with one range per index; -1: one range for the whole tensor (not the last axis).

    Two neighbouring dimensions, (0, 1): one range per pair of indices, as if they were merged into one dimension.
    """
    group_size: int | None = None
    """Neighbours along the last axis that share a range; excludes `axis`."""
    ragged_groups: bool = False
    """Allow the last group of a row to be shorter than `group_size`."""
    range_given: bool = False
    """Take a given range and clamp to it, instead of measuring the range."""
    given_range: tuple[float, float] | None = None
    """The given range, if one for all slices; None: measured, or given in separate arrays."""
    compute_dtype: ComputeDType = ComputeDType.NATIVE
    """Arithmetic of bfloat16 and float16 elements."""
    estimator: str = DEFAULT_ESTIMATOR
    """Range estimator where no range is given: a name in `ranges/estimator.py`."""
    percentile: float | None = None
    """Percentage of elements at or below the range's upper end, for the estimator `percentile`; None: 99.99."""

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                self._convert(name, bool)
        if type(self.num_bits) is not int:
            self._convert("num_bits", int)
        limit = MAX_SIGNED_BITS if self.signed_input else MAX_UNSIGNED_BITS
        if not 1 <= self.num_bits <= limit:
            sign = "signed" if self.signed_input else "unsigned"
            raise SpecError(f"num_bits is {self.num_bits}; {sign} input takes 1 to {limit}")
        if type(self.round_mode) is not RoundMode:
            self._convert("round_mode", RoundMode)
        if type(self.compute_dtype) is not ComputeDType:
            self._convert("compute_dtype", ComputeDType)
        if type(self.axis) is not int or self.axis < WHOLE_TENSOR:
            object.__setattr__(self, "axis", _axis(self.axis))
        if self.group_size is not None:
            if type(self.group_size) is not int:
                self._convert("group_size", int)
            if self.group_size < 1:
                per_row = "; for one range per row: --axis 0" if self.group_size == -1 else ""
                raise SpecError(f"group_size is {self.group_size}; a group has at least 1 element{per_row}")
            if self.axis != WHOLE_TENSOR:
                raise SpecError(f"group_size {self.group_size} excludes axis {axis_text(self.axis)}; give one of them")
        percentile = DEFAULT_PERCENTILE if self.percentile is None else self.percentile
        if isinstance(percentile, bool) or not isinstance(percentile, int | float) or not 50 < percentile <= 100:
            raise SpecError(f"percentile is {percentile!r}; it must be more than 50 and at most 100")
        object.__setattr__(self, "percentile", float(percentile))
        if self.given_range is not None:
            _check_range(*self.given_range)
            object.__setattr__(self, "range_given", True)

    def _convert(self, name: str, kind: type) -> None:
        """Convert an attribute that has another type."""
        object.__setattr__(self, name, _converted(name, getattr(self, name), kind))

    @property
    def axes(self) -> tuple[int, int]:
        """The first and the last of the dimensions along which ranges differ."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis, self.axis)

    @property
    def is_range_given(self) -> bool:
        """The op's `range_given`: estimators other than minmax also give the op a range, to which it clamps."""
        return self.range_given or self.estimator != DEFAULT_ESTIMATOR

    @property
    def quantized_min(self) -> int:
        """Lowest code."""
        return -(1 << (self.num_bits - 1)) + self.narrow_range if self.signed_input else 0

    @property
    def quantized_max(self) -> int:
        """Highest code."""
        return (1 << (self.num_bits - 1)) - 1 if self.signed_input else (1 << self.num_bits) - 1


_FLAGS = ("signed_input", "narrow_range", "ragged_groups", "range_given")
_EXPECTED = {
    bool: "True or False",
    int: "an integer",
    RoundMode: f"one of {', '.join(RoundMode)}",
    ComputeDType: f"one of {', '.join(ComputeDType)}",
}
"""Type -> the words for what an attribute of it takes."""


def _converted(name: str, value: Any, kind: type) -> Any:
    """Return a value in the type of its attribute; a flag that is None has its default."""
    if value is None and kind is bool:
        return getattr(QuantSpec, name)
    is_flag = isinstance(value, bool) or (
        getattr(value, "dtype", None) == "bool" and getattr(value, "shape", None) == ()
    )
    try:
        if is_flag != (kind is bool):
            raise TypeError
        return index(value) if kind is int else kind(value)
    except (TypeError, ValueError):
        raise SpecError(f"{name} is {value!r}; it must be {_EXPECTED[kind]}") from None


def _check_range(low: Any, high: Any) -> None:
    for name, end in (("input_min", low), ("input_max", high)):
        if isinstance(end, bool) or not (isinstance(end, Real) or "float" in str(getattr(end, "dtype", ""))):
            raise SpecError(f"{name} is {end!r}; it must be a real number")
    if not low <= high:  # also false for NaN
        raise SpecError(f"input_min is {low} and input_max is {high}; input_min <= input_max must hold")


def axis_text(axis: int | tuple[int, int]) -> str:
    """Return the axis as the option takes it: `0`, `0,1`."""
    return f"{axis[0]},{axis[1]}" if isinstance(axis, tuple) else str(axis)


def _axis(value: int | tuple[int, int]) -> int | tuple[int, int]:
    if not isinstance(value, tuple | list):
        axis: int = _converted("axis", value, int)
        if axis < WHOLE_TENSOR:
            raise SpecError(f"axis is {axis}; it must be -1 (one range for the whole tensor) or a dimension's index")
        return axis
    pair = tuple(_converted("axis", part, int) for part in value)
    if len(pair) != 2 or pair[0] < 0 or pair[1] != pair[0] + 1:
        raise SpecError(
            f"axis is {','.join(map(str, pair))}; a pair is two neighbouring dimensions in order, such as 0,1"
        )
    return pair[0], pair[1]
