"""The journal of a run: what it works on and what it has finished, with the rows, so that a later run can go on.

The first line is the fingerprint. Then comes a line for each part of a large file that is on the disk, tensors or a
region of one, one for each finished file, and a last one once all is built. What a line speaks of was flushed to the
disk before the line is written; a line that a power cut takes away only means that its file is made again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.measure.region import Region
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
    """What an earlier run has done of one shard."""

    records: list[Mapping[str, Any]] = field(default_factory=list)
    """Of the rows of its first tensors."""
    regions: list[Region] = field(default_factory=list)
    """Of the tensor behind them, in its order."""
    unfinished: Waiting | None = None
    """The file that holds all this, if it waits."""
    finished: FileIdentity | None = None
    """Of the finished file, which then holds all tensors."""

    @property
    def num_rows(self) -> int:
        return sum(record["rows"] for record in self.records)


class Journal:
    """Opens the journal of the output tree, whose lock must be held, and reads it if the run resumes.

    Raises:
        UsageError: it is of a run on another input or with other settings; names the difference.
        OutputError: the system refuses.
    """

    def __init__(self, output: OutputTree, plans: Sequence[Plan], fingerprint: Fingerprint, scale_bits: int) -> None:
        self._output = output
        self._scale_bits = scale_bits
        self._log = LineLog(output.journal_path)
        self.is_committed = False
        """Whether the earlier run even gave OUTPUT its name."""
        self._is_built = False
        lines = [json.loads(line) for line in self._log.lines]
        if lines and (what := difference(lines[0], json.loads(json.dumps(fingerprint)))):
            raise UsageError(
                f"{show_path(output.partial)}: the interrupted run was another: {what}; give the same input and "
                "settings, or leave out --resume to begin anew"
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
        """Files that need no more work."""
        return sum(shard.finished is not None for shard in self._shards)

    @property
    def has_progress(self) -> bool:
        """Whether a later run would find something."""
        return any(shard.records or shard.regions for shard in self._shards)

    def progress(self, index: int) -> Progress:
        """What is done of the shard of that number."""
        return self._shards[index]

    def rows(self, index: int, plan: Plan) -> list[Row]:
        """The rows of the shard's tensors that are done."""
        rows: list[Row] = []
        for record in self._shards[index].records:
            rows += restore_rows(record, plan, len(rows), self._scale_bits)
        return rows

    def add_part(self, index: int, rows: Sequence[Row], waiting: Waiting) -> None:
        """The shard's next tensors are on the disk, in a file that waits to be finished."""
        self._add({"shard": index, "first": self._shards[index].num_rows, "unfinished": waiting}, rows)
        self._log.sync()

    def add_region(self, index: int, region: Region, waiting: Waiting) -> None:
        """The same of a region of the shard's next tensor."""
        self._add(
            {"shard": index, "first": self._shards[index].num_rows, "unfinished": waiting, "region": asdict(region)}
        )
        self._log.sync()

    def add_shard(self, index: int, rows: Sequence[Row], finished: FileIdentity) -> None:
        """The shard's output is finished; the rows are those since its last part."""
        self._add({"shard": index, "first": self._shards[index].num_rows, "finished": asdict(finished)}, rows)
        self._log.sync()  # the rows are as durable as the shard

    def add_damaged(self, index: int) -> None:
        """The shard's output turned out not to be what it must be: a later run makes it again."""
        self._append({"shard": index, "damaged": True})
        self._log.sync()

    def add_built(self) -> None:
        """All files are finished: what is missing is OUTPUT's name."""
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
        """A line that begins at the first tensor, or at a tensor's first element, replaces what was known of it."""
        if "built" in line:
            self._is_built = True
            return
        if "damaged" in line:
            self._shards[line["shard"]] = Progress()
            self._is_built = False
            return
        shard = self._shards[line["shard"]]
        region = Region(**line["region"]) if "region" in line else None
        if line["first"] == 0:
            shard.records = []
        if region is None:
            shard.records.append(line)
        if region is None or region.start == 0:
            shard.regions = []
        if region is not None:
            shard.regions.append(region)
        shard.unfinished = Waiting(*line["unfinished"]) if "unfinished" in line else None
        shard.finished = FileIdentity(**line["finished"]) if "finished" in line else None

    def _kept_files(self, plans: Sequence[Plan]) -> Iterator[Path]:
        """The files that are finished, or wait to be."""
        for plan, shard in zip(plans, self._shards, strict=True):
            path = self._output.shard_path(plan.checkpoint, plan.shard)
            if shard.finished is not None:
                yield path
            elif shard.unfinished is not None:
                yield path.with_name(shard.unfinished.name)

    def _forget_what_is_gone(self, plans: Sequence[Plan]) -> None:
        """Files that are not as they were left are made again."""
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
