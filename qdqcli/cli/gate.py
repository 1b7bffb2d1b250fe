"""Parts shared by `check` and `compare`: the budget, its files and the exit code."""

import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Self

import click

from qdqcli.cli.call import Call
from qdqcli.cli.deliver import deliver_files, say_written, show, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.gate_files import check_replaceable, is_budget, is_report, rewrite, without
from qdqcli.cli.options import together
from qdqcli.cli.session import Session
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.escape import show_command, show_path
from qdqcli.gate.baseline import BaselineComparison
from qdqcli.gate.bounds import unjudged, with_bounds
from qdqcli.gate.budget import BaselineRule, Budget
from qdqcli.gate.generate import budget_text
from qdqcli.gate.judge import check_patterns, judge, verdict_of
from qdqcli.gate.keys import json_schema
from qdqcli.gate.project import PROJECT_FILE, PYPROJECT, read_budget
from qdqcli.gate.ratchet import Headroom, ratchet
from qdqcli.gate.settings import check_settings
from qdqcli.gate.structure import judge_structure, planned_members, unmeasured
from qdqcli.output.files import NamedFile
from qdqcli.recipe.listing import Listing
from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.read import read_report
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity
from qdqcli.stats.metrics import METRICS

EXIT_EXCEEDED = 1
NO_HEADROOM = Headroom(db=0.0)


def parse_headroom(value: str) -> Headroom:
    """Parse `0.5dB` or `0.5`."""
    try:
        return Headroom.parse(value)
    except ValueError:
        raise click.BadParameter(f"invalid headroom {value!r}: expected decibels, e.g. 0.5dB") from None


def parse_day(value: str) -> date:
    """Parse a date, e.g. 2027-01-31."""
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"invalid date {value!r}: expected YYYY-MM-DD") from None


judging_options = together(
    click.option("--budget", type=click.Path(path_type=Path), metavar="FILE",
                 help="Judge by this TOML file, or by the budget of a qdq.toml or pyproject.toml."),
    click.option("--baseline", type=click.Path(path_type=Path), metavar="REPORT.json",
                 help="Compare with this baseline report, instead of the budget's own."),
    click.option("--today", type=parse_day, metavar="DAY", show_default="the clock's",
                 help="Judge waivers as on this day, YYYY-MM-DD."),
    click.option("--exit-zero", is_flag=True, help="Report the verdict and exit with 0 all the same."),
)  # fmt: skip
"""The options that the verdict depends on."""


