"""Files named by the options of a command."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from qdqcli.cli.call import Call
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.output.files import NamedFile, check_files, file_id, ids_of
from qdqcli.report.formatter import BY_FORMATS, formatter_for
from qdqcli.report.signature import is_report, is_signed
from qdqcli.tensors.checkpoint import Checkpoint

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
NAME = "{name}"
"""Placeholder for the input's name in the path of a report."""
READS = {
    "config": "the project file",
    "recipe": "--recipe",
    "ranges_file": "--ranges",
    "budget": "--budget",
    "baseline": "--baseline",
    "report_in": "the stored report",
    "importance": "--importance",
    "tie_file": "--tie",
    "saved_sweep": "--from",
    "against": "--against",
    "foreign": "FILE",
}
WRITES = {
    "output": "-o",
    "write_baseline": "--write-baseline",
    "write_budget": "--write-budget",
    "write_recipe": "--write-recipe",
    "reports": "--report",
}
"""Parameter name -> its option in messages. `--ratchet` writes the file that `--budget` reads. An OUTPUT that may be a
folder is not listed here, but checked with these.
"""


@dataclass(frozen=True, kw_only=True)
class Files:
    """All files that a command reads and writes, except INPUT and OUTPUT."""

    reads: list[NamedFile] = field(default_factory=list)
    writes: list[NamedFile] = field(default_factory=list)

    @classmethod
    def of(cls, call: Call, *groups: object, **paths: Path | None) -> Self:
        """Collect the files that options name, also those of further groups, the project file and the job summary.

        Raises:
            UsageError: the suffix of a report is of no format; --by, where no format shows groups; a written file is
                also another one, see `check`.
            OutputError: no permission to write.
        """
        session, report = call.session, call.report
        for path in report.reports:
            formatter_for(path)
            _check_placeholder(path)
        if report.by is not None and not {*report.formats} & {*BY_FORMATS}:
            raise UsageError(f"--by shows in {', '.join(BY_FORMATS)} alone; choose one with --format or --report")
        values: dict[str, object] = {"config": None if session.project is None else session.project.path}
        values |= {**vars(report), **call.settings, **paths}
        for group in groups:
            values |= vars(group)
        files = cls()
        for found, roles in ((files.reads, READS), (files.writes, WRITES)):
            for name, role in roles.items():
                value = values.get(name)
                paths_named = value if isinstance(value, tuple | list) else [value]
                found += [NamedFile(path, role) for path in paths_named if isinstance(path, Path)]
        files.writes[:] = map(_signed, files.writes)
        summary = step_summary() if report.format_name == "github" else None
        if summary is not None:
            files.writes.append(NamedFile(summary, STEP_SUMMARY, is_appended=True))
        if files.writes:
            files.check()
        return files

    def less_reports(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Return the inputs without reports of an earlier run of the same command in their folders.

        Raises:
            UsageError: two inputs have the same name, and reports are named by input.
        """
        self._name_reports(checkpoints)
        reports = ids_of(file.path for file in self.writes if file.is_earlier)
        return [
            replace(
                checkpoint, side_files=[side for side in checkpoint.side_files if file_id(side.path) not in reports]
            )
            for checkpoint in checkpoints
        ]

    def _name_reports(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Replace `NAME` in report paths by the names of the inputs."""
        if not any(is_by_input(file.path) for file in self.writes if file.role == WRITES["reports"]):
            return
        names = names_of([Path(show_path(checkpoint.path)) for checkpoint in checkpoints])
        self.writes[:] = [
            named_file
            for file in self.writes
            for named_file in (
                [_signed(NamedFile(named(file.path, name), file.role)) for name in names]
                if file.role == WRITES["reports"] and is_by_input(file.path)
                else [file]
            )
        ]

    def check(self, inputs: Sequence[Checkpoint] = (), outputs: Sequence[Path] = ()) -> None:
        """Compare each written file with all others, with the inputs and with OUTPUT; see `check_files`."""
        if inputs:
            self._name_reports(inputs)
        check_files(self.reads, self.writes, inputs=inputs, outputs=outputs)


def _signed(file: NamedFile) -> NamedFile:
    """Mark a report with a signature: it may join an input, since the next run recognises it."""
    if file.role != WRITES["reports"]:
        return file
    return file._replace(may_join_input=is_signed(file.path), is_earlier=is_report(file.path))


def _check_placeholder(path: Path) -> None:
    """Refuse a misspelt or misplaced `NAME` in a report's path.

    Raises:
        UsageError: names it.
    """
    unknown = [word for word in re.findall(r"\{[\w-]*\}", path.name) if word != NAME]
    if unknown:
        raise UsageError(f"--report {show_path(path)}: {unknown[0]} is not a placeholder; {NAME} is the input's name")
    if NAME in str(path.parent):
        raise UsageError(f"--report {show_path(path)}: {NAME} belongs into the file's name, not into a folder's")


def is_by_input(path: Path) -> bool:
    """Tell whether a report's path contains `NAME`."""
    return NAME in path.name


def named(path: Path, name: str) -> Path:
    """Return the report path of the input of that name."""
    return path.with_name(path.name.replace(NAME, name))


def names_of(inputs: Sequence[Path]) -> list[str]:
    """Return the last part of each input's path, which names its report.

    Raises:
        UsageError: two inputs have the same; one report would replace the other.
    """
    names = [path.name or path.resolve().name for path in inputs]
    for name, count in Counter(names).items():
        if count > 1 and len(inputs) > 1:
            raise UsageError(
                f"{count} inputs are called '{escape_name(name)}', and so would be their reports; give "
                f"a report without {NAME}"
            )
    return names


def step_summary() -> Path | None:
    """Return the job summary file that GitHub Actions names, for the format github."""
    name = os.environ.get(STEP_SUMMARY)
    return Path(name) if name else None
