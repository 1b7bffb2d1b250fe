"""Systematic slips of a writer or reader of packed weights, recognised by what undoes them.

Each hypothesis turns the decoded rows into what they would be without one slip. It holds if the result is nearer to
the original by `GAIN_DB`, and near at all. Of several that hold, the one that comes nearest is named, and the simpler
one of two that are close.
"""

from collections.abc import Callable
from math import inf, isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.tensors.packed.storage import CodeGrid

Rows = NDArray[np.float64]
"""Rows of a weight: of the original, or decoded."""

GAIN_DB = 6.0
"""Least gain, in dB of SQNR, for which a slip is named."""
LEAST_DB = 8.0
"""Least SQNR, in dB, that is left once a slip is undone."""
_CLOSE_DB = 1.0
SCALED_INPUTS = "scaled per input channel by the layer before (AWQ, SmoothQuant)"
_MIN_ROWS = 8
"""Rows from which a factor per column is no mere fit to noise."""
_MAX_COLUMNS = 512
"""Columns whose order is examined: all pairs of them are compared."""


class Slip(NamedTuple):
    """A slip that fits the numbers."""

    text: str
    sqnr_db: float | None
    """SQNR once it is undone; None where it cannot be undone."""


def sqnr_db(x: Rows, y: Rows) -> float:
    """Return the SQNR of y against x, in dB."""
    signal, noise = float(np.vdot(x, x)), float(np.sum((x - y) ** 2))
    return 10 * float(np.log10(signal / noise)) if signal and noise else inf if signal else -inf


