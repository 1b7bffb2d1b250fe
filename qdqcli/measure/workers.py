"""Workers: threads that process blocks of a tensor, each with reused buffers of its own."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from threading import local
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import UsageError
from qdqcli.interrupt import Interruption
from qdqcli.op import backend as backends
from qdqcli.op.backend import Backend
from qdqcli.op.params import Stored
from qdqcli.op.threads import available_threads
from qdqcli.stats.sums import CHUNK_ELEMENTS

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_MAX_MEMORY = 256 << 20
LARGEST_BLOCK_BYTES = 4 << 20
"""Smaller blocks lose more to Python than the caches gain; the interruption flag is checked between blocks."""


class Workers(AbstractContextManager["Workers"]):
    """Pool of `num_threads` threads; kernels and reads release the GIL, so they run in parallel."""

    def __init__(
        self,
        num_threads: int | None = None,
        max_memory: int = DEFAULT_MAX_MEMORY,
        interruption: Interruption | None = None,
        backend: Backend | None = None,
        largest_block: int = LARGEST_BLOCK_BYTES,
    ) -> None:
        for name, value, least in (("threads", num_threads, 1), ("max_memory", max_memory, 0)):
            if value is not None and (not isinstance(value, int) or value < least):
                unit = " of bytes" if name == "max_memory" else ""
                raise UsageError(f"{name} is {value!r}; it must be a number{unit}, at least {least}")
        self.num_threads = num_threads or available_threads()
        self.max_memory = max_memory
        self.least_memory = 3 * self.num_threads * CHUNK_ELEMENTS * 4
        """Minimum bytes of the buffers, regardless of the limit: one chunk of float32 each."""
        self.interruption = interruption or Interruption()
        self.backend = backend or backends.backend("cpu")
        self._own = local()
        self._pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="qdq", initializer=setattr,
                                        initargs=(self._own, "is_worker", True))  # fmt: skip
        # A worker holds an input buffer of one and a half blocks (a block and the slices that reach beyond it) and an
        # output buffer of the same size.
        self._block_bytes = min(largest_block, max_memory // (3 * self.num_threads))

    @property
    def spare_memory(self) -> int:
        """Bytes of `max_memory` that the buffers leave to what is read ahead."""
        return max(self.max_memory - 3 * self.num_threads * self._block_bytes, 0)

    def block_elements(self, itemsize: int) -> int:
        """Return the elements of a block: whole chunks, at least one."""
        return max(self._block_bytes // (CHUNK_ELEMENTS * itemsize), 1) * CHUNK_ELEMENTS

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        is_own: Callable[[Item], bool] = lambda _: False,
    ) -> list[Result]:
        """Return the results in the order of the items; the caller itself processes a single one, and those `is_own`.

        A worker that calls this processes all items itself: waiting for the others could deadlock. After a failure or
        an interruption the items not begun are dropped and the first error is raised.
        """
        items = list(items)
        takes_all = len(items) == 1 or hasattr(self._own, "is_worker")
        found: list[Result | Future[Result]] = []
        try:
            for item in items:
                if takes_all or is_own(item):
                    self.interruption.check()
                    found.append(function(item))
                else:
                    found.append(self._pool.submit(self._checked, function, item))
            return [each.result() if isinstance(each, Future) else each for each in found]
        except BaseException:
            futures = [each for each in found if isinstance(each, Future)]
            for future in futures:
                future.cancel()
            wait(futures)  # what has begun still uses buffers and files
            raise

    def _checked(self, function: Callable[[Item], Result], item: Item) -> Result:
        self.interruption.check()
        return function(item)

    def buffer(self, name: str, dtype: type[np.generic], size: int) -> Stored:
        """Return this thread's buffer of that name, as `size` elements; its previous content is lost."""
        nbytes = size * np.dtype(dtype).itemsize
        held: NDArray[np.uint8] | None = getattr(self._own, name, None)
        if held is None or held.nbytes < nbytes:
            held = self.backend.empty(nbytes)
            setattr(self._own, name, held)
        return held[:nbytes].view(dtype)

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
