"""Lock on an OUTPUT in a store: an object that is created only where there is none."""

from contextlib import suppress

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.lock import Holder, check_ended
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_output

_ATTEMPTS = 10


class RemoteLock:
    """The object at `path`, which names the process that holds it.

    The lock of a process that ran on this machine and has ended is taken over; any other holds, unless `break_lock`
    is set.

    Raises:
        UsageError: another process holds it.
        OutputError: the store refuses.
    """

    def __init__(self, path: RemotePath, *, break_lock: bool) -> None:
        self._path = path
        self._break_lock = break_lock
        for _ in range(_ATTEMPTS):
            with blame_output(path):
                if self._try():
                    return
        raise UsageError(f"{show_path(path)}: other runs keep taking this lock; choose another OUTPUT")

    def release(self) -> None:
        """Release the lock."""
        with suppress(OSError):  # the next process checks whether this one is alive
            self._path.store.delete([self._path])

    def remove(self) -> None:
        """Release the lock: nothing else of it is there."""
        self.release()

    def _try(self) -> bool:
        """Return True once the lock is held; False after a race with another process."""
        store, own = self._path.store, str(Holder.this()).encode()
        try:
            store.create(self._path, own)
        except FileExistsError:
            try:
                described, text = store.open(self._path)
            except FileNotFoundError:  # released meanwhile
                return False
            holder = Holder.parse(text.decode(errors="replace"))
            check_ended(self._path.parent, holder, break_lock=self._break_lock)
            try:
                store.update(self._path, own, described)
            except InputError:  # another process was faster
                return False
        return True


def check_unlocked(path: RemotePath, *, break_lock: bool) -> None:
    """Check that no process holds the lock at `path` alone.

    Raises:
        UsageError: one does, or may do so on another machine, and `break_lock` is not set.
        OutputError: the store refuses.
    """
    with blame_output(path), suppress(FileNotFoundError):
        holder = Holder.parse(path.store.open(path)[1].decode(errors="replace"))
        check_ended(path.parent, holder, break_lock=break_lock)
