"""Axis: spellings of recipes and options, `none`, `last`, `channel`, `0` or `0,1`, and the op's axis of each."""

import re

from qdqcli.op.spec import WHOLE_TENSOR, axis_text

NONE = "none"
"""One range per tensor. For `group_size`: no groups, overriding an earlier table."""
LAST = "last"
CHANNEL = "channel"
"""The output channels of a weight: dimension 0; 0,1 of stacked experts. Also a value of `indivisible`."""
BY_TENSOR = (LAST, CHANNEL)
"""Words for dimensions that depend on the tensor."""
PAIR_PATTERN = r"^(0|[1-9][0-9]?),(0|[1-9][0-9]?)$"

Axis = int | tuple[int, int]


def fixed_axis(word: str) -> Axis:
    """Return the op's axis of a word; that of a whole tensor where it depends on the tensor."""
    if re.fullmatch(PAIR_PATTERN, word):
        first, _, last = word.partition(",")
        return int(first), int(last)
    return WHOLE_TENSOR


def word_of(axis: Axis) -> str | int:
    """Return the word for an axis of the op."""
    if isinstance(axis, int):
        return NONE if axis == WHOLE_TENSOR else axis
    return axis_text(axis)


def axis_of(word: str | int, ndim: int, *, is_stacked: bool) -> Axis:
    """Return the op's axis for a tensor of `ndim` dimensions."""
    if word == LAST:
        return max(ndim - 1, 0)
    if word == CHANNEL:
        return (0, 1) if is_stacked else 0
    return word if isinstance(word, int) else fixed_axis(word)


STACKED_NDIM = 3
"""Dimensions of the matrices of several experts, [experts, out, in]."""


def holds_stacked_experts(name: str) -> bool:
    """Tell by its name whether a tensor of `STACKED_NDIM` dimensions holds the matrices of several experts."""
    return "experts" in name
