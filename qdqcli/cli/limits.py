"""Limits of the system under which the libraries that compute would end the process by themselves."""

import os
import resource

from qdqcli.errors import UnavailableError
from qdqcli.escape import show_size

ADDRESS_SPACE = 512 << 20
"""Bytes that NumPy, LLVM and two threads reserve without using them; 450 MiB did, with 400 LLVM aborted."""


def prepare_libraries() -> None:
    """Call before NumPy is imported: with less address space OpenBLAS calls `exit(1)`, the budget's code.

    OpenBLAS, which nothing here needs, also gets one thread instead of one, with a buffer, for each processor.

    Raises:
        UnavailableError: the limit on address space is too low to load them.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise UnavailableError(
            f"the limit on address space is {show_size(limit)}, too little to load NumPy and Numba; allow "
            f"{show_size(ADDRESS_SPACE)} or more (ulimit -v)"
        )
