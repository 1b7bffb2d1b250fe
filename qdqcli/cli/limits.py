"""Resource limits under which numeric libraries would end the process, or fail to load."""

import os
import resource

from qdqcli.errors import UnavailableError
from qdqcli.escape import show_size

LIMITS = (
    (resource.RLIMIT_AS, 512 << 20, "address space", "-v"),
    (resource.RLIMIT_DATA, 192 << 20, "data", "-d"),
)
"""Limit, its minimum in bytes, its name and the option of `ulimit`. NumPy, LLVM and two threads reserve address space
without using it: 450 MiB sufficed, with 400 LLVM aborted. Compiling takes 140 MiB of data.
"""


def prepare_libraries() -> None:
    """Call before NumPy is imported: with too little memory OpenBLAS calls `exit(1)`, the budget's code.

    OpenBLAS, which nothing here needs, also gets a single thread instead of one, with a buffer, per processor.

    Raises:
        UnavailableError: a limit is too low to load them.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for kind, least, name, option in LIMITS:
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and limit < least:
            raise UnavailableError(
                f"the limit on {name} is {show_size(limit)}, too little to load NumPy and Numba; allow "
                f"{show_size(least)} or more (ulimit {option})"
            )
