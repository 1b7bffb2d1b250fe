"""The OUTPUT of a run: built in a partial folder beside it, moved into place when complete.

The folder `OUTPUT.qdq-partial` holds:

- `lock`: held by the building process; a partial folder with a free lock can be resumed, or is stale;
- `journal`: the run's journal, if it keeps one;
- `run-TOKEN`: there while other processes may add shards for the run of that token;
- `rows`: the rows of shards that other processes make, a file each, and shards until they are complete;
- `result`: the file or folder that becomes OUTPUT;
- `replaced`: the previous OUTPUT, until it is removed.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Protocol, Self

from qdqcli.errors import OutputError, QdqError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.file_tree import files_below, first_difference
from qdqcli.output.lock import FolderLock
from qdqcli.output.marker import MARKER, read_marker
from qdqcli.output.placement import anchored, check_free, check_placement
from qdqcli.output.replaced import check_replaced
from qdqcli.tensors.checkpoint import Checkpoint, Shard, ShardReader, ShardWriter, SideFile, Waiting
from qdqcli.tensors.index import is_index
from qdqcli.tensors.input_file import FileIdentity
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.output_file import OutputFile, copy_file, sync_folder
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.rename import exchange, rename_new
from qdqcli.tensors.system_error import blame_input, blame_output
from qdqcli.tensors.temporary import TEMPORARY_PATTERN, temporary_of

JOURNAL = "journal"
"""Name of the journal in the partial folder."""
TOKEN = "run-"
"""Prefix of the names of tokens in the partial folder, see `OutputTree.token_path`."""
_MARKER = Path(MARKER)
_ROWS = "rows"
_NAME_BYTES = 255
"""Limit on a name in common file systems."""


class _Lock(Protocol):
    """The lock on an output."""

    def release(self) -> None: ...

    def remove(self) -> None:
        """Remove what the lock takes, and release it."""


class OutputTree:
    """Builds the OUTPUT of a batch of checkpoints, in their layout.

    One file becomes a file, one folder a folder of the same layout, several inputs a folder with one entry each, named
    after the last component of the input's path. `protected` are inputs that are not part of OUTPUT but are protected
    from it like the others. `break_lock` is passed to `FolderLock`. `is_part`: several processes build at once and
    none commits. The constructor only checks. Entering the context starts the build; leaving removes the partial
    folder, unless an error ends a run that set `is_kept`. `create` is thread-safe, the other methods are not.

    Raises:
        UsageError: OUTPUT exists and `overwrite` is false; is, contains or is inside an input; has no parent folder;
            another run is writing it; two inputs have one name.
        OutputError: the system refuses; too little space.
    """

    is_remote = False
    """True in a store, where committing a file sends it."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        output: Path,
        *,
        protected: Sequence[Checkpoint] = (),
        overwrite: bool = False,
        resume: bool = False,
        break_lock: bool = False,
        is_part: bool = False,
    ) -> None:
        if len(checkpoints) != 1:
            check_names(checkpoints)
        self.output, self.partial = output_paths(output)
        self.result = self.output if self.is_remote else self.partial / "result"
        """Path of the built file or folder: OUTPUT itself once it is committed."""
        self.journal_path = self.partial / JOURNAL
        """Path of the journal, from which a later run resumes; removed with the partial folder."""
        self.token_path = self.partial / f"{TOKEN}{secrets.token_hex(8)}"
        """Path of the file without which other processes add no shard for this run."""
        self._replaced = self.partial / "replaced"
        self.checkpoints = checkpoints
        self.may_replace = overwrite
        """True if an existing OUTPUT may be replaced."""
        self.resumes = resume
        """True if the run goes on with an earlier one."""
        self._break_lock = break_lock
        self._is_part = is_part
        self.is_folder = len(checkpoints) > 1 or checkpoints[0].is_folder
        """True if OUTPUT is a folder, which also holds a marker."""
        self._lock: _Lock | None = None
        self.is_committed = False
        """True if the result has OUTPUT's name."""
        self.has_written = False
        """True if this run committed OUTPUT."""
        self.is_kept = False
        """True if the partial folder stays for a resuming run where an error ends this one."""
        self.discarded_bytes: int | None = None
        """Bytes of an interrupted run's files that were removed when this one began; None where there was none."""
        self._made = {self.partial}
        """Folders that exist."""
        self._entries = {
            id(checkpoint): Path(entry_name(checkpoint)) if len(checkpoints) > 1 else Path()
            for checkpoint in checkpoints
        }
        """The file or folder that each input becomes, relative to the result."""
        self.notes: list[Note] = []
        """Notes for the user on OUTPUT."""
        self.side_files: list[tuple[Checkpoint, SideFile, Path]] = []
        """Each side file that is copied, with its input and its name in the result; indexes after the others."""
        self.names: list[Path] = []
        """Files of the result, relative to it, without the marker."""
        self._list_files()
        self._check_target(protected)
        if overwrite:
            self._check_replaced(self.output)

    def _list_files(self) -> None:
        """List the files of the result, and note which inputs a run wrote."""
        for checkpoint, entry in zip(self.checkpoints, self._entries.values(), strict=True):
            self.names += [entry / shard.output_name if checkpoint.is_folder else entry for shard in checkpoint.shards]
            for side_file in sorted(checkpoint.side_files, key=lambda side_file: is_index(side_file.name.name)):
                if side_file.name == _MARKER:  # it describes another run's files
                    self.notes.append(_marker_note(side_file))
                else:
                    self.side_files.append((checkpoint, side_file, entry / side_file.name))
                    self.names.append(entry / side_file.name)

    def _check_target(self, protected: Sequence[Checkpoint]) -> None:
        may_exist = self.may_replace or self.resumes
        check_placement(self.checkpoints, self.output, self.partial, protected=protected, may_exist=may_exist)

    def rows_path(self, index: int) -> Path:
        """Return the path of the rows that another process writes beside the shard at `index`."""
        return self.partial / _ROWS / f"{index}.json"

    def __enter__(self) -> Self:
        """Create the partial folder and lock it; remove stale content, unless the run resumes."""
        was_there = os.path.lexists(self.partial)  # perhaps as a mount point, from which nothing can be renamed
        self._lock = FolderLock(self.partial, break_lock=self._break_lock, is_shared=self._is_part)
        with ExitStack() as undo:
            undo.callback(self.suspend if self._is_part or self.resumes else self.abort)
            if (self.partial / FolderLock.NAME.upper()).exists():
                self._check_case()
            has_earlier = False
            if not self._is_part:
                with blame_output(self.partial):
                    has_earlier = was_there or os.listdir(self.partial) != [FolderLock.NAME]  # noqa: PTH208
            if has_earlier:
                self._restore_replaced()
                self._check_removable()
            self._check_free()  # another run may have finished since the check before the lock
            if has_earlier:
                self._take_over()
            undo.pop_all()
        return self

    def _take_over(self) -> None:
        """Keep what an earlier run left for this one to go on with, or remove it."""
        is_interrupted = self.journal_path.exists()
        if self.resumes:
            self.is_kept = is_interrupted
        else:
            num_bytes = self._clear()
            self.discarded_bytes = num_bytes if is_interrupted else None

    def _check_case(self) -> None:
        """Refuse names that differ only in case, before anything is written on a disk that does not tell them apart."""
        seen: dict[str, Path] = {}
        for name in [*self.names, _MARKER]:
            other = seen.setdefault(name.as_posix().casefold(), name)
            if other != name:
                raise UsageError(
                    f"{show_path(self.output / name)}: differs from {show_path(other)} in upper and lower case alone, "
                    "which this disk does not tell apart; choose an OUTPUT on another disk"
                )

    def check_unused(self) -> None:
        """Check that the partial folder holds nothing, as before the first part.

        Raises:
            UsageError: it holds what another run left.
        """
        if self.result.exists():
            raise UsageError(
                f"{show_path(self.partial)}: holds what another run left; remove it, or finish that run first"
            )

    def start_anew(self) -> None:
        """Remove the files of an earlier run that this one cannot resume."""
        self._clear(but=self.journal_path.name)

    def sweep(self, but: Collection[Path] = ()) -> None:
        """Remove an earlier run's output files except `but`, which this run continues."""
        own = [self.result / name for name in [*self.names, _MARKER]]
        with blame_output(self.result):
            temporaries = list(self.result.rglob(TEMPORARY_PATTERN))
        for path in [*own, *temporaries]:
            if path not in but and path.is_file():
                with _removing(path):
                    path.unlink(missing_ok=True)

    def shard_path(self, checkpoint: Checkpoint, shard: Shard) -> Path:
        """Return the path of the shard's output until `commit`; a file there is complete."""
        target = self.result / self._entries[id(checkpoint)]
        return target / shard.output_name if checkpoint.is_folder else target

    def has_unfinished(self, checkpoint: Checkpoint, shard: Shard, waiting: Waiting) -> bool:
        """Tell whether the shard's unfinished file exists with the recorded size."""
        path = self.shard_path(checkpoint, shard).with_name(waiting.name)
        return path.is_file() and path.stat().st_size == waiting.size

    def identity_of(self, checkpoint: Checkpoint, shard: Shard) -> FileIdentity | None:
        """Return the identity of the shard's finished output; None if there is none."""
        try:
            return replace(FileIdentity.of(self.shard_path(checkpoint, shard).stat()), device=0)
        except OSError:
            return None

    def create(
        self, checkpoint: Checkpoint, shard: Shard, reader: ShardReader, unfinished: Waiting | None = None
    ) -> ShardWriter:
        """Create or continue the file that replaces the shard; `reader` comes from `shard.open`."""
        path = self.shard_path(checkpoint, shard)
        if path.parent not in self._made:
            self._make_folder(checkpoint, path.parent)
        return shard.create(path, reader, unfinished.name if unfinished is not None else None)

    def discard(self, checkpoint: Checkpoint, shard: Shard) -> None:
        """Remove a shard's output that failed verification, where it is visible; here it is not before `commit`."""

    def disown(self) -> None:
        """Let no process that outlived an earlier run add a shard from now on.

        Such a process completes its files in the folder of rows, looks for its token, and renames them. Without the
        token it stops, and once its files are gone it can rename none.
        """
        _disown(self.partial)

    def prepare(self) -> None:
        """Let other processes add shards for this run, and create the folders that they write to."""
        _make_folder(self.rows_path(0).parent)
        with blame_output(self.token_path):
            self.token_path.touch()
        for checkpoint in self.checkpoints:
            for shard in checkpoint.shards:
                self._make_folder(checkpoint, self.shard_path(checkpoint, shard).parent)

    def copy_side_files(self, on_chunk: Callable[[], None] = lambda: None) -> None:
        """Copy the side files, following links. `on_chunk` is called often and may raise to stop."""
        for checkpoint, side_file, name in self.side_files:
            target = self.result / name
            if target.parent not in self._made:
                self._make_folder(checkpoint, target.parent)
            copy_file(side_file.open(), target, on_chunk)

    def commit(self) -> None:
        """Give the result its name. Its files are flushed already; this flushes the folders and the name."""
        if (self.partial / _ROWS).exists():
            self.disown()
        self._check_free()
        if self.may_replace:
            self._check_replaced(self.output)
        if self.is_folder:
            own = {*self.names, _MARKER}
            for name in sorted({*files_below(self.result)} - own):
                raise OutputError(
                    f"{show_path(self.result / name)}: is no part of the output; remove {show_path(self.partial)} and "
                    "run again"
                )
            for folder, _, _ in os.walk(self.result):
                sync_folder(Path(folder))
        exists = os.path.lexists(self.output)
        if exists and self.resumes and not self.may_replace:
            self._check_same()
        else:
            with blame_output(self.output):
                try:
                    if exists:
                        self._replace()
                    else:
                        rename_new(self.result, self.output)
                except FileExistsError as error:
                    raise UsageError(
                        f"{show_path(self.output)}: exists: another process made it meanwhile; choose another OUTPUT "
                        "or pass --overwrite to replace it"
                    ) from error
            self.has_written = True
        self.accept()
        sync_folder(self.output.parent)

    def _check_free(self) -> None:
        check_free(self.output, is_folder=self.is_folder, may_exist=self.may_replace or self.resumes)

    @property
    def provenance_path(self) -> Path:
        """Path of the provenance record: in the folder, or beside the file."""
        return self.output / MARKER if self.is_folder else self.output.with_name(f"{self.output.name}.{MARKER}")

    def check_provenance(self) -> None:
        """Check that the provenance file beside a single file may be written.

        Raises:
            UsageError: it exists, and the run neither overwrites nor resumes.
        """
        check_free(self.provenance_path, is_folder=False, may_exist=self.may_replace or self.resumes)

    def write_marker(self, text: str) -> None:
        """Write a folder's marker, readable only where every input is."""
        modes = [_mode_of(checkpoint.path) for checkpoint in self.checkpoints]
        with OutputFile(self.result / MARKER, mode=reduce(and_, modes)) as file:
            file.write(memoryview(text.encode()), 0)
            file.commit()

    def may_be_finished(self) -> bool:
        """Tell, when resuming, whether OUTPUT exists with all its files and no work is left."""
        if self._has_journal() or not self.output.exists():
            return False
        marker = [_MARKER] if self.is_folder else []
        return sorted(files_below(self.output)) == sorted([*self.names, *marker])

    def _has_journal(self) -> bool:
        """Tell whether there is a run to go on with."""
        return self.journal_path.exists()

    def accept(self) -> None:
        """Take OUTPUT for the result: it has been committed, or was found to be equal."""
        self.is_committed, self.result = True, self.output

    def recognise_commit(self, finished: Iterable[tuple[Checkpoint, Shard, FileIdentity | None]]) -> bool:
        """Tell, when resuming a fully built run, whether OUTPUT is its result, already committed."""
        built = self.result
        self.accept()  # if so, `built` holds what OUTPUT replaced
        if not os.path.lexists(self.output) or any(
            self.identity_of(checkpoint, shard) != identity for checkpoint, shard, identity in finished
        ):
            self.is_committed, self.result = False, built
        return self.is_committed

    def suspend(self) -> None:
        """Stop, and leave the partial folder to a resuming run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def abort(self) -> None:
        """Remove the partial folder; a no-op after `suspend`."""
        with suppress(OutputError):  # report the original error
            self._remove()

    def _remove(self) -> None:
        if self._lock is not None:
            try:
                self._clear()
            finally:
                self._lock.remove()
                self._lock = None

    def __exit__(self, kind: object, *_: object) -> None:
        if self._is_part or (kind is not None and self.is_kept):
            self.suspend()
        elif kind is None and self.is_committed:
            if os.path.lexists(self._replaced):
                self._check_removable()
            self._remove()
        else:
            self.abort()

    def written_bytes(self) -> int:
        """Return the bytes of the files of OUTPUT."""
        return sum((self.output / name).stat().st_size for name in self.names)

    def _clear(self, but: str = "") -> int:
        """Remove what the partial folder holds, see `_empty`."""
        return _empty(self.partial, but)

    def _make_folder(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Create a folder of the output and its parents; a copy of an input's folder is not more readable than it."""
        if folder in self._made:
            return
        self._made.add(folder)
        target = self.result / self._entries[id(checkpoint)]
        if not checkpoint.is_folder or not folder.is_relative_to(target):
            _make_folder(folder)
            return
        if folder == target:
            _make_folder(folder.parent)
        else:
            self._make_folder(checkpoint, folder.parent)
        _make_folder(folder, _mode_of(checkpoint.path / folder.relative_to(target)))

    def _check_replaced(self, folder: Path) -> None:
        """Refuse to remove files that are neither in the new output nor written by an earlier run."""
        check_replaced(folder, {*self.names, _MARKER})

    def _check_removable(self) -> None:
        """Refuse to remove the replaced OUTPUT, and keep it, if someone has added files to it since."""
        try:
            self._check_replaced(self._replaced)
        except QdqError:
            self.suspend()
            raise

    def _replace(self) -> None:
        """Give the result the name of an existing file, or of a folder, by exchange."""
        if not self.is_folder:
            self.result.rename(self.output)
        elif exchange(self.result, self.output):
            try:
                self._check_replaced(self.result)  # files added in the meantime
            except QdqError:
                exchange(self.result, self.output)
                raise
            self.result.rename(self._replaced)
        else:
            self.output.rename(self._replaced)
            try:
                self.result.rename(self.output)
            except OSError:
                self._replaced.rename(self.output)
                raise

    def _check_same(self) -> None:
        """Check, when resuming, that an existing OUTPUT equals the result: then the earlier run had finished.

        What was built is not kept where it does not: no later run could go on from it.
        """
        ours, theirs = files_below(self.result), files_below(self.output)
        what = None
        for file in sorted({*ours} ^ {*theirs}) or ours:
            if file not in theirs or file not in ours:
                what = "is missing" if file in ours else "is no part of the result"
            elif first_difference(self.result / file, self.output / file) is not None:
                what = "has other bytes than the result"
            if what is not None:
                self.is_kept = False
                raise other_output(self.output / file, what)

    def _restore_replaced(self) -> None:
        """Restore the OUTPUT that a run had moved aside when it was killed between its two renames."""
        if not os.path.lexists(self._replaced) or os.path.lexists(self.output):
            return
        with blame_output(self.output):
            self._replaced.rename(self.output)
        if not self.may_replace:
            raise UsageError(
                f"{show_path(self.output)}: a run was stopped while it replaced this; it has been put back; "
                "choose another OUTPUT or pass --overwrite to replace it"
            )


