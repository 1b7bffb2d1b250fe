"""Comparison of arrays bit for bit, where any NaN equals any NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

UINTS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def as_bits(a: np.ndarray) -> np.ndarray:
    """The elements in C order as unsigned integers."""
    flat = np.ascontiguousarray(a).reshape(-1)
    return flat.view(UINTS[flat.dtype.itemsize])


def difference(got: Any, want: np.ndarray, x: np.ndarray | None = None) -> str | None:
    """A sentence about the first element that differs, with the input there if `x` is given; None if all are equal."""
    if not isinstance(got, np.ndarray):
        return f"{type(got).__name__}, expected an array"
    if got.dtype != want.dtype:
        return f"dtype {got.dtype}, expected {want.dtype}"
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    bad = (as_bits(got) != as_bits(want)) & ~(np.isnan(got) & np.isnan(want)).reshape(-1)
    if not bad.any():
        return None
    i = int(np.argmax(bad))
    text = f"{int(bad.sum())} of {bad.size} elements differ, first at flat index {i}: "
    if x is not None and x.size == want.size:
        text += f"input {_show(x, i)}, "
    return text + f"got {_show(got, i)}, expected {_show(want, i)}"


def _show(a: np.ndarray, i: int) -> str:
    return f"{np.ravel(a)[i]!s} (0x{int(as_bits(a)[i]):0{2 * a.dtype.itemsize}x})"


def assert_same_bits(got: Any, want: np.ndarray, x: np.ndarray | None = None, context: object = "") -> None:
    message = difference(got, want, x)
    assert message is None, f"{message} {context}"
