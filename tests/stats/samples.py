"""ErrorSums made in plain Python from lists, one element at a time: what the kernels must amount to."""

from collections.abc import Sequence
from math import isfinite

from qdqcli.stats.sums import ErrorSums, expansion


def measured(x: Sequence[float], y: Sequence[float], *, num_clipped: int = 0, num_degenerate: int = 0) -> ErrorSums:
    """The sums of input `x` and output `y`."""
    finite = [(a, b) for a, b in zip(x, y, strict=True) if isfinite(a) and isfinite(b)]
    errors = [b - a for a, b in finite]
    inputs = [a for a, _ in finite]
    return ErrorSums(
        num_elements=len(x),
        num_nonfinite=sum(not isfinite(a) for a in x),
        num_nonfinite_output=sum(isfinite(a) and not isfinite(b) for a, b in zip(x, y, strict=True)),
        num_clipped=num_clipped,
        num_zeroed=sum(a != 0.0 and b == 0.0 for a, b in finite),
        num_degenerate=num_degenerate,
        input_min=min(inputs, default=float("inf")),
        input_max=max(inputs, default=float("-inf")),
        max_abs_error=max(map(abs, errors), default=0.0),
        error=expansion(errors),
        abs_error=expansion([abs(e) for e in errors]),
        sq_error=expansion([e * e for e in errors]),
        sq_input=expansion([a * a for a in inputs]),
        sq_output=expansion([b * b for _, b in finite]),
    )
