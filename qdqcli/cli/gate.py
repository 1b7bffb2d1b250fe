"""What `check` and `compare` have in common: the budget, its files and the exit code."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar

import click

from qdqcli.cli.deliver import deliver_files, show, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.options import Options, apply
from qdqcli.cli.session import Session
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.gate.budget import PYPROJECT, BaselineRule, Budget, has_budget, read_budget
from qdqcli.gate.generate import budget_text
from qdqcli.gate.judge import judge
from qdqcli.gate.ratchet import Headroom, ratchet
from qdqcli.output.files import NamedFile
from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.read import read_report
from qdqcli.result.result import RunResult

Function = TypeVar("Function", bound=Callable[..., Any])
EXIT_EXCEEDED = 1


def parse_headroom(value: str) -> Headroom:
    """`0.5dB` or `0.5`."""
    try:
        return Headroom.parse(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no headroom such as 0.5dB") from None


def parse_day(value: str) -> date:
    """A day, as 2027-01-31."""
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no day such as 2027-01-31") from None


def judging_options(function: Function) -> Function:
    """What the verdict depends on."""
    return apply(
        function,
        click.option("--budget", type=click.Path(path_type=Path), metavar="FILE",
                     help="Judge by this TOML file, or by [tool.qdq.budget] of a pyproject.toml."),
        click.option("--baseline", type=click.Path(path_type=Path), metavar="REPORT.json",
                     help="Hold the run against this earlier report, instead of the budget's own baseline."),
        click.option("--today", type=parse_day, metavar="DAY", show_default="the clock's",
                     help="Judge waivers as on this day, YYYY-MM-DD."),
        click.option("--exit-zero", is_flag=True, help="Report the verdict and exit with 0 all the same."),
    )  # fmt: skip


def gate_options(function: Function) -> Function:
    """The same, and the files that are made from what was measured."""
    return apply(
        function,
        click.option("--report-in", type=click.Path(path_type=Path), metavar="REPORT.json",
                     help="Judge a stored report instead of measuring INPUT."),
        judging_options,
        click.option("--write-baseline", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write the run as a baseline, a JSON report."),
        click.option("--write-budget", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write a budget that the run keeps, with limits for each tensor."),
        click.option("--headroom", type=parse_headroom, default="0.5dB", show_default=True, metavar="X",
                     help="Let limits that are written be this much worse than what was measured."),
        click.option("--ratchet", is_flag=True,
                     help="Rewrite the limits of --budget tighter where the run allows it; never looser."),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What was asked of the verdict."""

    budget: Budget | None
    budget_path: Path | None
    baseline: RunResult | None
    today: date
    allow_unmatched: bool
    exit_zero: bool
    write_baseline: Path | None = None
    write_budget: Path | None = None
    headroom: Headroom
    ratchet: bool = False

    @classmethod
    def of(cls, options: Options, session: Session) -> Self:
        """Read the budget and the baseline, before any work.

        Raises:
            UsageError: a budget that is none, or nothing to do.
            InputError: a baseline that is no report.
        """
        path = options["budget"] or _pyproject(session)
        budget = None if path is None else read_budget(path)
        if options["baseline"] is not None:
            rule = BaselineRule(path=options["baseline"], tolerances=())
            if budget is not None and budget.baseline is not None:
                rule = replace(budget.baseline, path=options["baseline"])
            budget = replace(budget or Budget(rules=(), summary={}), baseline=rule)
        if options.get("ratchet") and path is None:
            raise UsageError("--ratchet tightens a budget; give --budget FILE")
        return cls(
            budget=budget,
            budget_path=path,
            baseline=None if budget is None or budget.baseline is None else read_report(budget.baseline.path),
            today=options["today"] or date.today(),  # the user's day
            allow_unmatched=options["allow_unmatched"],
            exit_zero=options["exit_zero"],
            write_baseline=options.get("write_baseline"),
            write_budget=options.get("write_budget"),
            headroom=options.get("headroom", Headroom(db=0.0)),
            ratchet=options.get("ratchet", False),
        )

    def add_files(self, files: Files) -> None:
        """Add the files that no option names, and check all: pyproject.toml, the budget's baseline, what is tightened.

        Raises:
            UsageError, OutputError: as `check_files`.
        """
        if self.ratchet and self.budget_path is not None:
            files.writes.append(NamedFile(self.budget_path, "--ratchet"))
            files.reads[:] = [file for file in files.reads if file.path != self.budget_path]
        elif self.budget_path is not None:
            files.reads.append(NamedFile(self.budget_path, "the budget"))
        if self.budget is not None and self.budget.baseline is not None:
            files.reads.append(NamedFile(self.budget.baseline.path, "the baseline"))
        files.check()

    def conclude(self, run: RunResult, options: Options, session: Session) -> int:
        """Judge the run, write all files, show the report; the exit code, which a closed standard output keeps."""
        run = self.judge(run, session)
        failed = run.verdict is not None and not run.verdict.passed
        self.write_files(run)
        deliver_files(run, options)
        session.exit_code = EXIT_EXCEEDED if failed and not self.exit_zero else 0
        show(run, options)
        return session.exit_code

    def judge(self, run: RunResult, session: Session) -> RunResult:
        """The run with its verdict, where there is a budget."""
        if self.budget is None:
            return replace(run, verdict=None)
        verdict, warnings = judge(run, self.budget, self.baseline, self.today, allow_unmatched=self.allow_unmatched)
        for warning in warnings:
            session.note(warning)
        return replace(run, verdict=verdict)

    def write_files(self, run: RunResult) -> None:
        """The baseline, the budget and the tighter budget, each whole or not at all.

        Raises:
            UsageError: the budget cannot be rewritten as it stands.
            OutputError: a file cannot be written.
        """
        if self.write_baseline is not None:
            measured = replace(run, verdict=None)
            write_report(self.write_baseline, formatter("json")(measured, ReportOptions()))
        if self.write_budget is not None:
            write_report(self.write_budget, [budget_text(run, self.headroom)])
        if self.ratchet and self.budget is not None and self.budget_path is not None:
            before = self.budget_path.read_text(encoding="utf-8")
            after = ratchet(before, self.budget, run, self.headroom, self.today, show_path(self.budget_path))
            if after != before:
                write_report(self.budget_path, [after])


def _pyproject(session: Session) -> Path | None:
    """./pyproject.toml, where it has a budget."""
    import tomllib

    path = Path(PYPROJECT)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not has_budget(data):
        return None
    session.note("the budget is [tool.qdq.budget] of ./pyproject.toml")
    return path
