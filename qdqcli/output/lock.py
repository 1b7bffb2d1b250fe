"""Exclusive lock on a folder."""

import fcntl
import json
import os
import stat
import tempfile
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.system_error import output_error

_ATTEMPTS = 10
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FREE = "free"
"""Content of a released claim."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class FolderLock:
    """A folder in which one process works at a time; created if missing, private to its user.

    The lock is `flock` on the file `lock`: the kernel releases it when the process ends. On a file system without
    `flock` (Lustre, some NFS) it is the last of the claims `lock.1`, `lock.2`, ..., which are created exclusively and
    name a process and its machine. A claim is ignored if it was released, or if its process ran on this machine and has
    ended; any other claim holds, and so does a folder without a claim, unless `break_lock` is set. A process known to
    be alive keeps its claim even then.

    With `is_shared` several processes hold it at once, and exclude those that hold it alone. Without `flock` nothing
    shows that they still do.

    Raises:
        UsageError: another process holds it, this class did not create the folder, or another user owns it.
        OutputError: the system refuses.
    """

    NAME = "lock"
    CLAIM = "lock."
    """Prefix of the names of claims."""

    def __init__(self, folder: Path, *, break_lock: bool = False, is_shared: bool = False) -> None:
        self._folder = folder
        self._is_shared = is_shared
        self._break_lock = break_lock
        self._claim: Path | None = None
        for _ in range(_ATTEMPTS):
            descriptor = self._try_open()
            if descriptor is not None:
                self._descriptor = descriptor
                return
        raise UsageError(f"{show_path(folder)}: other runs keep making and removing it; choose another OUTPUT")

    def release(self) -> None:
        """Release the lock."""
        if self._claim is not None:
            with suppress(OSError):  # the next process checks whether this one is alive
                self._claim.write_text(_FREE)
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the emptied folder, then release the lock."""
        with suppress(OSError):  # another process may have started to use it
            claims = {*os.listdir(self._folder)} - {self.NAME}  # noqa: PTH208 - names are enough
            if all(name.startswith(self.CLAIM) for name in claims):
                if claims:
                    self._remove_claims()
                (self._folder / self.NAME).unlink()
                self._folder.rmdir()
        os.close(self._descriptor)

    def _try_open(self) -> int | None:
        """Return the descriptor of the acquired lock; None after a race with another process."""
        path = self._folder / self.NAME
        try:
            is_new = self._make_folder()
            descriptor = os.open(path, _FLAGS, 0o600)
        except FileNotFoundError:
            return None
        except OSError as error:
            with suppress(OSError):  # a folder that is not empty stays
                self._folder.rmdir()
            raise output_error(path, error) from error
        with ExitStack() as undo:
            undo.callback(os.close, descriptor)
            has_flock = True
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if self._is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _held(self._folder) from None
            except OSError:  # a file system without locks
                has_flock = False
            try:
                # A lock on a file that its last holder has unlinked excludes nobody.
                is_held = path.stat().st_ino == os.fstat(descriptor).st_ino
                if is_held and not has_flock:
                    is_held = self._make_claim(is_new=is_new)
                elif is_held and (claims := self._claims()):
                    # Of processes without `flock`: the last one is respected; without a claim they stay out.
                    self._check_free(claims[max(claims)])
                    self._remove_claims()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise output_error(path, error) from error
            if is_held:
                undo.pop_all()
                return descriptor
        return None

    def _make_folder(self) -> bool:
        """Create the folder; return True if it did not exist."""
        try:
            self._folder.mkdir(0o700)
        except FileExistsError:
            is_ours = self._folder.is_dir() and not self._folder.is_symlink()
            names = set(os.listdir(self._folder)) if is_ours else set()  # noqa: PTH208 - names are enough
            if not is_ours or (names and self.NAME not in names):
                raise UsageError(f"{show_path(self._folder)}: is in the way and not of a qdq run; move it") from None
            self._check_private()
            return False
        return True

    def _check_private(self) -> None:
        """Refuse a folder in which another user could place links: writes would follow them.

        A newly created folder shows how this disk maps owners and modes: some have none, or map root to nobody.
        """
        found = self._folder.stat()
        if found.st_uid == os.geteuid() and not found.st_mode & _WRITABLE_BY_OTHERS:
            self._folder.chmod(0o700)
            return
        with tempfile.TemporaryDirectory(prefix=".qdq-", dir=self._folder.parent) as made:
            own = Path(made).stat()
        if found.st_uid != own.st_uid:
            what = f"belongs to another user ({found.st_uid})"
        elif found.st_mode & ~own.st_mode & _WRITABLE_BY_OTHERS:
            what = f"may be written by other users (mode {stat.S_IMODE(found.st_mode):o})"
        else:
            return
        raise UsageError(
            f"{show_path(self._folder)}: {what}, who could lead what is built in it elsewhere; remove it, or choose "
            "another OUTPUT"
        )

    def _make_claim(self, *, is_new: bool) -> bool:
        """Create the next claim; return False if another process was faster."""
        before = self._claims()
        if self._is_shared:
            self._check_free(before[max(before)] if before else _FREE)
            if not before:
                (self._folder / f"{self.CLAIM}1").write_text(_FREE)  # a later process may claim the folder alone
            return True
        if before or not is_new:  # a folder without claims belongs to a process with `flock`
            self._check_free(before[max(before)] if before else "")
        number = max(before, default=0) + 1
        claim = self._folder / f"{self.CLAIM}{number}"
        try:
            descriptor = os.open(claim, _FLAGS | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, str(Holder.this()).encode())
        except OSError:
            claim.unlink()
            raise
        finally:
            os.close(descriptor)
        after = self._claims()
        del after[number]
        if after != before:
            claim.unlink()
            return False
        self._claim = claim
        self._remove_claims(but=number)
        return True

    def _claims(self) -> dict[int, str]:
        """Return the content of each claim, by its number."""
        paths = {path.suffix[1:]: path for path in self._folder.glob(f"{self.CLAIM}*")}
        return {int(number): path.read_text(errors="replace") for number, path in paths.items() if number.isdecimal()}

    def _remove_claims(self, but: int | None = None) -> None:
        for number in self._claims():
            if number != but:
                (self._folder / f"{self.CLAIM}{number}").unlink()

    def _check_free(self, claim: str) -> None:
        """Refuse a claim that is, or may be, held; an empty one is just being created, or its creation failed."""
        if claim != _FREE:
            holder = Holder.parse(claim)
            check_ended(self._folder, holder, ", and this disk has no locks to tell", break_lock=self._break_lock)


