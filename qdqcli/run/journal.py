"""Journal of a run: its fingerprint and its finished work, with the rows, so that a later run can resume.

The first line is the fingerprint. Then comes a line for each flushed part of a large file (whole tensors),
one for each finished file, and a last one once all is built. A line is written only after the data that it reports was
flushed to the disk; a line lost in a power cut only means that its file is made again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.output.line_log import LineLog
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row
from qdqcli.run.fingerprint import Fingerprint, difference
from qdqcli.run.record import record_rows, restore_rows
from qdqcli.tensors.checkpoint import Waiting
from qdqcli.tensors.storage import FileIdentity


@dataclass(kw_only=True)
class Progress:
    """Finished work of an earlier run on one shard."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    """Records of the rows of its first tensors."""
    unfinished: Waiting | None = None
    """The unfinished file that holds these tensors; None if there is none."""
    finished: FileIdentity | None = None
    """Identity of the finished file, which holds all tensors; None until it is finished."""

    @property
    def num_rows(self) -> int:
        return sum(record["rows"] for record in self.records)


class Journal:
    """Journal of the output tree, whose lock must be held; read if the run resumes.

    Raises:
        UsageError: it belongs to a run on another input or with other settings; names the difference.
        OutputError: the system refuses.
    """

    def __init__(self, output: OutputTree, plans: Sequence[Plan], fingerprint: Fingerprint, scale_bits: int) -> None:
        self._output = output
        self._scale_bits = scale_bits
        self._log = LineLog(output.journal_path)
        self.is_committed = False
        """True where the earlier run already renamed its output to OUTPUT."""
        self._is_built = False
        lines = [json.loads(line) for line in self._log.lines]
        if lines and (what := difference(lines[0], json.loads(json.dumps(fingerprint)))):
            raise UsageError(
                f"{show_path(output.partial)}: cannot resume: {what}; give the same input and "
                "settings, or drop --resume to start over"
            )
        self._shards = [Progress() for _ in plans]
        if lines:
            for line in lines[1:]:
                self._learn(line)
        else:
            output.start_anew()
            self._append(fingerprint)
        self.is_committed = self._is_built and output.recognise_commit(
            (plan.checkpoint, plan.shard, progress.finished) for plan, progress in zip(plans, self._shards, strict=True)
        )
        if not self.is_committed:
            self._forget_what_is_gone(plans)
            output.sweep(but=set(self._kept_files(plans)))

    @property
    def num_finished(self) -> int:
        """Number of finished files."""
        return sum(shard.finished is not None for shard in self._shards)

    @property
    def has_progress(self) -> bool:
        """True where a later run could resume from something."""
        return any(shard.records for shard in self._shards)

    def progress(self, index: int) -> Progress:
        """Return the finished work on the shard at `index`."""
        return self._shards[index]

    def rows(self, index: int, plan: Plan) -> list[Row]:
        """Return the rows of the shard's finished tensors."""
        rows: list[Row] = []
        for record in self._shards[index].records:
            rows += restore_rows(record, plan, len(rows), self._scale_bits)
        return rows

    def add_part(self, index: int, rows: Sequence[Row], waiting: Waiting) -> None:
        """Record that the shard's next tensors are on the disk, in an unfinished file."""
        self._add({"shard": index, "first": self._shards[index].num_rows, "unfinished": waiting}, rows)
        self._log.sync()

    def add_shard(self, index: int, rows: Sequence[Row], finished: FileIdentity) -> None:
        """Record that the shard's output is finished; `rows` are those since its last part."""
        self._add({"shard": index, "first": self._shards[index].num_rows, "finished": asdict(finished)}, rows)
        self._log.sync()  # the rows are as durable as the shard

    def add_damaged(self, index: int) -> None:
        """Record that the shard's output failed verification: a later run makes it again."""
        self._append({"shard": index, "damaged": True})
        self._log.sync()

    def add_built(self) -> None:
        """Record that all files are finished and only the rename to OUTPUT is missing."""
        if not self._is_built:
            self._append({"built": True})
        self._log.sync()

    def close(self) -> None:
        self._log.close()

    def _add(self, head: dict[str, Any], rows: Sequence[Row] = ()) -> None:
        line = head | record_rows(rows)
        self._append(line)
        self._learn(line)
        self._output.keep()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._log.append(json.dumps(line, separators=(",", ":")))

    def _learn(self, line: Mapping[str, Any]) -> None:
        """Apply a line: one that starts at the first tensor replaces older entries."""
        if "built" in line:
            self._is_built = True
            return
        if "damaged" in line:
            self._shards[line["shard"]] = Progress()
            self._is_built = False
            return
        shard = self._shards[line["shard"]]
        if line["first"] == 0:
            shard.records = []
        shard.records.append(line)
        shard.unfinished = Waiting(*line["unfinished"]) if "unfinished" in line else None
        shard.finished = FileIdentity(**line["finished"]) if "finished" in line else None

    def _kept_files(self, plans: Sequence[Plan]) -> Iterator[Path]:
        """Yield the finished files and the unfinished ones to resume."""
        for plan, shard in zip(plans, self._shards, strict=True):
            path = self._output.shard_path(plan.checkpoint, plan.shard)
            if shard.finished is not None:
                yield path
            elif shard.unfinished is not None:
                yield path.with_name(shard.unfinished.name)

    def _forget_what_is_gone(self, plans: Sequence[Plan]) -> None:
        """Drop the progress of files that are missing or changed, so that they are made again."""
        for i, plan in enumerate(plans):
            shard = self._shards[i]
            if shard.finished is not None:
                is_there = self._output.identity_of(plan.checkpoint, plan.shard) == shard.finished
            elif shard.unfinished is not None:
                is_there = self._output.has_unfinished(plan.checkpoint, plan.shard, shard.unfinished)
            else:
                continue
            if not is_there:
                self._shards[i] = Progress()