@contextmanager
def working_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder, locked and beside `output`, for files of other processes; it is removed in the end.

    Raises:
        UsageError: another process works there.
        OutputError: the system refuses.
    """
    partial = partial_path(anchored(output))
    lock = FolderLock(partial)
    try:
        _empty(partial)
        folder = partial / secrets.token_hex(8)  # unknown to processes that outlived an earlier run
        _make_folder(folder)
        yield folder
    finally:
        with suppress(OutputError):  # report the original error
            _empty(partial)
        lock.remove()


def output_tree(
    checkpoints: Sequence[Checkpoint], output: Path, *, protected: Sequence[Checkpoint] = (), **flags: bool
) -> OutputTree:
    """Return the tree of an OUTPUT on a disk or in a store; the arguments are those of `OutputTree`."""
    if not isinstance(output, RemotePath):
        return OutputTree(checkpoints, output, protected=protected, **flags)
    from qdqcli.output.remote_tree import RemoteTree  # lazy: it builds on this file

    return RemoteTree(checkpoints, output, protected=protected, **flags)


def output_paths(output: Path) -> tuple[Path, Path]:
    """Return OUTPUT, independent of moves of the working folder, and the folder in which it is built."""
    output = anchored(output)
    return output, partial_path(output)


def partial_path(output: Path) -> Path:
    """Return the folder in which `output` is built: beside it, named after it (or its hash) with `.qdq-partial`."""
    name = f"{output.name}.qdq-partial"
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:16] + ".qdq-partial"
    return output.parent / name


def entry_name(checkpoint: Checkpoint) -> str:
    """Return the name of an input's entry in the OUTPUT of several inputs."""
    name = checkpoint.path.name
    return name if name not in ("", "..") else Path(os.path.realpath(checkpoint.path)).name


