"""The folder of a checkpoint, and what a name in it leads to: links may not lead out of it.

A link comes from whoever made the checkpoint, and an output has the content of what it leads to: one to
`~/.ssh/id_rsa` would publish that. So every link must stay in the folder or lead into the `blobs` of the Hub cache that
the folder stands in, and so must each one on the way.

Names are resolved here, component by component on descriptors, and not by the system, for which a folder could become a
link between the check and the opening. Who opens the file later compares its identity with the one found here.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from qdqcli.errors import InputError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.hub import BLOBS, SNAPSHOTS
from qdqcli.tensors.storage import input_error

MAX_LINKS = 40
"""Links in one name, as in the system's own resolution."""

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+", re.DOTALL)


class Found(NamedTuple):
    """What a name leads to."""

    status: os.stat_result
    left_to: str | None
    """Where a link leads that leaves the checkpoint; None where none does."""


class CheckpointRoot:
    """The folder at `path`, which may itself be a link: its user named it.

    With `follow_links` links may lead anywhere.

    Raises:
        InputError: the folder cannot be opened.
    """

    def __init__(self, path: Path, *, follow_links: bool = False) -> None:
        self.path = path
        self._follow_links = follow_links
        self._real = _parts(os.path.realpath(path))
        self._grounds: dict[tuple[str, ...], int] = {}
        """Real path -> descriptor of each folder in which names and links may end."""
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._grounds[self._real] = os.open(path, _FOLDER & ~os.O_NOFOLLOW)
            except OSError as error:
                raise input_error(path, error) from error
            as_given = _parts(os.path.abspath(path))  # noqa: PTH100 - a home may lie behind a link, say
            if as_given != self._real:
                self._grounds[as_given] = os.dup(self._grounds[self._real])
            for levels, blobs in _blobs(self._real):
                with suppress(OSError):  # not there, or a link itself: then nothing may lead into it
                    above = os.path.join(*[os.pardir] * levels, BLOBS)  # noqa: PTH118 - physical, by descriptor
                    self._grounds[blobs] = os.open(above, _FOLDER, dir_fd=self._grounds[self._real])
            undo.pop_all()

    def look_up(self, name: str) -> Found:
        """What `name`, relative to the folder, leads to.

        Raises:
            InputError: it is not there, leads nowhere or to itself; or out of the folder, unless that is allowed.
        """
        try:
            with _Walk(self._real, self._grounds) as walk:
                return Found(walk.follow(name), None)
        except _LeavesError as leaves:
            path = self.path / name
            if not self._follow_links:
                raise InputError(
                    f"{show_path(path)}: a link leads out of the checkpoint, to "
                    f"'{escape_name(leaves.target)}'; put the file itself there, or pass --follow-links"
                ) from None
            try:
                return Found(path.stat(), leaves.target)
            except OSError as error:
                raise input_error(path, error) from error
        except OSError as error:
            raise input_error(self.path / name, error) from error

    def close(self) -> None:
        while self._grounds:
            os.close(self._grounds.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _LeavesError(Exception):
    """A link leads to where it may not."""

    def __init__(self, target: str) -> None:
        self.target = target


class _Walk:
    """The resolution of one name: a place, and what is left of the way from there.

    Within a ground the place is a chain of descriptors. Outside it is a real path that is never opened: a way that
    leaves one ground can only go on to another.
    """

    def __init__(self, start: tuple[str, ...], grounds: dict[tuple[str, ...], int]) -> None:
        self._grounds = grounds
        self._opened: list[int] = []
        """Of the folders from a ground, which is not among them, down to the place."""
        self._ground: int | None = grounds[start]
        self._outside: tuple[str, ...] = start
        """The place while it is in no ground; else the ground that it is in."""
        self._target = ""
        """Where the last link leads."""

    def follow(self, name: str) -> os.stat_result:
        """What the name leads to.

        Raises:
            _LeavesError: somewhere else.
            OSError: nowhere, or in circles.
        """
        rest = _steps(name)
        num_links = 0
        while rest:
            step = rest.pop()
            if step == os.pardir:
                self._go_up()
            elif self._ground is None:
                self._go_down_outside(step)
            else:
                status = os.stat(step, dir_fd=self._here, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    num_links += 1
                    if num_links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    self._target = os.readlink(step, dir_fd=self._here)
                    if os.path.isabs(self._target):  # noqa: PTH117 - a text, no path of ours
                        self._leave(())
                    rest += _steps(self._target)
                elif rest:
                    self._opened.append(os.open(step, _FOLDER, dir_fd=self._here))
                else:
                    return status
        if self._ground is None:
            raise _LeavesError(self._target)
        return os.fstat(self._here)

    @property
    def _here(self) -> int:
        assert self._ground is not None
        return self._opened[-1] if self._opened else self._ground

    def _go_up(self) -> None:
        if self._opened:
            os.close(self._opened.pop())
        else:
            self._leave(self._outside[:-1])

    def _go_down_outside(self, step: str) -> None:
        self._outside = (*self._outside, step)
        self._ground = self._grounds.get(self._outside)
        if not any(ground[: len(self._outside)] == self._outside for ground in self._grounds):
            raise _LeavesError(self._target)

    def _leave(self, place: tuple[str, ...]) -> None:
        self._close()
        self._ground, self._outside = self._grounds.get(place), place

    def _close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()


def _steps(path: str) -> list[str]:
    """The components of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _blobs(real: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Where a folder in `snapshots` of a Hub cache may have its blobs: how many levels up, and the real path.

    Beside `snapshots`, and beside the repository, for caches whose repositories share them.
    """
    if SNAPSHOTS not in real:
        return
    end = len(real) - 1 - real[::-1].index(SNAPSHOTS)
    if end and _REPOSITORY.fullmatch(real[end - 1]):
        for above in (end, end - 1):
            yield len(real) - above, (*real[:above], BLOBS)
