"""Measurement of one tensor, from the rows of sums that the kernels fill."""

from collections.abc import Iterable, Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import columns
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats
from qdqcli.stats.sums import ErrorSums, Expansion, expansion

OverallRange = tuple[float, float]
"""Union of ranges: the smallest minimum and the largest maximum; NaN where there is none."""


class Measurement(NamedTuple):
    """Result of measuring one tensor."""

    sums: ErrorSums
    num_slices: int
    overall_range: OverallRange = (nan, nan)
    """Union of the ranges of all slices."""
    slice_sums: Sequence[ErrorSums] | None = None


def overall_range_of(ranges: Floats) -> OverallRange:
    """Return the union of `ranges` (2, slices)."""
    return float(np.fmin.reduce(ranges[0])), float(np.fmax.reduce(ranges[1]))


def error_sums(parts: Iterable[NDArray[np.float64]], num_elements: int, num_degenerate: int) -> ErrorSums:
    """Merge the sums of a tensor's chunks, in arrays (chunks, SUM_COLUMNS); sums over chunks are exact."""
    by_column = list(zip(*(row for part in parts for row in part.tolist()), strict=True))
    sums = [expansion(by_column[column]) for column in range(columns.NUM_SUMS)]
    return ErrorSums(
        num_elements=num_elements,
        num_nonfinite=int(sum(by_column[columns.NONFINITE])),
        num_nonfinite_output=int(sum(by_column[columns.NONFINITE_OUTPUT])),
        num_clipped=int(sum(by_column[columns.CLIPPED])),
        num_zeroed=int(sum(by_column[columns.ZEROED])),
        num_degenerate=num_degenerate,
        input_min=min(by_column[columns.INPUT_MIN]) + 0.0,
        input_max=max(by_column[columns.INPUT_MAX]) + 0.0,
        max_abs_error=max(by_column[columns.MAX_ABS_ERROR]),
        error=sums[columns.ERROR],
        abs_error=sums[columns.ABS_ERROR],
        sq_error=sums[columns.SQ_ERROR],
        sq_input=sums[columns.SQ_INPUT],
        sq_output=sums[columns.SQ_OUTPUT],
    )


def sums_of_each(
    rows: NDArray[np.float64], num_elements: Sequence[int], num_degenerate: Sequence[int]
) -> list[ErrorSums]:
    """Return the sums of many slices or small tensors of one row (SUM_COLUMNS,) each; works by column, for speed."""

    def counts(column: int) -> list[int]:
        listed: list[int] = rows[:, column].astype(np.int64).tolist()
        return listed

    def floats(column: int) -> list[float]:
        listed: list[float] = (rows[:, column] + 0.0).tolist()
        return listed

    def sums(column: int) -> list[Expansion]:
        values = floats(column)
        return [(value,) if value else () for value in values] if 0.0 in values else list(zip(values, strict=True))

    by_field = {
        "num_elements": num_elements,
        "num_nonfinite": counts(columns.NONFINITE),
        "num_nonfinite_output": counts(columns.NONFINITE_OUTPUT),
        "num_clipped": counts(columns.CLIPPED),
        "num_zeroed": counts(columns.ZEROED),
        "num_degenerate": num_degenerate,
        "input_min": floats(columns.INPUT_MIN),
        "input_max": floats(columns.INPUT_MAX),
        "max_abs_error": floats(columns.MAX_ABS_ERROR),
        "error": sums(columns.ERROR),
        "abs_error": sums(columns.ABS_ERROR),
        "sq_error": sums(columns.SQ_ERROR),
        "sq_input": sums(columns.SQ_INPUT),
        "sq_output": sums(columns.SQ_OUTPUT),
    }
    return list(map(ErrorSums._make, zip(*map(by_field.__getitem__, ErrorSums._fields), strict=True)))


def slice_sums(
    layout: Layout, rows: NDArray[np.float64] | None, degenerate: NDArray[np.bool_]
) -> list[ErrorSums] | None:
    """Return the sums of each slice of a tensor, from one row each; None without rows."""
    if rows is None:
        return None
    sizes = [layout.size_of(s) for s in range(len(rows))]
    return sums_of_each(rows, sizes, degenerate.astype(np.int64).tolist())