def check_names(checkpoints: Sequence[Checkpoint]) -> None:
    """Check that the inputs have different names in OUTPUT.

    Raises:
        UsageError: they do not, or there is no input.
    """
    if not checkpoints:
        raise UsageError("there is no input; give at least one")
    owners: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints if len(checkpoints) > 1 else ():
        other = owners.setdefault(entry_name(checkpoint), checkpoint)
        if entry_name(checkpoint) == MARKER:
            raise UsageError(f"{show_path(checkpoint.path)}: has the name of a file that OUTPUT gets; run it alone")
        if other is not checkpoint or not entry_name(checkpoint):
            raise UsageError(
                f"{show_path(checkpoint.path)}: would have the same name in OUTPUT as {show_path(other.path)}; "
                "run them one by one"
            )


def _marker_note(side_file: SideFile) -> Note:
    """Return the note on an input that a run wrote.

    Raises:
        UsageError: the file has the marker's name, and no run wrote it.
    """
    if read_marker(side_file.path) is None:
        raise UsageError(f"{show_path(side_file.path)}: has the name of a file that OUTPUT gets; rename it")
    return Note.of(NoteKind.SIMULATED, show_path(side_file.path))


def other_output(path: Path, what: str) -> UsageError:
    """Return the error for an OUTPUT that is not what a resumed run gives."""
    return UsageError(
        f"{show_path(path)}: {what}: OUTPUT exists and is not what this run gives; choose another OUTPUT or pass "
        "--overwrite to replace it"
    )


