"""Journal of a run: its fingerprint and its finished work, with the rows, so that a later run can resume.

The first line is the fingerprint. Then comes a line for each flushed part of a large file (whole tensors),
one for each finished file, and a last one once all is built. A line is written only after the data that it reports was
flushed to the disk; a line lost in a power cut only means that its file is made again.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from qdqcli.errors import InputError, OutputError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.line_log import begin_log, open_log, read_lines
from qdqcli.output.tree import JOURNAL, OutputTree
from qdqcli.plain import Parsed
from qdqcli.recipe.patterns import listed
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row
from qdqcli.run.fingerprint import Fingerprint, difference
from qdqcli.run.record import restore_rows
from qdqcli.tensors.checkpoint import Waiting
from qdqcli.tensors.input_file import FileIdentity, read_file
from qdqcli.tensors.output_file import OutputFile, sync_folder
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_output
from qdqcli.tensors.temporary import temporary_of

_COMPACT = (",", ":")
"""Separators of JSON without blanks."""
LOOKS = 8
"""Shards that are looked for at once."""


def run_id_of(fingerprint: Fingerprint) -> str:
    """Return a hash of the run's input and settings."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


class CommandLine(NamedTuple):
    """The command line of the parts of a run, by which the last step repeats their settings."""

    arguments: Sequence[str]
    """Arguments of `qdq run`."""
    folder: str
    """The folder in which they hold."""


def join(output: OutputTree, fingerprint: Fingerprint, command: CommandLine) -> str:
    """Begin the journal of a run in parts, or join the one that is there; returns the run id.

    Raises:
        UsageError: the journal is of another input, of other settings, or of a run that is not in parts.
        OutputError: the system refuses.
    """
    path = output.journal_path
    if not read_lines(path):
        output.check_unused()
        lines = (fingerprint, {"command": command._asdict()})
        with suppress(UsageError):  # another part was faster
            begin_log(path, [json.dumps(line) for line in lines])
    found = [json.loads(line) for line in read_lines(path)]
    if found and (what := difference(found[0], json.loads(json.dumps(fingerprint)))):
        raise UsageError(
            f"{show_path(output.partial)}: cannot join the other parts: {what}; give all parts the same input and "
            "settings"
        )
    if len(found) < 2 or "command" not in found[1]:
        raise UsageError(f"{show_path(output.partial)}: was begun without --part; go on with --resume, without --part")
    return run_id_of(fingerprint)


def command_of(partial: Path) -> CommandLine | None:
    """Return the command line of the parts that build in the folder; None if there are none."""
    lines = [json.loads(line) for line in read_lines(partial / JOURNAL)[:2]]
    return CommandLine(**lines[1]["command"]) if len(lines) == 2 and "command" in lines[1] else None


@dataclass(frozen=True, kw_only=True)
class Target:
    """Target for another process: the output of a shard, and its rows."""

    path: Path
    """The finished file; its folder exists."""
    rows: Path
    """The file of the rows; its folder exists, and holds the output until it is complete, see `new_file`."""
    token: Path
    """A file that is there while the run that this target is of builds the output."""
    run_id: str
    """Hash of the run's input and settings, by which rows of another run are told."""

    def finished(self) -> Parsed | None:
        """Return size and record of the finished output; None if it is not there, or of another run."""
        try:
            found = json.loads(read_file(self.rows, sys.maxsize))
            size = self.path.stat().st_size
        except (InputError, OSError, ValueError):
            return None
        is_ours = isinstance(found, dict) and (found.get("run"), found.get("size")) == (self.run_id, size)
        return found if is_ours else None

    def new_file(self) -> Path:
        """Return where this process builds the output; in a store, which shows an object once it is whole, `path`."""
        return self.path if isinstance(self.path, RemotePath) else temporary_of(self.rows)

    def check_run(self) -> None:
        """Raise `OutputError` if the run has ended."""
        with blame_output(self.token):
            is_there = self.token.exists()
        if not is_there:
            raise OutputError(f"{show_path(self.path)}: is built by another run now; its own run has ended")

    def publish(self, own: Path, record: Parsed) -> int:
        """Give the complete `new_file` its name, even where another process has made it meanwhile, and then the rows.

        Returns:
            The size of the output in bytes.

        Raises:
            OutputError: the system refuses, or another run has begun to build the output.
        """
        try:
            with blame_output(self.path), OutputFile(self.rows, replaces=True) as rows:
                size = own.stat().st_size
                found = {"run": self.run_id, "size": size, "record": record}
                rows.write(memoryview(json.dumps(found, separators=_COMPACT).encode()), 0)
                self.check_run()  # a run that begins after this removes both files before it goes on
                if own != self.path:
                    own.replace(self.path)
                    sync_folder(self.path.parent)
                rows.commit()
        finally:
            if own != self.path:
                own.unlink(missing_ok=True)
        return size


