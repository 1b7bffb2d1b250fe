"""MSE range: the range with the least squared error among 100 scaled ranges.

Candidate k = 1 .. 100 is the range of the slice's finite elements with both ends times k / 100, passed to the op in
float32 (float64 for F64) and rounded to the tensor's dtype if that is the op's arithmetic. One factor for both ends is
enough: the op's scale depends on one end, and the op moves the other. The winner has the least sum of squared errors of
the stored outputs over the finite elements; the widest wins a tie. Candidate 100 is the whole range, so the result is
never worse than it; it also wins if no candidate has a finite error. -0 is below +0.

The sum is a float64 in a documented order (`op/cpu/search.py`; the chunks of a long slice are added exactly), so the
result is identical for all threads and blocks. Most candidates are dropped before they have seen all elements, when
their partial sum exceeds another's total. That never changes the result.
"""

from collections.abc import Iterator
from math import inf
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.arguments import NUM_CANDIDATES, Candidates, SearchScratch
from qdqcli.op.histogram import NUM_PATTERNS, PatternHistogram
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.layout import Layout
from qdqcli.op.params import (
    FLOAT_TYPE,
    QPARAM_ROWS,
    STORAGE,
    Floats,
    Stored,
    empty_order_keys,
    in_arithmetic,
    merge_order_keys,
    op_and_codes,
    ranges_of_order_keys,
)
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import WholeSlices
from qdqcli.ranges.finite import FiniteElements, counts_by_key, ranges_or_zeros
from qdqcli.stats.sums import CHUNK_ELEMENTS, expansion, value_of

_FULL_RANGE = NUM_CANDIDATES - 1
_SAMPLE_CHUNKS = 8
"""Sample size in chunks of a long slice: enough to guess the best candidate, few enough to be cheap."""
_KEPT_SUMS = 4096
"""Maximum number of chunk sums stored before they are compacted, exactly, to an expansion."""
_SLACK = 1 + 2.0**-30
"""Bound on the ratio of sums in different orders: a candidate dropped by it cannot win."""


