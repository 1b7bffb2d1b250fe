"""A folder that one process at a time works in."""

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.tensors.storage import output_error

_ATTEMPTS = 10


class FolderLock:
    """A folder that one process at a time works in, made if it is not there.

    The lock is `flock` on a file inside: it falls with the process, however that ends.

    Raises:
        UsageError: another process holds it, or the folder is not one that this class made.
        OutputError: the system refuses.
    """

    NAME = "lock"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for _ in range(_ATTEMPTS):
            descriptor = self._try_open()
            if descriptor is not None:
                self._descriptor = descriptor
                return
        raise UsageError(f"{show_path(folder)}: other runs keep making and removing it; choose another OUTPUT")

    def release(self) -> None:
        """Let the next process work in the folder."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the emptied folder, then let go."""
        with suppress(OSError):  # another process may have begun to work in it
            if os.listdir(self._folder) == [self.NAME]:  # noqa: PTH208
                (self._folder / self.NAME).unlink()
                self._folder.rmdir()
        self.release()

    def _try_open(self) -> int | None:
        """The descriptor that holds the lock; None where the folder was removed at the same time."""
        path = self._folder / self.NAME
        try:
            is_new = self._make_folder()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            return None
        except OSError as error:
            with suppress(OSError):  # a folder that holds something stays
                self._folder.rmdir()
            raise output_error(path, error) from error
        with ExitStack() as undo:
            undo.callback(os.close, descriptor)
            self._lock(descriptor, is_new=is_new)
            # A lock on a file that its last holder has removed keeps nobody out.
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    undo.pop_all()
                    return descriptor
        return None

    def _make_folder(self) -> bool:
        """Make the folder; true if it was not there."""
        try:
            self._folder.mkdir()
        except FileExistsError:
            is_ours = self._folder.is_dir() and not self._folder.is_symlink()
            names = set(os.listdir(self._folder)) if is_ours else set()  # noqa: PTH208 - names are enough
            if not is_ours or (names and self.NAME not in names):
                raise UsageError(f"{show_path(self._folder)}: is in the way and not of a qdq run; move it") from None
            return False
        return True

    def _lock(self, descriptor: int, *, is_new: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{show_path(self._folder)}: another run is writing here; wait for it or choose another OUTPUT"
            ) from None
        except OSError as error:  # a file system without locks: only a folder that was not there is surely free
            if not is_new:
                raise UsageError(
                    f"{show_path(self._folder)}: another run may be writing here, this disk cannot tell "
                    f"({error.strerror}); remove the folder if none is"
                ) from error
