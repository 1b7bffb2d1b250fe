"""CPU loops that select an element by rank: in each of many slices, or in one long slice.

Elements are patterns, ordered by `order_key` as in `cpu/ranges.py`. Ranks count from 1 among the finite elements. Only
integers are counted: any order and any partition gives the same.
"""

import numpy as np

from qdqcli.op.cpu.ranges import run_at
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    bits_of_mask,
    broadcast,
    count,
    greatest,
    larger,
    least,
    load,
    load_part,
    lowest_bit,
    mask_of_first,
    smaller,
)
from qdqcli.op.primitives import select
from qdqcli.op.value import order_key

_STEPPED = 2048
"""Maximum number of elements scanned when stepping inwards from an extreme, key by key."""
_GUESS_BITS = 12
"""A guess is assumed to be within 2^-_GUESS_BITS of the range of keys."""


def count_finite(x, elements, steps, limits, numbers, order_keys):
    """Fill `numbers` (slices,) with the count of finite elements and `order_keys` (2, slices) with their extremes.

    Slices are whole, of one run each.
    """
    base, i, stop = elements
    while i < stop:
        s, end, _ = run_at(i, steps)
        end = smaller(end, stop)
        lo, hi, number = broadcast(limits.nothing_lo), broadcast(limits.nothing_hi), 0
        for at in range(i - base, end - base, VECTOR_SIZE):
            key = order_key(load_part(x, at, end - base - at))
            is_finite = (key < limits.infinity) & (key > -limits.infinity - 1)
            lo = smaller(select(is_finite, key, limits.nothing_lo), lo)
            hi = larger(select(is_finite, key, limits.nothing_hi), hi)
            number += count(is_finite & mask_of_first(end - base - at))
        numbers[s] = number
        order_keys[0, s], order_keys[1, s] = least(lo), greatest(hi)
        i = end


def select_ranks(x, elements, steps, numbers, ranks, scratch, order_keys):
    """Narrow `order_keys` (2, slices), the extremes, to the keys of `ranks` (2, slices) among `numbers`.

    `scratch` are a buffer for elements (VECTOR_SIZE,) and zeros (2,).
    """
    few, guesses = scratch
    base, i, stop = elements
    while i < stop:
        s, end, _ = run_at(i, steps)
        end = smaller(end, stop)
        if numbers[s] > 0:
            low, high, number = np.int64(order_keys[0, s]), np.int64(order_keys[1, s]), numbers[s]
            run = x[i - base : end - base]
            below = 0 if number == run.size else _count_up_to(run, low - 1)  # negative infinities and NaN
            for target in range(2):
                rank = ranks[target, s]
                if rank == 1 or rank == number:
                    key = low if rank == 1 else high
                else:  # slices are alike: the previous result is a guess
                    key = _select_rank(run, low, high, below, number, rank, guesses[target], few)
                    guesses[target] = key
                order_keys[target, s] = key
        i = end


@inlined
def _select_rank(x, low, high, below, number, rank, guess, few):
    """Return the key of that rank among the `number` elements with keys in [low, high]; `below` elements are less.

    Short slices step inwards from the nearer end. Otherwise keys are narrowed until `few` holds the remaining elements,
    which are then searched alone.
    """
    from_above = number + 1 - rank
    if smaller(rank, from_above) * x.size <= _STEPPED:
        if rank < from_above:
            return _step_inwards(x, low, high, rank, 0)
        return ~_step_inwards(x, ~high, ~low, from_above, -1)
    low, high, less, number = _narrow(x, low, high, below, number, below + rank, guess, few.size)
    if low < high:
        _collect(x, low, high, few)
        middle = (low >> 1) + (high >> 1)
        low, _, _, _ = _narrow(few[:number], low, high, 0, number, below + rank - less, middle, 0)
    return low


@inlined
def _step_inwards(x, key, last, rank, turned):
    """Return the key of that rank, stepping up from `key`, the least one, to at most `last`, the greatest.

    With `turned` -1 all keys are complemented, which reverses their order.
    """
    reached = 0
    while True:
        number = 0
        order_keys = order_key(load_part(x, 0, x.size)) ^ turned
        beyond = select(mask_of_first(VECTOR_SIZE), last, order_keys)
        for at in range(0, x.size, VECTOR_SIZE):
            order_keys = order_key(load_part(x, at, x.size - at)) ^ turned
            number += count((order_keys == key) & mask_of_first(x.size - at))
            beyond = select(order_keys > key, smaller(order_keys, beyond), beyond)
        reached += number
        if reached >= rank:
            return key
        key = np.int64(least(beyond))


@inlined
def _narrow(x, low, high, below, number, rank, guess, enough):
    """Narrow the keys [low, high] to at most `enough` elements or one key; `rank` is among all elements.

    Gallops from the guess until it brackets the rank, then bisects; each step is one counting pass. Also returns the
    number of elements below `low` and of those in between.
    """
    up_to = below + number
    middle = smaller(larger(guess, low), high - 1)
    step = larger((high >> _GUESS_BITS) - (low >> _GUESS_BITS), 1)
    while low < high and up_to - below > enough:
        reached = _count_up_to(x, middle)
        if reached >= rank:
            high, up_to = middle, reached
        else:
            low, below = middle + 1, reached
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        if step < (middle - low) >> 2:
            middle = high - step if reached >= rank else low + step
            step *= 4
    return low, high, below, up_to - below


@inlined
def _collect(x, low, high, few):
    """Collect the elements with keys in [low, high] in `few`."""
    number = 0
    for at in range(0, x.size, VECTOR_SIZE):
        left = x.size - at
        key = order_key(load_part(x, at, left))
        found = bits_of_mask((key >= low) & (key <= high) & mask_of_first(left))
        while found:
            few[number] = x[at + lowest_bit(found)]
            number += 1
            found &= found - 1


@inlined
def _count_up_to(x, key):
    """Count the elements that are not above `key`."""
    number = 0
    whole = x.size // VECTOR_SIZE * VECTOR_SIZE
    for at in range(0, whole, VECTOR_SIZE):
        number += count(order_key(load(x, at)) <= key)
    if whole < x.size:
        last = order_key(load_part(x, whole, x.size - whole))
        number += count((last <= key) & mask_of_first(x.size - whole))
    return number


# ------------------------------------------------------------------ one long slice, 16 bits of the keys at a time


def count_first_digits(x, shift, tables):
    """Count the upper 16 bits of patterns, from bit `shift` on, into `tables` (2, 65536) of uint32.

    Two alternating tables, see `count_in_tables` in `cpu/histograms.py`.
    """
    one = np.uint32(1)
    even, odd = tables[0], tables[1]
    whole = x.size // 2 * 2
    for i in range(0, whole, 2):
        even[(x[i] >> shift) & 0xFFFF] += one
        odd[(x[i + 1] >> shift) & 0xFFFF] += one
    if whole < x.size:
        even[(x[whole] >> shift) & 0xFFFF] += one


def count_digits(x, prefixes, shift, counts):
    """Count the next digit of keys into `counts` (targets, 65536), where the bits above it match the target's.

    The digit starts at bit `shift`; the bits from `shift` + 16 on are compared with `prefixes` (targets,).
    """
    for at in range(0, x.size, VECTOR_SIZE):
        above = order_key(load_part(x, at, x.size - at)) >> (shift + 16)
        for target in range(prefixes.size):
            if count(above == prefixes[target]):
                for i in range(at, smaller(at + VECTOR_SIZE, x.size)):
                    key = order_key(x[i])
                    if key >> (shift + 16) == prefixes[target]:
                        counts[target, (key >> shift) & 0xFFFF] += 1