class MseEstimator:
    """Best candidate by the error of the op itself."""

    def __init__(self, spec: QuantSpec, dtype: str) -> None:
        self.dtype = dtype
        self.op, codes = op_and_codes(spec, dtype)
        padded = -(-NUM_CANDIDATES // VECTOR_SIZE) * VECTOR_SIZE
        fractions = (np.minimum(np.arange(1, padded + 1), NUM_CANDIDATES) / NUM_CANDIDATES).astype(FLOAT_TYPE[dtype])
        self.candidates = Candidates(fractions, codes)

    def of_slices(self, slices: WholeSlices) -> Floats:
        ranges = FiniteElements.of(slices, self.dtype).ranges
        best = np.empty(slices.num_slices, np.int64)
        kernels.search_slices(
            slices.x, *slices.indices, ranges, self.candidates, self.op, self.scratch(len(slices.x)), best
        )
        return self.shrink(ranges, best)

    def of_patterns(self, patterns: PatternHistogram) -> Floats:
        order_keys, by_key = counts_by_key(patterns.counts, self.dtype)
        seen = order_keys[by_key > 0]
        if not seen.size:
            return np.zeros((2, 1), np.float32)
        ranges = ranges_of_order_keys(np.array([[seen[0]], [seen[-1]]]), self.dtype)
        x = np.arange(NUM_PATTERNS, dtype=np.uint16).view(STORAGE[self.dtype])
        errors = np.empty(NUM_CANDIDATES)
        qparams = self.qparams(ranges)
        counts, occurring = patterns.counts, patterns.occurring
        lanes = np.empty(VECTOR_SIZE)
        kernels.sum_candidates_of_patterns(counts, occurring, x, qparams, self.op, lanes, errors)
        return self.shrink(ranges, np.array([least_error(dict(enumerate(errors.tolist())))]))

    def of_long_slice(self, num_elements: int) -> "_LongSlice":
        return _LongSlice(self, num_elements)

    def qparams(self, ranges: Floats) -> Floats:
        """Return all candidates, shape (QPARAM_ROWS, whole vectors), of a slice with this range (2, 1)."""
        fractions = self.candidates.fractions
        qparams = np.empty((QPARAM_ROWS, len(fractions)), fractions.dtype)
        kernels.make_candidates(
            ranges[0, 0], ranges[1, 0], self.candidates, self.op.compute_type, 0, len(fractions), qparams
        )
        return qparams

    def shrink(self, ranges: Floats, candidates: NDArray[np.int64]) -> Floats:
        """Return the ranges, shape (2, slices), of one candidate per slice."""
        return in_arithmetic(ranges * self.candidates.fractions[candidates], self.op.compute_type, self.dtype)

    def scratch(self, num_elements: int) -> SearchScratch:
        """Allocate the kernels' scratch buffers for decoding a slice or a chunk, whichever is shorter."""
        size = -(-min(num_elements, CHUNK_ELEMENTS) // VECTOR_SIZE) * VECTOR_SIZE
        fractions = self.candidates.fractions
        return SearchScratch(
            v=np.empty(size, fractions.dtype),
            a=np.empty(size),
            qparams=np.empty((QPARAM_ROWS, len(fractions)), fractions.dtype),
            errors=np.empty(len(fractions)),
            extremes=np.empty((2, VECTOR_SIZE), fractions.dtype),
        )


def least_error(errors: dict[int, float]) -> int:
    """Return the candidate with the least error, the last on a tie; the full range if no error is finite."""
    finite = [(error, -k) for k, error in errors.items() if error < inf]
    return -min(finite)[1] if finite else _FULL_RANGE


class _LongSlice:
    """A slice in passes: its extremes; all candidates on a sample; the sample's winner on the rest; then the others.

    The winner of the sample is hard to beat: few others have to see everything.
    """

    def __init__(self, estimator: MseEstimator, num_elements: int) -> None:
        self._estimator = estimator
        num_chunks = -(-num_elements // CHUNK_ELEMENTS)
        self._sample_step = max(-(-num_chunks // _SAMPLE_CHUNKS), 1)
        self._order_keys = empty_order_keys(1, estimator.dtype)
        self._ranges: Floats | None = None
        """Range of the finite elements, once known."""
        self._qparams: Floats
        self._stage = self._after_extremes
        self._running = list(range(NUM_CANDIDATES))
        """Candidates evaluated in this pass."""
        self._sums: dict[int, list[float]] = {k: [] for k in self._running}
        """Sums by candidate: one per chunk, compacted to an expansion when there are many."""
        self._limit = inf
        self._best = _FULL_RANGE
        self._merging = Lock()

    def see(self, x: Stored, start: int, stop: int) -> None:
        if self._ranges is None:
            whole = WholeSlices(x=x, start=0, layout=Layout.of(x.shape, QuantSpec()))
            found = FiniteElements.of(whole, self._estimator.dtype)
            with self._merging:
                merge_order_keys(self._order_keys, found.order_keys)
            return
        for first, last in self._chunks(start // CHUNK_ELEMENTS, -(-stop // CHUNK_ELEMENTS)):
            self._try(x[first * CHUNK_ELEMENTS - start : last * CHUNK_ELEMENTS - start])

    def _chunks(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the runs within chunks [first, last) that this pass needs: the sample, or all but the sample."""
        step = self._sample_step
        for sampled in range(first // step * step, last, step):
            begin, end = (sampled, sampled + 1) if self._stage == self._after_sample else (sampled + 1, sampled + step)
            begin, end = max(begin, first), min(end, last)
            if begin < end:
                yield begin, end

    def _try(self, x: Stored) -> None:
        """Add the errors of whole chunks; drop candidates that exceed the limit."""
        estimator = self._estimator
        with self._merging:
            candidates = np.array(self._running, np.int64)
            spent = np.array([sum(self._sums[k]) for k in self._running])
        errors = np.empty((len(candidates), -(-len(x) // CHUNK_ELEMENTS)))
        kernels.sum_candidates(
            x, self._qparams, candidates, estimator.op, estimator.scratch(len(x)), self._limit, spent, errors
        )
        with self._merging:
            for k, sums in zip(candidates.tolist(), errors.tolist(), strict=True):
                mine = self._sums[k]
                mine += sums
                if len(mine) > _KEPT_SUMS:
                    mine[:] = expansion(mine)
                if not sum(mine) <= self._limit and k in self._running:
                    self._running.remove(k)

    def finish_pass(self) -> bool:
        return self._stage()

    def _after_extremes(self) -> bool:
        self._ranges = ranges_or_zeros(self._order_keys, self._estimator.dtype)
        if not self._ranges.any():
            return True
        self._qparams = self._estimator.qparams(self._ranges)
        self._stage = self._after_sample
        return False

    def _after_sample(self) -> bool:
        self._best = self._least()
        if self._sample_step == 1:  # the sample was the whole slice
            return True
        self._running = [self._best]
        self._stage = self._after_guess
        return False

    def _after_guess(self) -> bool:
        self._limit = value_of(expansion(self._sums[self._best])) * _SLACK
        self._running = [k for k, sums in self._sums.items() if k != self._best and sum(sums) <= self._limit]
        self._stage = self._after_rest
        return not self._running

    def _after_rest(self) -> bool:
        self._running.append(self._best)
        self._best = self._least()
        return True

    def _least(self) -> int:
        return least_error({k: value_of(expansion(self._sums[k])) for k in self._running})

    def ranges(self) -> Floats:
        assert self._ranges is not None  # the first pass found them
        return self._estimator.shrink(self._ranges, np.array([self._best]))
