"""Resource limits and settings under which numeric libraries would end the process, or fail to load."""

import os
import re
import resource
import warnings

from qdqcli.errors import UnavailableError
from qdqcli.escape import escape_name, show_size

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
        UnavailableError: a limit is too low to load them, or Numba refuses its settings.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for kind, least, name, option in LIMITS:
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and limit < least:
            raise UnavailableError(
                f"the limit on {name} is {show_size(limit)}, too little to load NumPy and Numba; allow "
                f"{show_size(least)} or more (ulimit {option})"
            )
    _check_numba()


def _check_numba() -> None:
    """Import Numba, which takes settings from the environment.

    Raises:
        UnavailableError: Numba refuses one of them.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    features = settings.get("NUMBA_CPU_FEATURES", "")
    if not re.fullmatch(r"([+-][^,\s]+(,[+-][^,\s]+)*)?", features):
        raise _refused({"NUMBA_CPU_FEATURES": features})  # LLVM aborts
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Environment variable 'NUMBA_")  # for a value that cannot be parsed
            import numba  # noqa: F401
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:
        if not settings:
            raise
        named = {name: value for name, value in settings.items() if f"'{name}'" in str(error)}
        raise _refused(named or settings) from error


def _refused(settings: dict[str, str]) -> UnavailableError:
    shown = ", ".join(f"{name}={escape_name(value, 40)}" for name, value in sorted(settings.items()))
    return UnavailableError(f"Numba cannot compile kernels with {shown} in the environment; unset it")
