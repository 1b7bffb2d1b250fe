"""OUTPUT in an object store, which has no folders and no rename.

A shard appears under its name when its upload is complete, after that the other files, an index after all of its files,
the marker last: loaders start from the index, so a checkpoint is there when all of it is. `OUTPUT.qdq-partial/` holds
the lock, the journal, an object a line, and what other processes that make shards need (see `tree.py`); all is removed
at the end. Such a process uploads a shard to its final name, and then its rows. Uploads that a killed run left
unfinished are aborted by the next. `--overwrite` removes the old output first.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.lock import FolderLock
from qdqcli.output.marker import MARKER, marked_files
from qdqcli.output.placement import check_kind
from qdqcli.output.remote_lock import RemoteLock, check_unlocked
from qdqcli.output.remote_log import FIRST
from qdqcli.output.tree import JOURNAL, TOKEN, OutputTree, other_output
from qdqcli.tensors.checkpoint import Checkpoint, Shard, Waiting
from qdqcli.tensors.index import is_index
from qdqcli.tensors.input_file import FileIdentity
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_output
from qdqcli.tensors.unfinished import abort_uploads


class RemoteTree(OutputTree):
    """Builds OUTPUT in a store. Parts hold no lock: nothing would show that one still does."""

    is_remote = True
    output: RemotePath
    partial: RemotePath
    _is_own = False
    """True once this run may remove what is at OUTPUT."""

    def _check_target(self, protected: Sequence[Checkpoint]) -> None:
        if self._is_part and self.may_replace:
            raise UsageError(
                f"{show_path(self.output)}: parts do not replace an OUTPUT in a store, where old files would be seen "
                "among new ones; remove it first, or choose another OUTPUT"
            )
        check_kind(self.checkpoints, self.output)
        for checkpoint in (*self.checkpoints, *protected):
            path = checkpoint.path
            if path == self.output or path in self.output.parents or self.output in path.parents:
                raise UsageError(f"{show_path(self.output)}: is, holds or lies in the input {show_path(path)}")
        self._check_free()

    def __enter__(self) -> Self:
        if self._is_part:
            check_unlocked(self.partial / FolderLock.NAME, break_lock=self._break_lock)
            self._check_free()
            return self
        self._lock = RemoteLock(self.partial / FolderLock.NAME, break_lock=self._break_lock)
        with ExitStack() as undo:
            undo.callback(self.suspend)
            self._check_free()
            is_interrupted = self._has_journal()
            if self.resumes:
                self.is_kept = is_interrupted
            else:
                self._clear()
                num_bytes = self._sweep()
                self.discarded_bytes = num_bytes if is_interrupted else None
            undo.pop_all()
        return self

    def check_unused(self) -> None: ...

    def disown(self) -> None:
        with blame_output(self.partial):
            tokens = [name for name in self.partial.store.objects(self.partial) if name.startswith(TOKEN)]
            self.partial.store.delete([self.partial / name for name in tokens])

    def prepare(self) -> None:
        write_file(self.token_path, [])

    def start_anew(self) -> None:
        """Remove what an earlier run left that this one cannot resume.

        Raises:
            UsageError: OUTPUT is there, and no journal says that a run was interrupted while it built it.
        """
        if not self.may_replace and self._existing():
            raise other_output(self.output, "holds other files")
        self._clear()
        self._sweep()

    def sweep(self, but: Collection[Path] = ()) -> None:
        """Remove an earlier run's output except `but`, and its unfinished uploads."""
        self._sweep(but)

    def _sweep(self, but: Collection[Path] = ()) -> int:
        """Do the same and return the bytes of the objects; what is at OUTPUT is this run's from now on."""
        self._is_own = True
        with blame_output(self.output):
            found = {path: size for path, size in self._existing().items() if path not in but}
            # First what says that the rest is a checkpoint.
            heads = {path for path in found if is_index(path.name) or path.name == MARKER}
            self.output.store.delete(sorted(heads))
            self.output.store.delete(sorted(found.keys() - heads))
            abort_uploads(self.output, {(self.output / name).key for name in self._own_names()})
        return sum(found.values())

    def discard(self, checkpoint: Checkpoint, shard: Shard) -> None:
        with blame_output(self.output):
            self.shard_path(checkpoint, shard).unlink()

    def has_unfinished(self, checkpoint: Checkpoint, shard: Shard, waiting: Waiting) -> bool:  # noqa: ARG002
        return False

    def identity_of(self, checkpoint: Checkpoint, shard: Shard) -> FileIdentity | None:
        path = self.shard_path(checkpoint, shard)
        assert isinstance(path, RemotePath)
        with blame_output(path), suppress(FileNotFoundError):
            return FileIdentity.of(path.store.describe(path).status)
        return None

    def commit(self) -> None:
        """Check that OUTPUT holds nothing else; it is there already."""
        if self.is_folder:
            with blame_output(self.output):
                names = self.output.store.objects(self.output)
            for name in sorted(names.keys() - self._own_names()):
                raise OutputError(
                    f"{show_path(self.output / name)}: is no part of the output; remove it and pass --resume"
                )
        self.has_written = self.is_committed = True

    def may_be_finished(self) -> bool:
        with blame_output(self.output):
            return super().may_be_finished()

    def recognise_commit(self, finished: Iterable[tuple[Checkpoint, Shard, FileIdentity | None]]) -> bool:  # noqa: ARG002
        return False

    def written_bytes(self) -> int:
        return sum(self._existing().values())

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._is_own and not self.is_committed:
            with suppress(OutputError):  # report the original error
                self._hide()
        super().__exit__(kind)

    def _hide(self) -> None:
        """Remove the indexes of an output that is not complete or was found damaged; all, if no run can go on."""
        if not self.is_kept:
            self.sweep()
            return
        with blame_output(self.output):
            self.output.store.delete([path for path in self._existing() if is_index(path.name)])

    def _has_journal(self) -> bool:
        with blame_output(self.partial):
            return (self.partial / JOURNAL / FIRST).is_file()

    def _check_free(self) -> None:
        store = self.output.store
        with blame_output(self.output):
            if self.is_folder and self.output.is_file():
                raise UsageError(f"{show_path(self.output)}: is a file, the output is a folder; choose another OUTPUT")
            if not self.is_folder and store.has_below(self.output):
                raise UsageError(f"{show_path(self.output)}: is a folder, the output is a file; choose another OUTPUT")
        if not (self.may_replace or self.resumes) and self._existing() and not self._has_journal():
            raise UsageError(
                f"{show_path(self.output)}: exists; choose another OUTPUT or pass --overwrite to replace it"
            )

    def _check_replaced(self, folder: Path) -> None:
        if not isinstance(folder, RemotePath) or not self.is_folder:
            return
        with blame_output(folder):
            names = folder.store.objects(folder)
        for name in sorted(names.keys() - self._own_names() - marked_files(folder)):
            raise UsageError(
                f"{show_path(folder / name)}: belongs to no output of qdq; choose another OUTPUT, or move it"
            )

    def _check_removable(self) -> None: ...

    def _clear(self, but: str = "") -> int:
        self.disown()
        with blame_output(self.partial):
            found = self.partial.store.objects(self.partial)
            names = [name for name in found if name not in (but, FolderLock.NAME)]
            self.partial.store.delete([self.partial / name for name in names])
        return 0

    def _own_names(self) -> set[str]:
        """Return the names of all files that a run writes, and of those that an earlier one says it wrote."""
        if not self.is_folder:
            return {"."}
        earlier = (Path(name) for name in (marked_files(self.output) if self.may_replace else ()))
        own = [*self.names, Path(MARKER), *(name for name in earlier if ".." not in name.parts)]
        return {name.as_posix() for name in own}

    def _existing(self) -> dict[RemotePath, int]:
        """Return the objects at OUTPUT that are a run's, with their sizes."""
        store = self.output.store
        with blame_output(self.output):
            if not self.is_folder:
                try:
                    return {self.output: store.describe(self.output).size}
                except FileNotFoundError:
                    return {}
            found = store.objects(self.output)
        own = self._own_names()
        return {self.output / name: described.size for name, described in found.items() if name in own}
