"""Name resolution in a checkpoint's folder: links may not lead out of it.

A link comes from the author of the checkpoint, and the output copies its target: a link to `~/.ssh/id_rsa` would
publish the key. So every link, intermediate ones included, must stay in the folder or lead into the `blobs` of the Hub
cache that contains the folder.

Names are resolved here, component by component on descriptors: left to the system, a folder could be replaced by a link
between check and open. Code that opens the file later compares its identity with the one found here.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from qdqcli.errors import InputError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.hub import BLOBS, SNAPSHOTS
from qdqcli.tensors.path import MAX_LINKS
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_input

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+", re.DOTALL)


class NamedTarget(NamedTuple):
    """The target of a name."""

    status: os.stat_result
    left_to: str | None
    """Target of a link that leaves the checkpoint; None if there is none."""


class Root(Protocol):
    """A checkpoint's folder, in which names are looked up."""

    @property
    def path(self) -> Path: ...

    def look_up(self, name: str) -> NamedTarget:
        """Return the target of `name`, which is relative to the folder; raises `InputError` where it has none."""

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names in a folder below, whose prefix is empty or ends with a slash."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, *_: object) -> None: ...


def root_of(path: Path, *, follow_links: bool = False) -> Root:
    """Return the folder at `path`, here or in a store; `follow_links` is for `CheckpointRoot`.

    Raises:
        InputError: the folder cannot be opened.
    """
    if not isinstance(path, RemotePath):
        return CheckpointRoot(path, follow_links=follow_links)
    from qdqcli.tensors.remote_root import RemoteRoot  # lazy: local folders do not need it

    return RemoteRoot(path)


class CheckpointRoot:
    """The folder at `path`, which may itself be a link, since the user named it.

    With `follow_links`, links may lead anywhere.

    Raises:
        InputError: the folder cannot be opened.
    """

    def __init__(self, path: Path, *, follow_links: bool = False) -> None:
        self.path = path
        self._follow_links = follow_links
        self._real = _parts(os.path.realpath(path))
        self._grounds: dict[tuple[str, ...], int] = {}
        """Real path -> descriptor of each allowed root folder."""
        with ExitStack() as undo:
            undo.callback(self.close)
            with blame_input(path):
                self._grounds[self._real] = os.open(path, _FOLDER & ~os.O_NOFOLLOW)
            as_given = _parts(os.path.abspath(path))  # noqa: PTH100 - e.g. a home directory behind a link
            if as_given != self._real:
                self._grounds[as_given] = os.dup(self._grounds[self._real])
            for levels, blobs in _blobs(self._real):
                with suppress(OSError):  # missing, or itself a link: then it is not an allowed root
                    above = os.path.join(*[os.pardir] * levels, BLOBS)  # noqa: PTH118 - physical, by descriptor
                    self._grounds[blobs] = os.open(above, _FOLDER, dir_fd=self._grounds[self._real])
            undo.pop_all()

    def look_up(self, name: str) -> NamedTarget:
        """Return the target of `name`, which is relative to the folder.

        Raises:
            InputError: missing, a dangling or circular link, or a link out of the folder, unless that is allowed.
        """
        path = self.path / name
        with blame_input(path):
            try:
                with _Walk(self._real, self._grounds) as walk:
                    return NamedTarget(walk.follow(name), None)
            except _LeavesError as leaves:
                if not self._follow_links:
                    raise InputError(
                        f"{show_path(path)}: a link leads out of the checkpoint, to "
                        f"'{escape_name(leaves.target)}'; put the file itself there, or pass --follow-links"
                    ) from None
                return NamedTarget(path.stat(), leaves.target)

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names in a folder below."""
        folder = self.path / prefix
        with blame_input(folder):
            return sorted(os.listdir(folder))  # noqa: PTH208 - names are enough

    def close(self) -> None:
        while self._grounds:
            os.close(self._grounds.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LeavesError(Exception):
    """A link leaves the allowed folders."""

    def __init__(self, target: str) -> None:
        self.target = target


class _Walk:
    """Resolution state of one name: the current folder and the remaining components.

    Within an allowed root the current folder is a chain of descriptors. Outside it is a real path that is never opened:
    a path that leaves one root can only continue into another.
    """

    def __init__(self, start: tuple[str, ...], grounds: dict[tuple[str, ...], int]) -> None:
        self._grounds = grounds
        self._opened: list[int] = []
        """Descriptors of the folders below the root (exclusive) down to the current folder."""
        self._ground: int | None = grounds[start]
        self._outside: tuple[str, ...] = start
        """Current folder while outside every root; else the current root."""
        self._target = ""
        """Target of the last link."""

    def follow(self, name: str) -> os.stat_result:
        """Return the status of the name's target.

        Raises:
            _LeavesError: the target is outside the allowed folders.
            OSError: the target is missing, or the links are circular.
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
                    if os.path.isabs(self._target):  # noqa: PTH117 - a string, not a local path
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

    def _leave(self, folders: tuple[str, ...]) -> None:
        self._close()
        self._ground, self._outside = self._grounds.get(folders), folders

    def _close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _steps(path: str) -> list[str]:
    """Split a path into components, in reverse order."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _blobs(real: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield candidate `blobs` folders for a folder in a Hub cache's `snapshots`: levels up, and real path.

    Candidates are beside `snapshots` and beside the repository, for caches whose repositories share blobs.
    """
    if SNAPSHOTS not in real:
        return
    end = len(real) - 1 - real[::-1].index(SNAPSHOTS)
    if end and _REPOSITORY.fullmatch(real[end - 1]):
        for above in (end, end - 1):
            yield len(real) - above, (*real[:above], BLOBS)
