"""Kernels for tests of the cache and of the calling convention."""

from math import exp
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Inner(NamedTuple):
    values: NDArray[np.int64]
    factor: np.float32


class Outer(NamedTuple):
    inner: Inner
    missing: None
    place: tuple[int, int]


def double(x, out):
    for i in range(x.size):
        out[i] = 2 * x[i]


def reverse(x, out):
    for i in range(x.size):
        out[i] = x[x.size - 1 - i]


def everything(number, wide, narrow, single, unsigned, switch, flag, matrix, bools, outer, out):
    out[0], out[1], out[2], out[3], out[4] = number, wide, narrow, single, unsigned
    out[5] = 1 if switch is not None else 0
    out[6] = flag
    out[7] = matrix[1, 2] + 100 * matrix.shape[0] + 10 * matrix.shape[1]
    out[8] = bools[2]
    if outer.missing is None:
        out[9] = outer.inner.values[1] * outer.inner.factor + outer.place[0] - outer.place[1]
    return out.size


def allocate(x, out):
    y = np.empty(x.size)
    for i in range(x.size):
        y[i] = x[x.size - 1 - i]
    for i in range(x.size):
        out[i] = y[i]


def exponential(x, out):
    for i in range(x.size):
        out[i] = exp(x[i])


def failing(x, out):
    if x.size > out.size:
        raise ValueError
