"""The tests of this folder under Numba's CUDA simulator: `python -m tests.simulator`, with any arguments of pytest.

Numba decides when it is imported whether CUDA is simulated, so the other tests cannot share the process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Lock
from typing import Any

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

import pytest
from numba import cuda
from numba.cuda.simulator import kernelapi


class OneArrayForAll(dict[Any, Any]):
    """Where a block's shared arrays are kept.

    The simulator looks whether a thread before has made the array, then makes it: two threads that look at once get an
    array each, and the block's sums are wrong (numba 0.68, kernelapi.py, FakeCUDAShared.array). So who finds nothing
    keeps the others waiting until the array is there. A lock in the simulator would let this go.
    """

    def __init__(self) -> None:
        super().__init__()
        self._looking = Lock()

    def get(self, key: Any, default: Any = None) -> Any:
        self._looking.acquire()
        if key not in self:
            return default
        self._looking.release()
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._looking.release()


make_shared = kernelapi.FakeCUDAShared.__init__


def make_shared_for_all(self: Any, *arguments: Any) -> None:
    make_shared(self, *arguments)
    self._allocations = OneArrayForAll()


kernelapi.FakeCUDAShared.__init__ = make_shared_for_all
if not hasattr(cuda, "get_current_device"):  # Numba's own simulator; that of numba-cuda (extra cuda) has both
    cuda.get_current_device = lambda: cuda.current_context().device
    cuda.default_stream = cuda.stream
# The simulator polls its threads in a busy loop; with Python's 5 ms each barrier would take that long.
sys.setswitchinterval(1e-4)
arguments = sys.argv[1:]
if not any("test_" in argument for argument in arguments):
    arguments.append(str(Path(__file__).parent))
sys.exit(pytest.main(["-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", *arguments]))