def target_of(output: OutputTree, index: int, plan: Plan, run_id: str) -> Target:
    """Return where the shard at `index` goes."""
    return Target(
        path=output.shard_path(plan.checkpoint, plan.shard).absolute(),
        rows=output.rows_path(index).absolute(),
        token=output.token_path.absolute(),
        run_id=run_id,
    )


@dataclass(kw_only=True)
class FinishedShard:
    """Finished work of an earlier run on one shard."""

    records: list[Parsed] = field(default_factory=list)
    """Records of the rows of its first tensors."""
    unfinished: Waiting | None = None
    """The unfinished file that holds these tensors; None if there is none."""
    finished: FileIdentity | None = None
    """Identity of the finished file, which holds all tensors; None until it is finished."""
    num_rows: int = 0
    """Number of rows in the records."""


class Journal:
    """Journal of the output tree, whose lock must be held; read if the run resumes. `close` closes its file.

    Raises:
        UsageError: it belongs to a run on another input or with other settings; names the difference.
        OutputError: the system refuses.
    """

    def __init__(self, output: OutputTree, plans: Sequence[Plan], fingerprint: Fingerprint, scale_bits: int) -> None:
        self._output = output
        self._scale_bits = scale_bits
        self._log = open_log(output.journal_path)
        self.is_committed = False
        """True where the earlier run already renamed its output to OUTPUT."""
        self.fingerprint = fingerprint
        self._is_built = False
        self.shards = [FinishedShard() for _ in plans]
        """The finished work on each shard."""
        with ExitStack() as undo:
            undo.callback(self.close)
            if self._log.lines:
                self._resume(plans)
            else:
                if output.resumes:
                    output.disown()
                    output.start_anew()
                self._append(fingerprint)
            undo.pop_all()

    def _resume(self, plans: Sequence[Plan]) -> None:
        """Take over the work of the earlier run, and remove the rest of its output."""
        output = self._output
        first, *lines = [json.loads(line) for line in self._log.lines]
        if what := difference(first, json.loads(json.dumps(self.fingerprint))):
            raise UsageError(
                f"{show_path(output.partial)}: cannot resume: {what}; give the same input and "
                "settings, or drop --resume to start over"
            )
        output.disown()
        for line in lines:
            self._learn(line)
        self.is_committed = self._is_built and output.recognise_commit(
            (plan.checkpoint, plan.shard, progress.finished) for plan, progress in zip(plans, self.shards, strict=True)
        )
        if not self.is_committed:
            self._forget_what_is_gone(plans)
            self._collect(plans)
            output.sweep(but=set(self._kept_files(plans)))

    @property
    def num_finished(self) -> int:
        """Number of finished files."""
        return sum(shard.finished is not None for shard in self.shards)

    def check_complete(self, plans: Sequence[Plan]) -> None:
        """Check that every shard is finished.

        Raises:
            OutputError: some are not; names them.
        """
        missing = [plan.file.path for plan, shard in zip(plans, self.shards, strict=True) if shard.finished is None]
        if missing:
            raise OutputError(
                f"{show_path(self._output.output)}: {len(missing)} of {len(plans)} files are not made yet, "
                f"{listed(missing)}; run their parts again (what is done is skipped), then qdq finish"
            )

    def check_unchanged(self, plans: Sequence[Plan]) -> None:
        """Check that every finished file is as it was found: in a store a process of another run may replace one.

        Raises:
            OutputError: one is not; names it.
        """
        for plan, shard in zip(plans, self.shards, strict=True):
            if self._output.identity_of(plan.checkpoint, plan.shard) != shard.finished:
                raise OutputError(
                    f"{show_path(self._output.shard_path(plan.checkpoint, plan.shard))}: was replaced by another "
                    "process; --resume makes it again"
                )

    @property
    def has_progress(self) -> bool:
        """True where a later run could resume from something."""
        return any(shard.records for shard in self.shards)

    def rows(self, index: int, plan: Plan) -> list[Row]:
        """Return the rows of the shard's finished tensors."""
        rows: list[Row] = []
        for record in self.shards[index].records:
            rows += restore_rows(record, plan, len(rows), self._scale_bits)
        return rows

    def add(
        self, index: int, record: Parsed, *, unfinished: Waiting | None = None, finished: FileIdentity | None = None
    ) -> None:
        """Record that the shard's next tensors, whose rows `record` holds, are on the disk.

        They are in an unfinished file, or the output is finished.
        """
        state = {"finished": asdict(finished)} if finished is not None else {"unfinished": unfinished}
        line = {"shard": index, "first": self.shards[index].num_rows, **state, **record}
        self._append(line)
        self._learn(line)
        self._output.is_kept = True
        self._log.sync()  # the rows are as durable as the shard

    def add_damaged(self, index: int) -> None:
        """Record that the shard's output failed verification: a later run makes it again."""
        rows = self._output.rows_path(index)
        with blame_output(rows):
            rows.unlink(missing_ok=True)  # they would vouch for it
        self._append({"shard": index, "damaged": True})
        self._log.sync()

    def add_built(self) -> None:
        """Record that all files are finished and only the rename to OUTPUT is missing."""
        if not self._is_built:
            self._append({"built": True})
        self._log.sync()

    def close(self) -> None:
        self._log.close()

    def _append(self, line: Parsed) -> None:
        self._log.append(json.dumps(line, separators=_COMPACT))

    def _learn(self, line: Parsed) -> None:
        """Apply a line: one that starts at the first tensor replaces older entries."""
        if "command" in line:
            return
        if "built" in line:
            self._is_built = True
            return
        if "damaged" in line:
            self.shards[line["shard"]] = FinishedShard()
            self._is_built = False
            return
        shard = self.shards[line["shard"]]
        if line["first"] == 0:
            shard.records = []
        shard.records.append(line)
        shard.num_rows = line["first"] + line["rows"]
        shard.unfinished = Waiting(*line["unfinished"]) if "unfinished" in line else None
        shard.finished = FileIdentity(**line["finished"] | {"device": 0}) if "finished" in line else None

    def _kept_files(self, plans: Sequence[Plan]) -> Iterator[Path]:
        """Yield the finished files and the unfinished ones to resume."""
        for plan, shard in zip(plans, self.shards, strict=True):
            path = self._output.shard_path(plan.checkpoint, plan.shard)
            if shard.finished is not None:
                yield path
            elif shard.unfinished is not None:
                yield path.with_name(shard.unfinished.name)

    def _collect(self, plans: Sequence[Plan]) -> None:
        """Take over the shards that other processes have finished for this run."""
        missing = [i for i, shard in enumerate(self.shards) if shard.finished is None]
        run_id = run_id_of(self.fingerprint)
        with ThreadPoolExecutor(LOOKS) as pool:  # a store takes its time for each
            targets = list(pool.map(lambda i: target_of(self._output, i, plans[i], run_id).finished(), missing))
        for i, found in zip(missing, targets, strict=True):
            plan = plans[i]
            identity = self._output.identity_of(plan.checkpoint, plan.shard)
            if found is not None and identity is not None and identity.size == found["size"]:
                self.shards[i] = FinishedShard()
                self.add(i, found["record"], finished=identity)

    def _forget_what_is_gone(self, plans: Sequence[Plan]) -> None:
        """Drop the progress of files that are missing or changed, so that they are made again."""
        for i, plan in enumerate(plans):
            shard = self.shards[i]
            if shard.finished is not None:
                is_there = self._output.identity_of(plan.checkpoint, plan.shard) == shard.finished
            elif shard.unfinished is not None:
                is_there = self._output.has_unfinished(plan.checkpoint, plan.shard, shard.unfinished)
            else:
                continue
            if not is_there:
                self.shards[i] = FinishedShard()
