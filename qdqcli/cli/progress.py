"""Progress on stderr: a bar on a terminal, a line now and then elsewhere; both with the phase and the file."""

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from threading import Lock
from time import monotonic
from typing import Protocol

from qdqcli.cli.session import Session
from qdqcli.escape import escape_name, without_commands
from qdqcli.recipe.plan import Plan
from qdqcli.report.number import size_text

BAR_BYTES = 32 << 20
"""Minimum bytes of work for a progress bar."""
LINE_SECONDS = 30.0
"""Seconds between two lines in a log."""
_BAR_SECONDS = 0.05
_NAME_LENGTH = 32

Files = Sequence[tuple[str, int]]
"""Name and bytes of each file, in processing order."""


class Display(Protocol):
    """A display of progress."""

    def show(self, describe: Callable[[], str], done_bytes: int, *, is_new: bool) -> None:
        """Show the finished bytes; `is_new`: the description has changed."""


class Progress:
    """Finished bytes, phase and file. Called with the bytes of each piece of work, from any thread."""

    def __init__(self, total_bytes: int, files: Files, phase: str, display: Display) -> None:
        self.total_bytes = total_bytes
        self._files = files
        self._ends = list(accumulate(size for _, size in files))
        self._phase, self._phase_start = phase, 0
        self._done = 0
        self._num_compiling = 0
        self._display = display
        self._lock = Lock()

    def __call__(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            self._display.show(self._description, self._done, is_new=False)

    def begin(self, phase: str) -> None:
        """Start another pass over the files."""
        with self._lock:
            self._phase, self._phase_start = phase, self._done
            self._display.show(self._description, self._done, is_new=True)

    def compiling(self, change: int) -> None:
        """Count the kernels being compiled: +1 or -1; compilations nest where a kernel calls another."""
        with self._lock:
            self._num_compiling += change
            self._display.show(self._description, self._done, is_new=True)

    def _description(self) -> str:
        if self._num_compiling:
            return "compiling kernels (once)"
        if not self._files:
            return self._phase
        index = min(bisect_right(self._ends, self._done - self._phase_start), len(self._files) - 1)
        name = without_commands(escape_name(self._files[index][0], _NAME_LENGTH))
        number = f" {index + 1}/{len(self._files)}" if len(self._files) > 1 else ""
        return f"{self._phase}{number} {name}"


class Silent:
    """Progress of a quiet session: nothing is shown."""

    def __call__(self, num_bytes: int) -> None: ...

    def begin(self, phase: str) -> None: ...


class _Lines:
    """A line every `LINE_SECONDS`, for logs of batch jobs."""

    def __init__(self, session: Session, total_bytes: int) -> None:
        self._session = session
        self._total = total_bytes
        self._began = self._last = monotonic()

    def show(self, describe: Callable[[], str], done_bytes: int, *, is_new: bool) -> None:  # noqa: ARG002
        now = monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        speed = done_bytes / (now - self._began)
        done = min(done_bytes, self._total)
        left = f", {duration((self._total - done) / speed)} left" if speed else ""
        self._session.tell(
            f"{describe()}: {size_text(done)} of {size_text(self._total)}, {size_text(int(speed))}/s{left}"
        )


@contextmanager
def progress(
    session: Session,
    plans: Sequence[Plan] = (),
    phase: str = "measuring",
    *,
    passes: int = 1,
    total_bytes: int | None = None,
) -> Iterator[Progress | Silent]:
    """Yield the callback for finished work: `passes` over the data of the plans, or `total_bytes` in all.

    Shows a bar on a terminal for long work, else a line now and then; nothing where `session` is quiet.
    """
    if session.quiet:
        yield Silent()
        return
    from qdqcli.op.jit.kernel import watch_compiling  # NumPy

    files = [(plan.shard.name, plan.nbytes) for plan in plans]
    if total_bytes is None:
        total_bytes = passes * sum(size for _, size in files)
    is_watched = sys.stderr.isatty() and total_bytes >= BAR_BYTES
    with _bar(total_bytes) if is_watched else nullcontext(_Lines(session, total_bytes)) as display:
        shown = Progress(total_bytes, files, phase, display)
        with watch_compiling(shown.compiling):
            shown.begin(phase)
            yield shown


@contextmanager
def _bar(total_bytes: int) -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("", total=total_bytes)

        class Bar:
            shown = 0.0

            def show(self, describe: Callable[[], str], done_bytes: int, *, is_new: bool) -> None:
                if (now := monotonic()) - self.shown >= _BAR_SECONDS or is_new:
                    self.shown = now
                    bar.update(task, description=describe(), completed=done_bytes)

        yield Bar()


@contextmanager
def counting(session: Session, total: int) -> Iterator[Callable[[str], None]]:
    """Yield the callback that begins the next of `total` steps, by its description.

    Shows a bar on a terminal, else a line now and then; nothing where `session` is quiet.
    """
    if session.quiet or not sys.stderr.isatty():
        yield _counted_lines(session, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("", total=total, completed=-1)
        yield lambda description: bar.update(task, description=description, advance=1)


def _counted_lines(session: Session, total: int) -> Callable[[str], None]:
    last = monotonic()
    count = 0

    def begin(description: str) -> None:
        nonlocal last, count
        count += 1
        if monotonic() - last >= LINE_SECONDS:
            last = monotonic()
            session.tell(f"{description}: {count} of {total}")

    return begin


def duration(seconds: float) -> str:
    """Return `0.4 s`, `22 s`, `3 min 12 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
