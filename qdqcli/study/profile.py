"""Profile: statistics of a tensor's elements that matter for quantization, and those of Gaussian data of its size.

Elements are read in blocks of a fixed size, so that no number depends on threads or memory. Contiguous slices (groups)
leave only sums; rows, columns and channels a few numbers each.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import erf, fsum, inf, log10, sqrt

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import SpecError, UsageError
from qdqcli.measure.blocks import read_floats
from qdqcli.measure.layout import layout_of
from qdqcli.op.layout import Layout
from qdqcli.op.spec import QuantSpec
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

Floats = NDArray[np.float64]

BLOCK_ELEMENTS = 1 << 18
"""Elements of a block: 2 MiB in float64."""
PIECE = 32
"""Consecutive elements per kurtosis: few enough to share a scale, enough to tell a heavy tail from a Gaussian one."""
OUTLIER_FACTOR = 1.5
"""An outlier is this much larger than the expected peak of Gaussian data in its slice. For slices of 128 that is 4.3
times the RMS, which 0.2 % of such slices reach by chance.
"""
STANDS_OUT, FEW = 3.0, 0.1
"""An outstanding row or column has 3 times the median size: sharing a range, it costs the others 9.5 dB, 1.6 bits.
Where more than a tenth of them do, the scale itself varies.
"""
MAX_INDICES = 1 << 22
"""Longest dimension with statistics per index."""
_SHOWN_POSITIONS = 3
_KURTOSIS_BINS = np.geomspace(1.0, PIECE, 2048)


def db(ratio: float) -> float:
    """Return a ratio of energies in decibels; minus infinity for zero."""
    return 10.0 * log10(ratio) if ratio > 0.0 else -inf


def total_of(energies: Sequence[float]) -> float:
    """Return the exact sum of energies, rounded once; infinite beyond float64."""
    try:
        return fsum(energies)
    except OverflowError:
        return inf


@cache
def gaussian_peak(size: int) -> float:
    """Return the root of the expected squared peak, max |x|, of `size` standard normal numbers."""
    step = 1 / 256
    return sqrt(fsum(2 * m * step * (1.0 - erf(m / sqrt(2)) ** size) for m in (step * (k + 0.5) for k in range(3072))))


@cache
def gaussian_half_range(size: int) -> float:
    """Return the root of the expected squared (max - min) / 2 of standard normal numbers, for sizes of 8 and more.

    Maximum and minimum are taken as independent.
    """
    step = 1 / 256
    mean = square = 0.0
    for m in (step * (k + 0.5) for k in range(3072)):
        above = 1.0 - (0.5 * (1.0 + erf(m / sqrt(2)))) ** size
        below = (0.5 * (1.0 + erf(-m / sqrt(2)))) ** size
        mean += step * (above - below)
        square += step * 2 * m * (above + below)
    return sqrt((square + mean * mean) / 2)


@dataclass(kw_only=True)
class Slices:
    """Sums over the slices of a tensor, which give peak, range and RMS, weighted by elements."""

    count: int = 0
    peaks: list[float] = field(default_factory=list)
    """Terms (elements x squared peak), to be added exactly."""
    half_ranges: list[float] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)

    def add(self, sizes: NDArray[np.int64], low: Floats, high: Floats, energy: Floats) -> None:
        """Add slices: their elements, extremes and sums of squares."""
        low, high = np.minimum(low, high), np.maximum(low, high)
        self.count += len(sizes)
        self.peaks.append(float(np.sum(sizes * np.maximum(-low, high) ** 2)))
        self.half_ranges.append(float(np.sum(sizes * ((high - low) / 2) ** 2)))
        self.energies.append(float(np.sum(energy)))

    @property
    def peak_db(self) -> float:
        """20 log10(peak / RMS): both as the root of a mean over all elements."""
        energy = total_of(self.energies)
        return db(total_of(self.peaks) / energy) if energy else -inf

    @property
    def offset_db(self) -> float:
        """20 log10(peak / half the range): the possible gain of a zero point in fine quantization."""
        half = total_of(self.half_ranges)
        return db(total_of(self.peaks) / half) if half else 0.0


@dataclass(frozen=True, kw_only=True)
class Index:
    """Statistics per row or column of a tensor."""

    peak: Floats
    mean_abs: Floats

    def standing_out(self) -> list[int]:
        """Return the few indices with a mean |x| far above the median, the largest first; none where they are many."""
        median = float(np.median(self.mean_abs)) if len(self.mean_abs) else 0.0
        found = np.flatnonzero(self.mean_abs > STANDS_OUT * median)
        few = found if len(found) <= FEW * len(self.mean_abs) else found[:0]
        return [int(k) for k in few[np.argsort(-self.mean_abs[few], kind="stable")]]

    @property
    def variation(self) -> float:
        """Standard deviation of the mean |x| over its mean."""
        mean = float(np.mean(self.mean_abs)) if len(self.mean_abs) else 0.0
        return float(np.std(self.mean_abs)) / mean if mean else 0.0

    def ratio(self, index: int) -> float:
        """Return the mean |x| of one index over the median."""
        median = float(np.median(self.mean_abs))
        return float(self.mean_abs[index]) / median if median else inf


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Statistics of a tensor's elements, in the slices of a setting."""

    num_elements: int
    low: float
    high: float
    """`low` and `high` are the extremes of the finite elements."""
    slice_size: int
    """Mean number of elements per slice."""
    slices: Slices
    trimmed: Slices
    """`slices` without outliers and without outstanding columns."""
    num_outliers: int
    outliers: list[tuple[int, ...]]
    """Indices of the first outliers."""
    first_nonfinite: tuple[int, ...] | None
    tiny_slices: list[int]
    """Indices of the first slices whose scale would be subnormal."""
    kurtosis: float
    """Median over pieces of 32 consecutive elements; 2.7 for Gaussian data."""
    rows: Index | None
    columns: Index | None

    @property
    def excess_db(self) -> float:
        """Peak in dB above that of Gaussian data in slices of this size."""
        return self.slices.peak_db - db(gaussian_peak(self.slice_size) ** 2)

    @property
    def trimmed_excess_db(self) -> float:
        """`excess_db` without outliers and without outstanding columns."""
        return self.trimmed.peak_db - db(gaussian_peak(self.slice_size) ** 2)

    @property
    def offset_db(self) -> float:
        """Possible gain of a zero point beyond Gaussian data, without outliers."""
        size = max(self.slice_size, 8)
        return self.trimmed.offset_db - db((gaussian_peak(size) / gaussian_half_range(size)) ** 2)