def _print_schema(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        write(json.dumps(json_schema(), indent=2) + "\n")
        context.exit()


gate_options = together(
    click.option("--report-in", type=click.Path(path_type=Path), metavar="REPORT.json",
                 help="Judge a stored report instead of measuring INPUT."),
    judging_options,
    click.option("--write-baseline", type=click.Path(path_type=Path), metavar="FILE",
                 help="Write the run as a baseline, a JSON report."),
    click.option("--write-budget", type=click.Path(path_type=Path), metavar="FILE",
                 help="Write a budget that the run keeps, with limits for each tensor."),
    click.option("--headroom", type=parse_headroom, default="0.5dB", show_default=True, metavar="X",
                 help="Slack added to the limits that are written."),
    click.option("--ratchet", is_flag=True,
                 help="Rewrite the limits of --budget tighter where the run allows it; never looser."),
    click.option("--overwrite", is_flag=True,
                 help="Replace the files of --write-baseline and --write-budget, where they are of that kind."),
    click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=_print_schema,
                 help="Print the JSON schema of a budget and exit."),
)  # fmt: skip
"""The judging options, and those of files made from the measurements."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Options of the verdict, and of the files made from the measurements."""

    budget: Path | None
    baseline: Path | None
    today: date | None
    exit_zero: bool
    report_in: Path | None = None
    write_baseline: Path | None = None
    write_budget: Path | None = None
    headroom: Headroom = NO_HEADROOM
    ratchet: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Settings and inputs of the verdict."""

    asked: Judging
    budget: Budget | None
    budget_path: Path | None
    baseline: RunResult | None
    today: date
    allow_unmatched: bool

    @classmethod
    def of(cls, asked: Judging, call: Call) -> Self:
        """Read the budget and the baseline, before any work.

        Raises:
            UsageError: a budget that is malformed or limits nothing, nothing to do, a file that must not be replaced.
            InputError: a baseline that is not a report.
        """
        path, budget, project = asked.budget, None, call.session.project
        if path is None and project is not None:
            path = project.budget_file
        if path is not None:
            budget = read_budget(path)
        elif project is not None and project.budget is not None:
            path, budget = project.path, project.budget
        if asked.baseline is not None:
            rule = BaselineRule(path=asked.baseline, tolerances=())
            if budget is not None and budget.baseline is not None:
                rule = replace(budget.baseline, path=asked.baseline)
            budget = replace(budget or Budget(source=show_path(asked.baseline), summary={}), baseline=rule)
        if budget is not None and budget.is_idle:
            within = {PROJECT_FILE: "budget.", PYPROJECT: "tool.qdq.budget."}.get(Path(budget.source).name, "")
            *first, last = (f"[{within}{name}]" for name in ("limits", "summary", "structure", "baseline"))
            raise UsageError(
                f"{budget.source}: sets no limit and has no baseline, so every run would pass; add {', '.join(first)} "
                f"or {last}"
            )
        if asked.ratchet and path is None:
            raise UsageError("--ratchet tightens a budget; give --budget FILE")
        for written, kind in ((asked.write_baseline, is_report), (asked.write_budget, is_budget)):
            if written is not None:
                check_replaceable(written, kind, is_allowed=asked.overwrite)
        return cls(
            asked=asked,
            budget=budget,
            budget_path=path,
            baseline=None if budget is None or budget.baseline is None else read_report(budget.baseline.path),
            today=asked.today or date.today(),  # the user's day
            allow_unmatched=call.reading.allow_unmatched,
        )

    def add_files(self, files: Files) -> None:
        """Add files that no option names (pyproject.toml, the budget's baseline, the budget to tighten), and check all.

        Raises:
            UsageError, OutputError: see `check_files`.
        """
        if self.asked.ratchet and self.budget_path is not None:
            files.writes.append(NamedFile(self.budget_path, "--ratchet"))
            files.reads[:] = [file for file in files.reads if file.path != self.budget_path]
        elif self.budget_path is not None:
            files.reads.append(NamedFile(self.budget_path, "the budget"))
        if self.budget is not None and self.budget.baseline is not None:
            files.reads.append(NamedFile(self.budget.baseline.path, "the baseline"))
        files.check()

    def foresee(self, listing: Listing) -> RunResult | None:
        """Return the run with its verdict where the headers alone decide it, so that nothing is measured.

        None where they do not, or where files are to be made from the measurements.

        Raises:
            UsageError: the settings are not those of the budget, or a pattern of it matches nothing.
        """
        if self.budget is None:
            return None
        check_settings(self.budget, listing.settings)
        members = list(planned_members(listing))
        check_patterns(members, self.budget, self.baseline, allow_unmatched=self.allow_unmatched)
        if self.asked.write_baseline is not None or self.asked.write_budget is not None or self.asked.ratchet:
            return None
        found = list(judge_structure(members, listing.notes, self.budget))
        if all(violation.severity is not Severity.ERROR for violation in found):
            return None
        run = unmeasured(listing)
        return replace(run, verdict=verdict_of(found, run, self.budget, self.today))

    def judge(self, run: RunResult, session: Session) -> RunResult:
        """Return the run with its verdict, if there is a budget.

        Raises:
            UsageError: see `gate.judge.judge`.
        """
        if self.budget is None:
            return unjudged(run)
        beside = None if self.baseline is None else BaselineComparison(run=run, baseline=self.baseline)
        verdict, warnings = judge(run, self.budget, beside, self.today, allow_unmatched=self.allow_unmatched)
        session.note(*warnings)
        return with_bounds(replace(run, verdict=verdict), self.budget, beside)

    def exit_code(self, run: RunResult) -> int:
        """Return the exit code of a judged run."""
        return EXIT_EXCEEDED if _has_failed(run) and not self.asked.exit_zero else 0

    def conclude(self, run: RunResult, call: Call) -> None:
        """Write all files and show the report of a judged run; the session gets its exit code."""
        session, report = call.session, call.report
        failed = _has_failed(run)
        deliver_files(run, report)
        written, following = self.write_files(run, session)
        session.exit_code = self.exit_code(run)
        if report.format_name != "none":
            show(run, report, is_gate=True)
        say_written(call, *map(show_path, written))
        if following:
            session.tell(f"next: {show_command(following)}")
        elif failed and run.command == "check" and _is_measured(run):
            session.note(f"why, and a recipe with what helps: {show_command(_diagnosis(session))}")

    def write_files(self, run: RunResult, session: Session) -> tuple[list[Path], list[str]]:
        """Write the baseline, the budget and the tightened budget; returns the files written and the next command.

        Raises:
            UsageError: the budget changed after it was read.
            OutputError: a file cannot be written.
        """
        written, judging = [], []
        if self.asked.write_baseline is not None:
            measured = unjudged(run)
            pieces = formatter("json")(measured, ReportOptions())
            write_report(self.asked.write_baseline, pieces, replaces=self.asked.overwrite)
            written.append(self.asked.write_baseline)
            judging += ["--baseline", str(self.asked.write_baseline)]
        if self.asked.write_budget is not None:
            write_report(
                self.asked.write_budget, [budget_text(run, self.asked.headroom)], replaces=self.asked.overwrite
            )
            written.append(self.asked.write_budget)
            judging += ["--budget", str(self.asked.write_budget)]
        if self.asked.ratchet and self.budget is not None and self.budget_path is not None:
            after = ratchet(self.budget, run, self.asked.headroom, self.today)
            if after != self.budget.text:
                rewrite(self.budget_path, self.budget.text, after)
                written.append(self.budget_path)
        others = ("--write-baseline", "--write-budget", "--headroom", "--baseline", "--budget")
        call = without(session.arguments, values=others, flags=("--overwrite", "--ratchet"), added=judging)
        return written, ["qdq", *call] if judging else []


def _has_failed(run: RunResult) -> bool:
    return run.verdict is not None and not run.verdict.passed


def _is_measured(run: RunResult) -> bool:
    """Tell whether the verdict is on a measured error, so that other settings may help."""
    return run.verdict is not None and any(violation.metric in METRICS for violation in run.verdict.errors)


def _diagnosis(session: Session) -> list[str]:
    """Return the command that finds causes and remedies; for a stored report with a placeholder as the model."""
    if any(argument.partition("=")[0] == "--report-in" for argument in session.arguments):
        return ["qdq", "diagnose", "MODEL", "--write-recipe", "fix.toml"]
    values = (
        *("--budget", "--baseline", "--today", "--write-baseline", "--write-budget", "--headroom", "--report"),
        *("--format", "--sort", "--top", "--by", "--ranges", "--input-min", "--input-max"),
    )
    flags = ("--exit-zero", "--ratchet", "--overwrite", "--per-channel", "--histograms")
    added = ["--write-recipe", "fix.toml"]
    return ["qdq", "diagnose", *without(session.arguments[1:], values=values, flags=flags, added=added)]
