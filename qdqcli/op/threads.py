"""Threads for the parts of an array in memory; files have workers with buffers of their own."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache


def available_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_parts(function: Callable[[int], object], num_parts: int) -> None:
    """Call `function` with each part, in the calling thread and in others that are free."""
    if num_parts == 1:
        function(0)
        return
    parts = iter(range(num_parts))  # shared: each thread takes the next

    def work() -> None:
        for part in parts:
            function(part)

    others = min(available_threads(), num_parts) - 1
    helpers = [_pool(os.getpid()).submit(work) for _ in range(others)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    """Return the pool of this process: a forked child has none of its parent's threads."""
    return ThreadPoolExecutor(max(available_threads() - 1, 1), thread_name_prefix="qdq-part")
