"""Import of Numba, which takes settings from the environment and fails in many ways where one is wrong."""

import os
import re
import warnings

from qdqcli.errors import UnavailableError
from qdqcli.escape import escape_name


def import_numba() -> None:
    """Import Numba.

    Raises:
        UnavailableError: it is not installed, or refuses a setting; names it.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    features = settings.get("NUMBA_CPU_FEATURES", "")
    if not re.fullmatch(r"([+-][^,\s]+(,[+-][^,\s]+)*)?", features):
        raise _refused({"NUMBA_CPU_FEATURES": features})  # LLVM aborts
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Environment variable 'NUMBA_")  # for a value that cannot be parsed
            import numba
    except ModuleNotFoundError as error:
        message = f"a kernel must be compiled, and {error.name} is not installed; pip install numba"
        raise UnavailableError(message) from error
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:
        if not settings:
            raise
        named = {name: value for name, value in settings.items() if f"'{name}'" in str(error)}
        raise _refused(named or settings) from error
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise _refused({"NUMBA_DISABLE_JIT": "1"})


def _refused(settings: dict[str, str]) -> UnavailableError:
    shown = ", ".join(f"{name}={escape_name(value, 40)}" for name, value in sorted(settings.items()))
    return UnavailableError(f"Numba cannot compile kernels with {shown} in the environment; unset it")