def find_slip(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:
    """Return the slip that fits rows `x` of the original and `y` as decoded; None if none does."""
    if not (np.isfinite(x).all() and np.isfinite(y).all() and x.any()):
        return None
    if not y.any():
        return Slip("every value is 0", None)
    before = sqnr_db(x, y)
    best: Slip | None = None
    for hypothesis in _HYPOTHESES:
        found = hypothesis(x, y, grid)
        if found is None or found.sqnr_db is None or not isfinite(found.sqnr_db):
            continue
        least = max(before + GAIN_DB, LEAST_DB)
        if best is not None and best.sqnr_db is not None:
            least = best.sqnr_db + _CLOSE_DB
        if found.sqnr_db >= least:
            best = found
    return best or _rotated(x, y)


def _factor(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:  # noqa: ARG001
    factor = float(np.vdot(x, y) / np.vdot(x, x))
    if abs(factor - 1) < 0.01 or not factor:
        return None
    return Slip(f"a constant factor of {factor:.3g}", sqnr_db(x, y / factor))


def _nibbles(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:
    if grid.bits != 4 or y.shape[1] % 2:
        return None
    swapped = y.reshape(len(y), -1, 2)[:, :, ::-1].reshape(y.shape)
    return Slip("nibbles of each byte swapped", sqnr_db(x, swapped))


def _transposed(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:  # noqa: ARG001
    size = min(x.shape)
    if size < 2:
        return None
    return Slip("transposed", sqnr_db(x[:size, :size], y[:size, :size].T))


def _permuted(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:  # noqa: ARG001
    found = _reordered(x, y)
    return None if found is None else Slip("rows permuted", sqnr_db(x, found))


def _columns_permuted(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:  # noqa: ARG001
    one, two = (rows[:, :_MAX_COLUMNS].T for rows in (x, y))
    found = _reordered(one, two) if len(x) >= _MIN_ROWS else None
    return None if found is None else Slip("columns permuted", sqnr_db(one, found))


def _reordered(x: Rows, y: Rows) -> Rows | None:
    """Return the rows of y, each in the place of the row of x with the most similar direction.

    None where all are there already, or two have one place.
    """
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    if not (norms[0].all() and norms[1].all()):
        return None
    nearest = np.argmax((x / norms[0][:, None]) @ (y / norms[1][:, None]).T, axis=1)
    if len(np.unique(nearest)) < len(x) or np.array_equal(nearest, np.arange(len(x))):
        return None
    found: Rows = y[nearest]
    return found


def _scale_power(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:
    """Fit a factor per block: one that falls with a power of the block's size tells of an inverted or squared scale."""
    one, two = _blocks(x, grid), _blocks(y, grid)
    sizes, dots = np.abs(two).max(axis=-1).ravel(), (one * two).sum(axis=-1).ravel()
    powers = (two * two).sum(axis=-1).ravel()
    known = (sizes > 0) & (dots > 0)
    if known.sum() < _MIN_ROWS:
        return None
    factors = dots[known] / powers[known]
    logs = np.log(sizes[known])
    if np.std(logs) < 0.05:
        return None
    slope = float(np.polyfit(logs, np.log(factors), 1)[0])
    name = next(
        (name for name, power in (("inverted", -2.0), ("squared", -0.5)) if abs(slope / power - 1) < 0.15), None
    )
    if name is None:
        return None
    undone = np.zeros(known.shape)
    undone[known] = factors
    return Slip(f"scales {name}", sqnr_db(one, two * undone.reshape(two.shape[:-1])[..., None]))


def _scale_grid(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:
    """Fit a factor per row and group, for groups of several sizes: the largest that fits is the one meant."""
    width = x.shape[1]
    sizes = [size for size in (width, 512, 256, 128, 64, 32, 16) if size <= width and width % size == 0]
    fits = [(size, sqnr_db(x, _rescaled(x, y, size))) for size in dict.fromkeys(sizes)]
    if not fits:
        return None
    best = max(after for _, after in fits)
    size, after = next((size, after) for size, after in fits if after >= best - _CLOSE_DB)
    stored = min(grid.block[1], width)
    if size == stored:
        return Slip("scales of other rows or groups", after)
    meant = "each row" if size == width else f"groups of {size}"
    return Slip(f"scale grid of the wrong size: scales would fit {meant}, not groups of {stored}", after)


def _rescaled(x: Rows, y: Rows, size: int) -> Rows:
    """Return y with the best factor for each row and group."""
    one, two = (rows.reshape(len(rows), -1, size) for rows in (x, y))
    powers = (two * two).sum(axis=-1, keepdims=True)
    factors = (one * two).sum(axis=-1, keepdims=True) / np.where(powers > 0, powers, 1.0)
    rescaled: Rows = (two * factors).reshape(y.shape)
    return rescaled


def _zero_point(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:
    """Fit an offset per block: one step of the grid tells of a zero point that is off by one."""
    if not grid.is_integer:
        return None
    one, two = _blocks(x, grid), _blocks(y, grid)
    offsets = (one - two).mean(axis=-1)
    gaps = np.diff(np.sort(two, axis=-1), axis=-1)
    steps = np.where(gaps > 1e-6 * np.abs(two).max(axis=-1, keepdims=True), gaps, inf).min(axis=-1, initial=inf)
    known = np.isfinite(steps) & (steps > 0)
    if not known.any():
        return None
    moved = np.round(np.median(offsets[known] / steps[known]))
    if abs(moved) != 1:
        return None
    shifted = two + moved * np.where(known, steps, 0.0)[..., None]
    return Slip("zero points off by one", sqnr_db(one, shifted))


def _input_scale(x: Rows, y: Rows, grid: CodeGrid) -> Slip | None:  # noqa: ARG001
    """Fit a factor per input channel, as AWQ and SmoothQuant move it into the layer before."""
    if len(x) < _MIN_ROWS:
        return None
    factors = input_factors(x, y)
    return None if (factors <= 0).any() else Slip(SCALED_INPUTS, sqnr_db(x, y / factors))


def input_factors(x: Rows, y: Rows) -> Rows:
    """Return the factor of each column of y that fits x best."""
    squares = (x * x).sum(axis=0)
    found: Rows = (x * y).sum(axis=0) / np.where(squares > 0, squares, 1.0)
    return found


def _rotated(x: Rows, y: Rows) -> Slip | None:
    """Compare norms and directions of rows: a rotation of the inputs keeps the norms alone."""
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    known = (norms[0] > 0) & (norms[1] > 0)
    if known.sum() < _MIN_ROWS:
        return None
    ratios = norms[1][known] / norms[0][known]
    cosines = (x * y).sum(axis=1)[known] / (norms[0][known] * norms[1][known])
    if np.abs(ratios - 1).max() > 0.1 or np.abs(np.median(cosines)) > 0.3:
        return None
    return Slip("rotated (QuaRot, SpinQuant): each row has its length, but another direction", None)


def _blocks(rows: Rows, grid: CodeGrid) -> Rows:
    """Return rows as (rows, blocks, columns of a block); rows of a block are not joined."""
    width = grid.block[1] if rows.shape[1] % grid.block[1] == 0 else rows.shape[1]
    return rows.reshape(len(rows), -1, width)


_HYPOTHESES: tuple[Callable[[Rows, Rows, CodeGrid], Slip | None], ...] = (
    _factor, _nibbles, _transposed, _permuted, _columns_permuted, _zero_point, _scale_power, _scale_grid, _input_scale,
)  # fmt: skip
"""From the simplest on."""
