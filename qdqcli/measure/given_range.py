"""Given ranges, as opposed to measured ones."""

import numpy as np
from numpy.typing import ArrayLike

from qdqcli.op.params import COMPUTE_TYPE, FLOAT_TYPE, Floats, in_arithmetic
from qdqcli.op.spec import ComputeDType

GivenRange = tuple[ArrayLike, ArrayLike]
"""input_min and input_max: scalars for every slice, or vectors with one value each."""


def given_ranges(
    given_range: GivenRange | None, first_slice: int, num_slices: int, dtype: str, compute_dtype: ComputeDType
) -> Floats | None:
    """Return the given range bounds (2, slices), rounded as the op rounds them; None where they must be measured."""
    if given_range is None:
        return None
    ranges = np.empty((2, num_slices), FLOAT_TYPE[dtype])
    compute_type = COMPUTE_TYPE[compute_dtype][dtype]
    for row, end in enumerate(given_range):
        part = end if np.ndim(end) == 0 else np.asarray(end)[first_slice : first_slice + num_slices]
        ranges[row] = in_arithmetic(part, compute_type, dtype)
    return ranges
