"""Growth of the work with the size of its input: a ratio, so that neither the machine nor its load matters much."""

from collections.abc import Callable
from time import process_time


def growth(work: Callable[[int], object], small: int, large: int) -> float:
    """CPU time of `work(large)` over that of `work(small)`, the least of three each, in turn."""
    times: dict[int, list[float]] = {small: [], large: []}
    for _ in range(3):
        for size, taken in times.items():
            began = process_time()
            work(size)
            taken.append(process_time() - began)
    return min(times[large]) / max(min(times[small]), 1e-4)
