"""Compilation of the estimators' kernels; `run/warm_up.py` compiles the others."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from qdqcli.op import kernels
from qdqcli.op.histogram import NUM_PATTERNS, PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import PATTERN, STORAGE
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.ranges.estimator import ESTIMATORS, WholeSlices, estimator

_SHAPE = (2, 33)
STEPS = list(product(ESTIMATORS, STORAGE))
"""Estimators with each dtype, compiled in this order."""


def warm_up_estimators() -> Iterator[str]:
    """Compile the kernels of each of `STEPS`; yields the name of each before it starts."""
    for pattern in PATTERN.values():
        x = np.zeros(1, pattern)
        kernels.gather_columns(x, 1, 0, 1, x, 0, 1)
    for name, dtype in STEPS:
        yield f"{dtype}, estimator {name}"
        for compute_dtype in ComputeDType if dtype in ("BF16", "F16") else (ComputeDType.NATIVE,):
            for round_mode in RoundMode:
                spec = QuantSpec(estimator=name, compute_dtype=compute_dtype, round_mode=round_mode)
                _estimate(spec, dtype)


def _estimate(spec: QuantSpec, dtype: str) -> None:
    """Estimate a range of each of the forms of a slice."""
    chosen = estimator(spec.estimator)(spec, dtype)
    x = np.arange(np.prod(_SHAPE), dtype=STORAGE[dtype])
    chosen.of_slices(WholeSlices(x=x, start=0, layout=Layout.of(_SHAPE, QuantSpec(axis=0))))
    long_slice = chosen.of_long_slice(x.size)
    while True:
        long_slice.see(x, 0, x.size)
        if long_slice.finish_pass():
            break
    if x.itemsize == 2:
        chosen.of_patterns(PatternHistogram(dtype=dtype, counts=np.ones(NUM_PATTERNS, np.int64)))
