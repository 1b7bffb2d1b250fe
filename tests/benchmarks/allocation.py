"""Time and gap of the bit allocation: python -m tests.benchmarks.allocation

Problems without data: shapes of Llama-3-8B, and 100,000 tensors of odd sizes, with made-up curves of loss over bits.
"""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from math import gcd

import numpy as np

from qdqcli.study.solver import Candidate, Solution, solve

BITS = (2, 3, 4, 5, 6, 8)
GROUP = 128
LLAMA_3_8B = [
    (128256, 4096),
    *[
        (rows, columns)
        for _ in range(32)
        for rows, columns in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
    ],
    (128256, 4096),
]
"""Embedding, 32 layers with fused q/k/v and gate/up, output head."""


def odd_shapes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Shapes without a useful common divisor."""
    random = np.random.default_rng(seed)
    sizes = zip(random.integers(7, 5000, count).tolist(), random.integers(1, 40, count).tolist(), strict=True)
    return [(rows, GROUP * groups) for rows, groups in sizes]


def problem(shapes: Sequence[tuple[int, int]], seed: int = 0) -> list[list[Candidate]]:
    """Candidates of each tensor: 16-bit scales, a loss that falls by about 6 dB per bit from a random start."""
    random = np.random.default_rng(seed)
    made = []
    for rows, columns in shapes:
        start, slope = 10.0 ** random.uniform(-2, 0), random.uniform(0.22, 0.32)
        size = rows * columns
        losses = [start * slope ** (bits - 2) * random.uniform(0.9, 1.1) for bits in BITS]
        costs = [size * bits + size // GROUP * 16 for bits in BITS]
        made.append((costs, losses))
    unit = sum(losses[0] for _, losses in made) / (1 << 52)
    return [[Candidate(c, round(x / unit)) for c, x in zip(costs, losses, strict=True)] for costs, losses in made]


def solved(decisions: Sequence[Sequence[Candidate]], average: float) -> Solution:
    """The plan at an average of bits per weight."""
    at = {bits: sum(candidates[k].cost for candidates in decisions) for k, bits in enumerate(BITS)}
    return solve(decisions, int(at[4] + (average - 4.125) * (at[5] - at[4])))


def measured(name: str, shapes: Sequence[tuple[int, int]]) -> Iterator[str]:
    decisions = problem(shapes)
    divisor = gcd(*(candidate.cost for candidates in decisions for candidate in candidates))
    for average in (3.125, 4.125, 4.5, 5.3):
        begin = time.perf_counter()
        found = solved(decisions, average)
        seconds = time.perf_counter() - begin
        yield f"{name}, {average} bits: {seconds:6.2f} s, {found.proof}, gap {found.gap:.5%}, costs' divisor {divisor}"


def main() -> None:
    for name, shapes in (("Llama-3-8B", LLAMA_3_8B), ("100,000 tensors", odd_shapes(100_000))):
        for line in measured(name, shapes):
            print(line, flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