def profile(
    reader: ShardReader,
    info: TensorInfo,
    spec: QuantSpec,
    check: Callable[[], None],
    block_elements: int = BLOCK_ELEMENTS,
) -> Profile:
    """Read a tensor twice, block by block; `check` is called before each block and may raise."""
    layout = layout_of(info, spec)
    tiny = float(np.finfo(np.float32).tiny) * max(spec.quantized_max, 1)
    kept = None if layout.advance else _Kept.of(layout)
    seen = _Seen(info)
    for start, x in blocks(reader, info, layout, check, block_elements):
        seen.take(start, x)
        if kept is not None:
            kept.take(start, seen.finite)
    slices, trimmed = Slices(), Slices()
    size = max(round(layout.num_elements / max(layout.num_slices, 1)), 1)
    factor = OUTLIER_FACTOR * gaussian_peak(size)
    outliers = 0
    positions: list[tuple[int, ...]] = []
    tiny_slices: list[int] = []
    again = None if kept is None else _Kept.of(layout)
    columns = None if seen.columns is None else seen.columns.mask()
    if kept is not None:
        slices.add(kept.sizes, kept.low, kept.high, kept.energy)
        tiny_slices += _tiny(kept.low, kept.high, tiny, 0)
    for start, x in blocks(reader, info, layout, check, block_elements):
        x = np.where(np.isfinite(x), x, 0.0)
        runs = _runs(layout, start, start + len(x))
        if kept is None:
            mine = _Kept.of_runs(runs, x)
            slices.add(mine.sizes, mine.low, mine.high, mine.energy)
            tiny_slices += _tiny(mine.low, mine.high, tiny, int(runs.slices[0]))
            rms = np.sqrt(mine.energy / mine.sizes)
        else:
            rms = np.sqrt(kept.energy / np.maximum(kept.sizes, 1))[runs.slices]
        out = np.abs(x) > np.repeat(factor * rms, runs.sizes)
        found = np.flatnonzero(out)
        outliers += len(found)
        positions += [index_of(info, start + int(k)) for k in found[: _SHOWN_POSITIONS - len(positions)]]
        if columns is not None and seen.columns is not None:
            out |= seen.columns.spread(columns, start, len(x))
        x[out] = 0.0
        if again is None:
            mine = _Kept.of_runs(runs, x)
            trimmed.add(mine.sizes, mine.low, mine.high, mine.energy)
        else:
            again.take(start, x)
    if again is not None:
        trimmed.add(again.sizes, again.low, again.high, again.energy)
    return Profile(
        num_elements=info.num_elements,
        low=seen.low,
        high=seen.high,
        slice_size=size,
        slices=slices,
        trimmed=trimmed,
        num_outliers=outliers,
        outliers=positions,
        first_nonfinite=seen.first_nonfinite,
        tiny_slices=tiny_slices[:_SHOWN_POSITIONS],
        kurtosis=seen.kurtosis,
        rows=seen.rows.index() if seen.rows is not None else None,
        columns=seen.columns.index() if seen.columns is not None else None,
    )


