"""Driver of a run's tasks: a window of submitted tasks, retries, and what becomes of the others after a failure.

Shards that run elsewhere, many at once, go through it, and those that are sent to a store while the next are computed.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar, cast

from qdqcli.errors import Interrupted, QdqError
from qdqcli.interrupt import Interruption

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_ATTEMPTS = 4
"""Attempts at a task that fails for a reason that may pass, as on a network file system."""
MAX_FAILURES = 4
"""Failed tasks after which no other begins: what they have in common is not a single file."""
CHECK_S = 0.2
"""Seconds between two looks at the interruption flag."""


class TransientError(Exception):
    """A failure of the environment, which another attempt may not meet."""

    def __init__(self, error: QdqError) -> None:
        super().__init__(error)
        self.error = error
        """The error for the user if no attempt succeeds."""


class Executor(Protocol):
    """Runs pure functions somewhere; knows nothing of tensors.

    1. A function may run more than once, on several machines at the same time.
    2. A future whose result was lost runs again, or raises a `QdqError` that says what happened.
    """

    @property
    def slots(self) -> int:
        """Number of tasks worth having in flight."""

    def submit(self, function: Callable[[Task], Result], task: Task, /) -> Future[Result]: ...

    def check(self) -> None:
        """Raise a `QdqError` if nothing can run any more; called while tasks are awaited."""


class _Behind:
    """Executor that runs functions in the calling thread; the rest of their work runs beside the next function.

    A function returns the rest of its work. The rest of one runs at a time: of a shard that is sent to a store, while
    the next one is computed. What is no failure of the task passes through.
    """

    slots = 2

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._last: list[Future[object]] = []

    def submit(self, function: Callable[[Task], Result], task: Task, /) -> Future[Result]:
        begin = cast("Callable[[Task], Callable[[], Result]]", function)
        future: Future[Result] = Future()
        try:
            rest = begin(task)
        except Interrupted:
            raise
        except (QdqError, TransientError) as error:
            future.set_exception(error)
            return future
        wait(self._last)
        future = self._pool.submit(rest)
        self._last = [cast("Future[object]", future)]
        return future

    def check(self) -> None: ...


def drive(
    function: Callable[[Task], Result],
    tasks: Sequence[tuple[int, Task]],
    executor: Executor,
    receive: Callable[[int, Result], None],
    interruption: Interruption,
    max_failures: int = MAX_FAILURES,
) -> None:
    """Run `function` on the argument of each (index, argument); `receive` gets index and result, once per task.

    A failed task does not stop the others before there are `max_failures`. `receive` may raise like the task.

    Raises:
        QdqError: the failure of the first task in order, once no other runs. A task that raises `TransientError` is
            repeated before.
    """
    waiting, attempts = deque(tasks), Counter[int]()
    running: dict[Future[Result], tuple[int, Task]] = {}
    failures: dict[int, QdqError] = {}
    try:
        while running or (waiting and len(failures) < max_failures):
            while waiting and len(running) < executor.slots and len(failures) < max_failures:
                interruption.check()
                task = waiting.popleft()
                running[executor.submit(function, task[1])] = task
            finished = [future for future in running if future.done()]
            for future in finished or wait(running, CHECK_S, FIRST_COMPLETED).done:
                task = running.pop(future)
                attempts[task[0]] += 1
                try:
                    receive(task[0], future.result())
                except TransientError as error:
                    if attempts[task[0]] < MAX_ATTEMPTS:
                        waiting.append(task)
                    else:
                        failures[task[0]] = error.error
                except QdqError as error:
                    failures[task[0]] = error
            interruption.check()
            executor.check()
    finally:
        for future in running:
            future.cancel()
    if failures:
        raise failures[min(failures)]


def drive_in_two(
    begin: Callable[[Task], Callable[[], Result]],
    tasks: Sequence[tuple[int, Task]],
    receive: Callable[[int, Result], None],
    interruption: Interruption,
    max_failures: int = MAX_FAILURES,
) -> None:
    """Do the same in this process, where `begin` returns the rest of a task's work, see `_Behind`."""
    function = cast("Callable[[Task], Result]", begin)
    with ThreadPoolExecutor(1, thread_name_prefix="qdq-behind") as pool:
        drive(function, tasks, _Behind(pool), receive, interruption, max_failures)
