"""Percentile range: excludes the same share of the smallest and of the largest elements.

With percentile P and n finite elements, the upper end is the element of rank ceil(P / 100 * n) in ascending order, the
lower end the element of the same rank in descending order. So an end is always an element: no interpolation, duplicates
have no effect, and the range of -x is the mirrored range of x. P is exact decimal: 99.99 % of 10,000 elements are
9,999. Non-finite elements are ignored; -0 ranks below +0.

A slice of n < 100 / (100 - P) elements keeps its extremes: 10,000 for 99.99.
"""

from fractions import Fraction
from math import ceil
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.histogram import NUM_PATTERNS, PatternHistogram
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.params import FLOAT_TYPE, PATTERN, Floats, Stored, ranges_of_order_keys
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import LongSlice, WholeSlices
from qdqcli.ranges.finite import FiniteElements, counts_by_key

_DIGIT_BITS = 16


class PercentileEstimator:
    """Exact order statistics."""

    def __init__(self, spec: QuantSpec, dtype: str) -> None:
        self._share = Fraction(repr(spec.percentile)) / 100
        self._dtype = dtype

    def of_slices(self, slices: WholeSlices) -> Floats:
        finite = FiniteElements.of(slices, self._dtype)
        numbers, which = np.unique(finite.numbers, return_inverse=True)
        ranks = np.array([ranks_of(int(number), self._share) for number in numbers], np.int64).T[:, which]
        bits, ranks = slices.x.view(PATTERN[self._dtype]), np.ascontiguousarray(ranks)
        scratch = np.empty(VECTOR_SIZE, bits.dtype), np.zeros(2, np.int64)
        kernels.select_ranks(bits, *slices.indices, finite.numbers, ranks, scratch, finite.order_keys)
        return finite.ranges

    def of_patterns(self, patterns: PatternHistogram) -> Floats:
        order_keys, counts = counts_by_key(patterns.counts, self._dtype)
        reached = np.cumsum(counts)
        ranks = ranks_of(int(reached[-1]), self._share)
        if not reached[-1]:
            return np.zeros((2, 1), np.float32)
        found = order_keys[np.searchsorted(reached, np.array(ranks))]
        return ranges_of_order_keys(found.reshape(2, 1), self._dtype)

    def of_long_slice(self, num_elements: int) -> LongSlice:  # noqa: ARG002 - counts only finite elements
        return _LongSlice(self._share, self._dtype)


def ranks_of(number: int, share: Fraction) -> tuple[int, int]:
    """Return the ranks of the lower and upper end among `number` elements, from 1 in ascending order."""
    upper = ceil(share * number)
    return number + 1 - upper, upper


class _LongSlice:
    """Radix selection of both keys: each pass counts elements by one 16-bit digit, of which a 16-bit key is one.

    Passes after the first count only elements that match the digits found so far.
    """

    def __init__(self, share: Fraction, dtype: str) -> None:
        self._share, self._dtype = share, dtype
        self._shift = 8 * np.dtype(PATTERN[dtype]).itemsize - _DIGIT_BITS
        self._counts = np.zeros((2, NUM_PATTERNS), np.int64)
        """Counts by unsigned digit; in the first pass by digit of the bit pattern, all in one row."""
        self._prefixes: NDArray[np.int64] | None = None
        """Digits found so far, of the lower and of the upper end."""
        self._ranks = np.zeros(2, np.int64)
        """Ranks of the ends among the elements with these digits."""
        self._merging = Lock()

    def see(self, x: Stored, start: int, stop: int) -> None:  # noqa: ARG002 - the position does not matter
        counts = self._first_digits(x) if self._prefixes is None else self._digits(x, self._prefixes)
        with self._merging:
            self._counts[: len(counts)] += counts

    def _first_digits(self, x: Stored) -> NDArray[np.int64]:
        tables = np.zeros((2, NUM_PATTERNS), np.uint32)
        kernels.count_first_digits(x.view(PATTERN[self._dtype]), self._shift, tables)
        counts: NDArray[np.int64] = tables.sum(axis=0, dtype=np.int64).reshape(1, -1)
        return counts

    def _digits(self, x: Stored, prefixes: NDArray[np.int64]) -> NDArray[np.int64]:
        counts = np.zeros((len(prefixes), NUM_PATTERNS), np.int64)
        kernels.count_digits(x.view(PATTERN[self._dtype]), prefixes, self._shift, counts)
        return counts

    def finish_pass(self) -> bool:
        if self._prefixes is None:
            self._find_first_digits()
        else:
            reached = np.cumsum(self._counts, axis=1)
            digits = [int(np.searchsorted(row, rank)) for row, rank in zip(reached, self._ranks, strict=True)]
            self._narrow(self._prefixes << _DIGIT_BITS | np.array(digits), reached, digits)
        self._counts[:] = 0
        self._shift -= _DIGIT_BITS
        return self._shift < 0 or not self._ranks.any()

    def _find_first_digits(self) -> None:
        """Find the first digits from counts by the bit pattern's first digit, reordered by key."""
        digits, counts = counts_by_key(self._counts[0], self._dtype)
        reached = np.cumsum(counts)
        self._ranks[:] = ranks_of(int(reached[-1]), self._share) if reached[-1] else (0, 0)
        found = np.searchsorted(reached, self._ranks)
        self._narrow(digits[found].astype(np.int64), np.stack([reached, reached]), found.tolist())

    def _narrow(self, prefixes: NDArray[np.int64], reached: NDArray[np.int64], digits: list[int]) -> None:
        """Restrict the search to the elements with the digits found."""
        self._prefixes = prefixes
        self._ranks -= [int(row[digit - 1]) if digit else 0 for row, digit in zip(reached, digits, strict=True)]

    def ranges(self) -> Floats:
        if self._prefixes is None or not self._ranks.any():
            return np.zeros((2, 1), FLOAT_TYPE[self._dtype])
        return ranges_of_order_keys(self._prefixes.astype(PATTERN[self._dtype]).reshape(2, 1), self._dtype)