def _mode_of(path: Path) -> int:
    """Return the permissions of an input; a store has none that a file could have."""
    if isinstance(path, RemotePath):
        return 0o777
    with blame_input(path):
        return path.stat().st_mode


def _make_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder with its parents: all access for the owner, that of `mode` for group and others."""
    with blame_output(folder):
        folder.mkdir(0o700 | mode & 0o077, parents=True, exist_ok=True)


def _disown(partial: Path) -> None:
    with _removing(partial):
        for pattern in (f"{TOKEN}*", f"{_ROWS}/{TEMPORARY_PATTERN}"):
            for path in partial.glob(pattern):
                path.unlink(missing_ok=True)


def _empty(partial: Path, but: str = "") -> int:
    """Remove everything but the lock, which goes last: content without a lock looks like a foreign folder.

    Folders are renamed first: nobody adds a file to a folder of unknown name while it is removed.

    Returns:
        The bytes of the files that were removed, without the journal's.

    Raises:
        OutputError: the system refuses, or a disk is mounted below, whose files are no run's.
    """
    for mounted in mount_points(partial):
        raise OutputError(f"{show_path(mounted)}: is a mount point in a folder that is to be removed; unmount it")
    if (partial / _ROWS).exists():
        _disown(partial)
    num_bytes = 0
    with _removing(partial):
        for path in partial.iterdir():
            if path.name in (but, FolderLock.NAME) or path.name.startswith(FolderLock.CLAIM):
                continue
            if path.is_dir() and not path.is_symlink():
                removed = path.rename(temporary_of(path))
                num_bytes += sum((removed / name).lstat().st_size for name in files_below(removed))
                shutil.rmtree(removed)
            else:
                num_bytes += path.lstat().st_size if path.name != JOURNAL else 0
                path.unlink()
    return num_bytes


@contextmanager
def _removing(path: Path) -> Iterator[None]:
    """Convert an error of the system to an `OutputError` on what could not be removed."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{show_path(path)}: could not be removed ({error.strerror}); remove it") from error