def blocks(
    reader: ShardReader, info: TensorInfo, layout: Layout, check: Callable[[], None], size: int = BLOCK_ELEMENTS
) -> Iterator[tuple[int, Floats]]:
    """Yield the elements in file order, as (first element, values); groups are whole."""
    start = 0
    while start < info.num_elements:
        check()
        stop = min(start + size, info.num_elements)
        if layout.advance and stop < info.num_elements:
            stop = layout.whole_slices(start, stop)[1]
        yield start, read_floats(reader, info, (start, stop))
        start = stop


def index_of(info: TensorInfo, element: int) -> tuple[int, ...]:
    """Return the index of an element, counted in file order."""
    found = tuple(int(k) for k in np.unravel_index(element, info.stored_shape or (1,)))[: len(info.shape)]
    return found[::-1] if info.fortran_order else found


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """Consecutive elements of a block that belong to one slice."""

    starts: NDArray[np.int64]
    """Offsets in the block."""
    sizes: NDArray[np.int64]
    slices: NDArray[np.int64]


def _runs(layout: Layout, start: int, stop: int) -> _Runs:
    inner, row = layout.inner, layout.row
    first_row, last_row = start // row, (stop - 1) // row
    edges = (np.arange(first_row, last_row + 1)[:, None] * row + np.arange(0, row, inner)[None, :]).reshape(-1)
    first = int(np.searchsorted(edges, start, side="right")) - 1
    edges = np.maximum(edges[first : int(np.searchsorted(edges, stop))], start)
    slices = edges // row * layout.advance + edges % row // inner
    return _Runs(starts=edges - start, sizes=np.diff(edges, append=stop), slices=slices)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Size, extremes and energy of each slice."""

    layout: Layout | None
    sizes: NDArray[np.int64]
    low: Floats
    high: Floats
    energy: Floats

    @classmethod
    def of(cls, layout: Layout) -> "_Kept":
        count = layout.num_slices
        return cls(
            layout=layout,
            sizes=np.zeros(count, np.int64),
            low=np.full(count, inf),
            high=np.full(count, -inf),
            energy=np.zeros(count),
        )

    @classmethod
    def of_runs(cls, runs: _Runs, x: Floats) -> "_Kept":
        return cls(
            layout=None,
            sizes=runs.sizes,
            low=np.minimum.reduceat(x, runs.starts),
            high=np.maximum.reduceat(x, runs.starts),
            energy=np.add.reduceat(x * x, runs.starts),
        )

    def take(self, start: int, x: Floats) -> None:
        """Add a block."""
        assert self.layout is not None
        runs = _runs(self.layout, start, start + len(x))
        found = _Kept.of_runs(runs, x)
        np.add.at(self.sizes, runs.slices, found.sizes)
        np.minimum.at(self.low, runs.slices, found.low)
        np.maximum.at(self.high, runs.slices, found.high)
        np.add.at(self.energy, runs.slices, found.energy)


class _PerIndex:
    """Peak and mean |x| of each index of a dimension."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._peak, self._sum = np.zeros(layout.num_slices), np.zeros(layout.num_slices)

    @classmethod
    def of(cls, info: TensorInfo, axis: int) -> "_PerIndex | None":
        if len(info.shape) < 2 or info.shape[axis] > MAX_INDICES or not info.num_elements:
            return None
        return cls(layout_of(info, QuantSpec(axis=axis)))

    def take(self, start: int, x: Floats) -> None:
        """Add the absolute values of a block."""
        runs = _runs(self._layout, start, start + len(x))
        np.maximum.at(self._peak, runs.slices, np.maximum.reduceat(x, runs.starts))
        np.add.at(self._sum, runs.slices, np.add.reduceat(x, runs.starts))

    def mask(self) -> NDArray[np.bool_] | None:
        """Return a mask of the outstanding indices; None where there are none."""
        out = self.index().standing_out()
        if not out:
            return None
        mask = np.zeros(len(self._sum), np.bool_)
        mask[out] = True
        return mask

    def spread(self, mask: NDArray[np.bool_], start: int, size: int) -> NDArray[np.bool_]:
        """Return the mask of indices for each element of a block."""
        runs = _runs(self._layout, start, start + size)
        return np.repeat(mask[runs.slices], runs.sizes)

    def index(self) -> Index:
        size = self._layout.num_elements // self._layout.num_slices
        return Index(peak=self._peak, mean_abs=self._sum / size)