def check_ended(folder: Path, holder: "Holder | None", why: str = "", *, break_lock: bool) -> None:
    """Refuse a lock whose holder is alive or, unless `break_lock` is set, may be alive on another machine.

    Raises:
        UsageError: it is; `why` says why nothing tells.
    """
    if holder is not None and holder.is_here():
        if holder.is_alive():
            raise _held(folder)
    elif not break_lock:
        who = "another run" if holder is None else holder.shown()
        raise UsageError(
            f"{show_path(folder)}: {who} may be writing here{why}; wait for it, or pass --break-lock if it has ended"
        )


def _held(folder: Path) -> UsageError:
    return UsageError(f"{show_path(folder)}: another run is writing here; wait for it or choose another OUTPUT")


class Holder(NamedTuple):
    """A process that holds a lock, identified uniquely across reboots and reused process numbers."""

    host: str
    space: str
    """Scope of process numbers: this boot of the machine, and the container."""
    pid: int
    started: str
    """Start time in ticks since the boot; empty if the system does not report it."""
    since: str
    """Time at which it took the lock, for messages."""

    @classmethod
    def this(cls) -> Self:
        pid = os.getpid()
        now = datetime.now(UTC).isoformat(" ", "minutes")
        return cls(os.uname().nodename, _space(), pid, _started(pid) or "", now)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a claim; return None if the text is not one."""
        try:
            holder = cls(**json.loads(text))
        except (ValueError, TypeError):
            return None
        return holder if type(holder.pid) is int and 0 < holder.pid < 1 << 31 else None

    def __str__(self) -> str:
        return json.dumps(self._asdict())

    def is_here(self) -> bool:
        """Tell whether its process number is valid in this scope."""
        return bool(self.space) and (self.host, self.space) == (os.uname().nodename, _space())

    def is_alive(self) -> bool:
        return _started(self.pid) == self.started

    def shown(self) -> str:
        return f"process {self.pid} of {escape_name(str(self.host))}, since {escape_name(str(self.since))},"


def _space() -> str:
    """Return the scope of process numbers; empty if the system does not report it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process started; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
