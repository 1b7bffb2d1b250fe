"""PatternHistogram: counts of the patterns of a 16-bit float, which give the range and error sums of any settings.

A large BF16 or F16 tensor is read once; later queries cost the same for a million elements and a billion.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.columns import NONFINITE_OUTPUT, NUM_SUMS, empty_sums
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE, Floats, QuantParams, Stored, empty_order_keys, ranges_of_order_keys
from qdqcli.op.spec import QuantSpec

NUM_PATTERNS = 1 << 16
HISTOGRAM_ELEMENTS = 1 << 19
"""Size from which a tensor with one range is measured by patterns; below it, visiting all patterns takes longer."""
_COUNTER_LIMIT = 1 << 31
"""Elements after which 32-bit counters are flushed to 64-bit ones."""


@dataclass(frozen=True, kw_only=True)
class PatternHistogram:
    """Pattern counts of a tensor or of a part of it."""

    dtype: str
    """`BF16` or `F16`."""
    counts: NDArray[np.int64]
    """(65536,), indexed by the pattern as an unsigned number."""

    def merge(self, other: Self) -> Self:
        """Return the counts of both parts together."""
        return type(self)(dtype=self.dtype, counts=self.counts + other.counts)

    @cached_property
    def occurring(self) -> NDArray[np.intp]:
        """The patterns that occur, in order: some thousands of a weight's elements."""
        return np.flatnonzero(self.counts > 0)

    def ranges(self) -> Floats:
        """Return the range (2, 1) that the elements span, ignoring NaN; NaN if all elements are NaN."""
        x = self._stored()
        order_keys = empty_order_keys(1, self.dtype)
        if x.size:
            cpu.measure_range(x, 0, x.size, Layout.of(x.shape, QuantSpec()), 0, order_keys, self.dtype)
        return ranges_of_order_keys(order_keys, self.dtype)

    def error_sums(self, params: QuantParams) -> NDArray[np.float64]:
        """Return the error sums (1, SUM_COLUMNS) for these qparams; mark it degenerate if an output is not finite."""
        x = self._stored()
        y = np.empty_like(x)
        sums = empty_sums(1)
        if x.size:
            of_patterns = replace(params, columns=None)  # columns are those of the tensor's rows
            cpu.quantize(x, y, 0, 0, x.size, Layout.of(x.shape, QuantSpec()), of_patterns)
            lo, hi = params.qparams[0, 0], params.qparams[1, 0]
            lanes = np.zeros((NUM_SUMS, VECTOR_SIZE))
            kernels.sum_patterns(self.counts, self.occurring, x, y, lo, hi, lanes, sums[0])
        params.degenerate[0] |= sums[0, NONFINITE_OUTPUT] > 0
        return sums

    def _stored(self) -> Stored:
        """Return an element of each occurring pattern."""
        return self.occurring.astype(np.uint16).view(STORAGE[self.dtype])


class PatternCounter:
    """Thread-safe counter of patterns; concurrent calls use separate tables."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._counts = np.zeros(NUM_PATTERNS, np.int64)
        self._idle: list[_Tables] = []
        self._changing = Lock()

    def see(self, x: Stored) -> None:
        """Count stored elements."""
        patterns = x.view(np.uint16)
        whole = patterns.size // 4 * 4
        tables = self._take()
        kernels.count_patterns(patterns[:whole].view(np.uint64), patterns[whole:], tables.counts)
        tables.num_elements += patterns.size
        if tables.num_elements >= _COUNTER_LIMIT:
            self._empty(tables)
        self._idle.append(tables)

    def histogram(self) -> PatternHistogram:
        """Return the counts; no `see` may be in progress."""
        for tables in self._idle:
            self._empty(tables)
        _spare.extend(self._idle)
        self._idle.clear()
        return PatternHistogram(dtype=self._dtype, counts=self._counts)

    def _take(self) -> "_Tables":
        for held in (self._idle, _spare):
            with suppress(IndexError):
                return held.pop()
        return _Tables()

    def _empty(self, tables: "_Tables") -> None:
        both = tables.counts[0] + tables.counts[1]  # few enough elements to fit 32 bits
        with self._changing:
            self._counts += both
        tables.counts.fill(0)
        tables.num_elements = 0


class _Tables:
    """Counters of one thread."""

    def __init__(self) -> None:
        self.counts = np.zeros((2, NUM_PATTERNS), np.uint32)
        self.num_elements = 0


_spare: list[_Tables] = []
"""Empty tables for the next tensor: allocating half a megabyte takes as long as counting 100,000 elements."""
