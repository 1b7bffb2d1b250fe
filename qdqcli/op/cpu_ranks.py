"""The CPU's loops that find an element by its rank: among the elements of each of many slices, or of one long slice.

Elements come as patterns, ordered by `order_key` as in `cpu_range.py`. Ranks count from 1 among the finite elements.
All is counting of integers: any order and any cut gives the same.
"""

import numpy as np

from qdqcli.op.cpu_range import run_at
from qdqcli.op.internal import inlined
from qdqcli.op.kernel_cache import kernel
from qdqcli.op.lanes import LANES, count, first_lanes, greatest, larger, least, load, load_part, smaller, splat
from qdqcli.op.primitives import select
from qdqcli.op.value import order_key


@kernel()
def count_finite(x, base, start, stop, inner, row, advance, first_slice, infinity, nothing, numbers, keys):
    """Fill `numbers` (slices,) with how many elements of each slice are finite, `keys` (2, slices) with their extremes.

    Slices are whole, of one run each; `infinity` and `nothing` as in `cpu_range.measure_range`.
    """
    i = start
    while i < stop:
        s, end, _ = run_at(i, inner, row, advance)
        end = min(end, stop)
        lo, hi, number = splat(nothing[0]), splat(nothing[1]), 0
        for at in range(i - base, end - base, LANES):
            key = order_key(load_part(x, at, end - base - at))
            is_finite = (key < infinity) & (key > -infinity - 1)
            lo, hi = smaller(select(is_finite, key, nothing[0]), lo), larger(select(is_finite, key, nothing[1]), hi)
            number += count(is_finite & first_lanes(end - base - at))
        numbers[s - first_slice] = number
        keys[0, s - first_slice], keys[1, s - first_slice] = least(lo), greatest(hi)
        i = end


@kernel()
def select_ranks(x, base, start, stop, inner, row, advance, first_slice, numbers, ranks, keys):
    """Narrow `keys` (2, slices), the extremes, to the keys of the elements of `ranks` (2, slices) among `numbers`."""
    i = start
    while i < stop:
        run, end, _ = run_at(i, inner, row, advance)
        s, end = run - first_slice, min(end, stop)
        if numbers[s] > 0:
            low, high = np.int64(keys[0, s]), np.int64(keys[1, s])
            for target in range(2):
                keys[target, s] = _select_rank(x, i - base, end - i, low, high, numbers[s], ranks[target, s])
        i = end


@inlined
def _select_rank(x, begin, size, low, high, number, rank):
    """The key of that rank between the extremes: by halving what is between, one count for each of its bits."""
    if rank == 1:
        return low
    if rank == number:
        return high
    rank += _count_up_to(x, begin, size, low - 1)  # negative infinities and NaN lie below
    while low < high:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        if _count_up_to(x, begin, size, middle) >= rank:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def _count_up_to(x, begin, size, key):
    """How many of x[begin : begin + size] are not above `key`."""
    number = 0
    whole = size // LANES * LANES
    for at in range(begin, begin + whole, LANES):
        number += count(order_key(load(x, at)) <= key)
    if whole < size:
        last = order_key(load_part(x, begin + whole, size - whole))
        number += count((last <= key) & first_lanes(size - whole))
    return number


# ------------------------------------------------------------------ one long slice, 16 bits of the keys at a time


@kernel()
def count_first_digits(x, shift, tables):
    """Count the upper 16 bits of patterns, those from `shift` on, into `tables` (2, 65536) of uint32.

    Two tables in turn, see `cpu_patterns.count_in_tables`.
    """
    one = np.uint32(1)
    even, odd = tables[0], tables[1]
    whole = x.size // 2 * 2
    for i in range(0, whole, 2):
        even[(x[i] >> shift) & 0xFFFF] += one
        odd[(x[i + 1] >> shift) & 0xFFFF] += one
    if whole < x.size:
        even[(x[whole] >> shift) & 0xFFFF] += one


@kernel()
def count_digits(x, prefixes, shift, counts):
    """Count the next digit of keys into `counts` (targets, 65536): of those whose bits above it are the target's.

    Bits from `shift` on are the digit's, those from `shift` + 16 on are compared with `prefixes` (targets,).
    """
    for at in range(0, x.size, LANES):
        lanes = order_key(load_part(x, at, x.size - at)) >> (shift + 16)
        for target in range(prefixes.size):
            if count(lanes == prefixes[target]):
                for i in range(at, min(at + LANES, x.size)):
                    key = order_key(x[i])
                    if key >> (shift + 16) == prefixes[target]:
                        counts[target, (key >> shift) & 0xFFFF] += 1
