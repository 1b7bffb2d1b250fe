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
from qdqcli.tensors.output_file import OutputFile, copy_file, private_mode, sync_folder
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.rename import exchange, rename_new
from qdqcli.tensors.system_error import blame_input, blame_output
from qdqcli.tensors.temporary import TEMPORARY_PATTERN, temporary_of

JOURNAL = "journal"
"""Name of the journal in the partial folder."""
TOKEN = "run-"
"""Prefix of the names of tokens in the partial folder, see `OutputTree.token_path`."""
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
    none commits. The constructor only checks. Entering the context
    starts the build; leaving removes the partial folder, unless an error ends a run that called `keep`. `create` is
    thread-safe, the other methods are not.

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
        check_names(checkpoints)
        self.output, self.partial = output_paths(output)
        self._checkpoints = checkpoints
        self.may_replace = overwrite
        """True if an existing OUTPUT may be replaced."""
        self._resume = resume
        self._break_lock = break_lock
        self._is_part = is_part
        self.is_folder = len(checkpoints) > 1 or checkpoints[0].is_folder
        """True if OUTPUT is a folder, which also holds a marker."""
        self._lock: _Lock | None = None
        self.is_committed = False
        """True if the result has OUTPUT's name."""
        self.has_written = False
        """True if this run committed OUTPUT."""
        self._is_kept = False
        self.discarded_bytes: int | None = None
        """Bytes of an interrupted run's files that were removed when this one began; None where there was none."""
        self.token_path = self.partial / f"{TOKEN}{secrets.token_hex(8)}"
        """Path of the file without which other processes add no shard for this run."""
        self._made: set[Path] = set()
        """Folders of the result that exist."""
        self.notes = list(_marker_notes(checkpoints))
        """Notes for the user on OUTPUT."""
        self._check_target(protected)
        if overwrite:
            self._check_replaced(self.output)

    def _check_target(self, protected: Sequence[Checkpoint]) -> None:
        may_exist = self.may_replace or self._resume
        check_placement(self._checkpoints, self.output, self.partial, protected=protected, may_exist=may_exist)

    @property
    def journal_path(self) -> Path:
        """Path of the journal, from which a later run resumes; removed with the partial folder."""
        return self.partial / JOURNAL

    def rows_path(self, index: int) -> Path:
        """Return the path of the rows that another process writes beside the shard at `index`."""
        return self.partial / _ROWS / f"{index}.json"

    @property
    def result(self) -> Path:
        """Path of the built file or folder: OUTPUT itself once it is committed."""
        return self.output if self.is_committed else self.partial / "result"

    def begin(self) -> None:
        """Create the partial folder and lock it; remove stale content, unless the run resumes."""
        self._lock = FolderLock(self.partial, break_lock=self._break_lock, is_shared=self._is_part)
        with ExitStack() as undo:
            if self._is_part:
                undo.callback(self.suspend)
                self._check_case()
                self._check_free()
                undo.pop_all()
                return
            undo.callback(self.suspend if self._resume else self.abort)
            self._check_case()
            self._restore_replaced()
            self._check_removable()
            self._check_free()  # another run may have finished since the check before the lock
            if self._resume:
                self._is_kept = self.journal_path.exists()
            else:
                is_interrupted = self.journal_path.exists()
                num_bytes = self._clear()
                self.discarded_bytes = num_bytes if is_interrupted else None
            undo.pop_all()

    def _check_case(self) -> None:
        """Refuse names that differ only in case on a case-insensitive disk, before anything is written."""
        if not (self.partial / FolderLock.NAME.upper()).exists():
            return
        seen: dict[str, Path] = {}
        for name in [*self.names(), Path(MARKER)]:
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
        own = [self.result / name for name in [*self.names(), Path(MARKER)]]
        for path in [*own, *self.result.rglob(TEMPORARY_PATTERN)]:
            if path not in but and path.is_file():
                with _removing(path):
                    path.unlink(missing_ok=True)

    def keep(self) -> None:
        """From now on, keep the partial folder for a resuming run if an error ends this one."""
        self._is_kept = True

    def shard_path(self, checkpoint: Checkpoint, shard: Shard) -> Path:
        """Return the path of the shard's output until `commit`; a file there is complete."""
        target = self._target(checkpoint)
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
        for checkpoint in self._checkpoints:
            for shard in checkpoint.shards:
                self._make_folder(checkpoint, self.shard_path(checkpoint, shard).parent)

    def copy_side_files(self, on_chunk: Callable[[], None] = lambda: None) -> None:
        """Copy the side files, following links. `on_chunk` is called often and may raise to stop."""
        for checkpoint in self._checkpoints:
            for side_file in _copied(checkpoint):
                target = self._target(checkpoint) / side_file.name
                self._make_folder(checkpoint, target.parent)
                copy_file(side_file.open(), target, on_chunk)

    def side_files(self) -> Iterator[tuple[SideFile, Path]]:
        """Yield each side file and the path of its copy."""
        for checkpoint in self._checkpoints:
            target = self._target(checkpoint)
            yield from ((side_file, target / side_file.name) for side_file in _copied(checkpoint))

    def names(self) -> Iterator[Path]:
        """Yield the files of the result, relative to it."""
        for checkpoint in self._checkpoints:
            entry = self._entry_of(checkpoint)
            for shard in checkpoint.shards:
                yield entry / shard.output_name if checkpoint.is_folder else entry
            yield from (entry / side_file.name for side_file in _copied(checkpoint))

    def commit(self) -> None:
        """Give the result its name. Its files are flushed already; this flushes the folders and the name."""
        self.disown()
        self._check_free()
        if self.may_replace:
            self._check_replaced(self.output)
        if self.is_folder:
            own = {*self.names(), Path(MARKER)}
            for name in sorted({*files_below(self.result)} - own):
                raise OutputError(
                    f"{show_path(self.result / name)}: is no part of the output; remove {show_path(self.partial)} and "
                    "run again"
                )
            for folder, _, _ in os.walk(self.result):
                sync_folder(Path(folder))
        if self._resume and not self.may_replace and os.path.lexists(self.output):
            self._check_same()
        else:
            with blame_output(self.output):
                try:
                    self._put_in_place()
                except FileExistsError as error:
                    raise UsageError(
                        f"{show_path(self.output)}: exists: another process made it meanwhile; choose another OUTPUT "
                        "or pass --overwrite to replace it"
                    ) from error
            self.has_written = True
        self.is_committed = True
        sync_folder(self.output.parent)

    def _check_free(self) -> None:
        check_free(self.output, is_folder=self.is_folder, may_exist=self.may_replace or self._resume)

    @property
    def provenance_path(self) -> Path:
        """Path of the provenance record: in the folder, or beside the file."""
        return self.output / MARKER if self.is_folder else self.output.with_name(f"{self.output.name}.{MARKER}")

    def check_provenance(self) -> None:
        """Check that the provenance file beside a single file may be written.

        Raises:
            UsageError: it exists, and the run neither overwrites nor resumes.
        """
        check_free(self.provenance_path, is_folder=False, may_exist=self.may_replace or self._resume)

    def write_marker(self, text: str) -> None:
        """Write a folder's marker, readable only where every input is."""
        modes = [_mode_of(checkpoint.path) for checkpoint in self._checkpoints]
        with OutputFile(self.result / MARKER, mode=reduce(and_, modes)) as file:
            file.write(memoryview(text.encode()), 0)
            file.commit()

    def may_be_finished(self) -> bool:
        """Tell, when resuming, whether OUTPUT exists with all its files and no work is left."""
        if not self._resume or self._has_journal() or not self.output.exists():
            return False
        marker = [Path(MARKER)] if self.is_folder else []
        return sorted(files_below(self.output)) == sorted([*self.names(), *marker])

    def _has_journal(self) -> bool:
        """Tell whether there is a run to go on with."""
        return self.journal_path.exists()

    def accept(self) -> None:
        """Accept the existing OUTPUT as the result: it was found to be equal."""
        self.is_committed = True

    def recognise_commit(self, finished: Iterable[tuple[Checkpoint, Shard, FileIdentity | None]]) -> bool:
        """Tell, when resuming a fully built run, whether OUTPUT is its result, already committed."""
        self.is_committed = True  # if so, `result` holds what OUTPUT replaced
        self.is_committed = os.path.lexists(self.output) and all(
            self.identity_of(checkpoint, shard) == identity for checkpoint, shard, identity in finished
        )
        return self.is_committed

    def suspend(self) -> None:
        """Stop, and leave the partial folder to a resuming run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def abort(self) -> None:
        """Remove the partial folder; a no-op after `suspend`."""
        if self._lock is not None:
            with suppress(OutputError):  # report the original error
                self._clear()
            self._lock.remove()
            self._lock = None

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._is_part or (kind is not None and self._is_kept):
            self.suspend()
            return
        try:
            if self.is_committed and kind is None:
                self._check_removable()
                self._clear()
        finally:
            self.abort()

    def written_bytes(self) -> int:
        """Return the bytes of the files of OUTPUT."""
        return sum((self.output / name).stat().st_size for name in self.names())

    def _clear(self, but: str = "") -> int:
        """Remove what the partial folder holds, see `_empty`."""
        self._made.clear()
        return _empty(self.partial, but)

    def _entry_of(self, checkpoint: Checkpoint) -> Path:
        """Return the file or folder that an input becomes, relative to the result."""
        return Path(entry_name(checkpoint)) if len(self._checkpoints) > 1 else Path()

    def _target(self, checkpoint: Checkpoint) -> Path:
        return self.result / self._entry_of(checkpoint)

    def _make_folder(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Create a folder of the output and its parents; a copy of an input's folder is not more readable than it."""
        if folder in self._made:
            return
        self._made.add(folder)
        target = self._target(checkpoint)
        if not checkpoint.is_folder or not folder.is_relative_to(target):
            _make_folder(folder)
            return
        if folder == target:
            _make_folder(folder.parent)
        else:
            self._make_folder(checkpoint, folder.parent)
        _make_folder(folder, _mode_of(checkpoint.path / folder.relative_to(target)))

    @property
    def _replaced(self) -> Path:
        return self.partial / "replaced"

    def _check_replaced(self, folder: Path) -> None:
        """Refuse to remove files that are neither in the new output nor written by an earlier run."""
        check_replaced(folder, {*self.names(), Path(MARKER)})

    def _check_removable(self) -> None:
        """Refuse to remove the replaced OUTPUT, and keep it, if someone has added files to it since."""
        try:
            self._check_replaced(self._replaced)
        except QdqError:
            self.suspend()
            raise

    def _put_in_place(self) -> None:
        """Give the result its name: a free one, that of a file, or that of a folder, by exchange."""
        if not os.path.lexists(self.output):
            rename_new(self.result, self.output)
        elif not self.is_folder:
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
                self._is_kept = False
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
    return anchored(output), partial_path(anchored(output))


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


def _copied(checkpoint: Checkpoint) -> list[SideFile]:
    """Return the side files of an output, indexes last; a marker describes another run's files."""
    copied = [side_file for side_file in checkpoint.side_files if side_file.name != Path(MARKER)]
    return sorted(copied, key=lambda side_file: is_index(side_file.name.name))


def _marker_notes(checkpoints: Sequence[Checkpoint]) -> Iterator[Note]:
    """Yield notes on inputs that a run wrote.

    Raises:
        UsageError: a file has the marker's name.
    """
    for side_file in (side_file for checkpoint in checkpoints for side_file in checkpoint.side_files):
        if side_file.name == Path(MARKER):
            if read_marker(side_file.path) is None:
                raise UsageError(f"{show_path(side_file.path)}: has the name of a file that OUTPUT gets; rename it")
            yield Note.of(NoteKind.SIMULATED, show_path(side_file.path))


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
    with blame_output(folder):
        folder.mkdir(private_mode(mode), parents=True, exist_ok=True)


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
    _disown(partial)
    num_bytes = 0
    with _removing(partial):
        for path in partial.iterdir():
            if path.name == but or FolderLock.owns(path.name):
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
