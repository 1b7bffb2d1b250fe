"""Which elements share a range, and what the op makes of them, said a second time and in the plainest way."""

from collections.abc import Callable
from typing import Any

import numpy as np

Op = Callable[..., np.ndarray]


def indices_of_slices(
    shape: tuple[int, ...], *, axis: int = -1, group_size: int | None = None, **_: Any
) -> list[np.ndarray]:
    """Flat indices of each slice's elements, in the tensor's order."""
    indices = np.arange(int(np.prod(shape))).reshape(shape)
    if group_size is not None:
        last = shape[-1] if shape else 1
        return [row[i : i + group_size] for row in indices.reshape(-1, last) for i in range(0, last, group_size)]
    if axis == -1:
        return [indices.reshape(-1)]
    return list(np.moveaxis(indices, axis, 0).reshape(shape[axis], -1))


def expected_output(
    op: Op,
    x: np.ndarray,
    *,
    axis: int = -1,
    group_size: int | None = None,
    ragged_groups: bool = False,
    given_range: tuple[float, float] | None = None,
    **attributes: Any,
) -> np.ndarray:
    """`op`, the oracle's or the public one, with one range for all slices where it is given; groups by its axis 0."""

    def call(x: np.ndarray, axis: int) -> np.ndarray:
        if given_range is None:
            return op(x, axis=axis, **attributes)
        ranges = given_range if axis == -1 else [np.full(x.shape[axis], end) for end in given_range]
        return op(x, *ranges, axis=axis, range_given=True, **attributes)

    if group_size is None:
        return call(x, axis)
    last = x.shape[-1] if x.shape else 1
    rows = x.reshape(-1, last)
    whole = last // group_size * group_size
    assert whole == last or ragged_groups
    parts = [call(rows[:, :whole].reshape(-1, group_size), 0).reshape(len(rows), whole)] if whole else []
    if whole < last:
        parts.append(call(np.ascontiguousarray(rows[:, whole:]), 0))
    return np.concatenate(parts, axis=1).reshape(x.shape)