class _Seen:
    """Statistics from one pass over a tensor, beyond those of its slices."""

    def __init__(self, info: TensorInfo) -> None:
        self._info = info
        self.low, self.high = inf, -inf
        self.first_nonfinite: tuple[int, ...] | None = None
        self.rows, self.columns = _PerIndex.of(info, 0), _PerIndex.of(info, len(info.shape) - 1)
        self._histogram = np.zeros(len(_KURTOSIS_BINS) + 1, np.int64)
        self.finite: Floats = np.empty(0)

    def take(self, start: int, x: Floats) -> None:
        """Add a block; sets `finite` to the block with zeros for non-finite elements."""
        is_finite = np.isfinite(x)
        if not is_finite.all():
            if self.first_nonfinite is None:
                self.first_nonfinite = index_of(self._info, start + int(np.argmin(is_finite)))
            x = np.where(is_finite, x, 0.0)
        self.finite = x
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        size = np.abs(x)
        for per_index in (self.rows, self.columns):
            if per_index is not None:
                per_index.take(start, size)
        pieces = x[: len(x) // PIECE * PIECE].reshape(-1, PIECE) ** 2
        energy = pieces.mean(axis=1)
        used = energy > 0
        kurtosis = (pieces[used] ** 2).mean(axis=1) / energy[used] ** 2
        self._histogram += np.bincount(np.searchsorted(_KURTOSIS_BINS, kurtosis), minlength=len(self._histogram))

    @property
    def kurtosis(self) -> float:
        """Median over the pieces, to 0.2 %; 0 where there is none."""
        total = int(self._histogram.sum())
        if not total:
            return 0.0
        bin_index = int(np.searchsorted(np.cumsum(self._histogram), (total + 1) // 2))
        return float(_KURTOSIS_BINS[min(bin_index, len(_KURTOSIS_BINS) - 1)])


def _tiny(low: Floats, high: Floats, limit: float, first: int) -> list[int]:
    peak = np.maximum(-low, high)
    return [first + int(k) for k in np.flatnonzero((peak > 0) & (peak < limit))[:_SHOWN_POSITIONS]]


def fits(info: TensorInfo, spec: QuantSpec) -> bool:
    """Tell whether the tensor can take the setting."""
    try:
        layout_of(info, spec)
    except (SpecError, UsageError):
        return False
    return True
