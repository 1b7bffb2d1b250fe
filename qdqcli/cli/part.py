"""`--part`: which part of a run this process makes, from the option or from the batch scheduler."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from qdqcli.cli.call import Call
from qdqcli.cli.measure import working
from qdqcli.cli.option_sources import given_parameters
from qdqcli.cli.progress import duration
from qdqcli.cli.session import Session
from qdqcli.errors import UsageError
from qdqcli.escape import show_command, show_path
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.request import Request
from qdqcli.report.number import counted

if TYPE_CHECKING:
    from qdqcli.output.tree import OutputTree
    from qdqcli.run.journal import CommandLine
    from qdqcli.run.parts import Part

SLURM = "SLURM_ARRAY_TASK"
INDEX, COMPLETIONS = "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"
LAST_STEP = ("verify", "provenance", "reports", "format_name", "sort", "top", "by", "histograms")
"""Parameters of `qdq run` that belong to the last step, `qdq finish`."""
WHOLE = ("dry_run", "keeps_going")
"""Parameters that only a run in one piece has."""


def parse_part(value: str) -> tuple[int, int]:
    """Parse `I/N`, or find both for `auto` in the environment; returns (number from 1, count).

    Raises:
        UsageError: `auto` where no scheduler says which part this is.
    """
    if value == "auto":
        return part_of_scheduler(os.environ)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not auto, or I/N with I from 1 to N, e.g. 3/16")
    return int(match[1]), int(match[2])


def part_of_scheduler(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return number and count of this task of a Slurm array or a Kubernetes indexed job.

    Raises:
        UsageError: the environment names neither, or a subset of an array, whose whole it does not tell.
    """
    if f"{SLURM}_ID" in environment:
        names = [f"{SLURM}_{name}" for name in ("ID", "COUNT", "MIN", "MAX")]
        task, count, first, last = (_number(environment, name) for name in names)
        step = int(environment.get(f"{SLURM}_STEP", "1") or "1")
        if (last - first) // step + 1 != count or (task - first) % step or not first <= task <= last:
            raise UsageError(
                f"--part auto: task {task} belongs to an array with gaps, which does not tell how many parts there "
                f'are; give them: --part "${SLURM}_ID/N"'
            )
        return (task - first) // step + 1, count
    if INDEX in environment:
        if COMPLETIONS not in environment:
            raise UsageError(
                f"--part auto: {INDEX} is set but not {COMPLETIONS}, which Kubernetes does not set; add it to the "
                "container's env with the value of spec.completions"
            )
        index, count = _number(environment, INDEX), _number(environment, COMPLETIONS)
        if not index < count:
            raise UsageError(f"--part auto: {INDEX} is {index} and {COMPLETIONS} {count}; the index must be less")
        return index + 1, count
    raise UsageError(
        f"--part auto: neither {SLURM}_ID (a Slurm array) nor {INDEX} (a Kubernetes indexed job) is set; give the "
        "part: --part I/N"
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not re.fullmatch(r"\d{1,9}", value):
        raise UsageError(f"--part auto: {name} is {value!r}, not a number; give the part: --part I/N")
    return int(value)


def check_part_options() -> None:
    """Refuse options whose work `qdq finish` does.

    Raises:
        UsageError: names the option.
    """
    given = given_parameters()
    if any(parameter.name == "dask" for parameter in given):
        raise UsageError("--dask and --part are two ways to share the work; give one of them")
    for parameter in given:
        if parameter.name in (*LAST_STEP, *WHOLE):
            advice = "give it to qdq finish, or leave out --part" if parameter.name in LAST_STEP else "leave out one"
            raise UsageError(f"{parameter.opts[0]} is not for a part; {advice}")


def run_part(call: Call, part: tuple[int, int], plans: Sequence[Plan], request: Request, tree: "OutputTree") -> None:
    """Make the shards of one part."""
    from qdqcli.run.execute import Job
    from qdqcli.run.journal import CommandLine
    from qdqcli.run.parts import Part, execute_part
    from qdqcli.run.shard import check_unsigned

    own = Part(*part)
    indices = own.choose([plan.shard.output_bytes for plan in plans])
    command = CommandLine(arguments=list(call.session.arguments[1:]), folder=str(Path.cwd()))
    num_found = 0
    if indices:
        chosen = [plans[i] for i in indices]
        for plan in chosen:
            check_unsigned(plan.shard)
        with tree, working(call, chosen, request, phase="quantizing") as (measuring, workers, _):
            job = Job(command="run", plans=plans, request=request, measuring=measuring)
            num_found = execute_part(job, indices, tree, workers, command, call.reading.void_dtype)
    _say_made(call.session, own, len(indices), num_found, tree)


def _say_made(session: Session, part: "Part", num_files: int, num_found: int, tree: "OutputTree") -> None:
    before = f", {num_found} of them before" if num_found else ""
    finish = show_command(["qdq", "finish", str(tree.output)])
    session.tell(
        f"part {part}: {counted(num_files, 'file')} made{before}, in {duration(perf_counter() - session.began)}; when "
        f"all parts are done: {finish}"
    )


def given_command(output: Path) -> "CommandLine":
    """Return the command line of the parts of OUTPUT.

    Raises:
        UsageError: there are none.
    """
    from qdqcli.output.tree import output_paths
    from qdqcli.run.journal import command_of

    path, partial = output_paths(output)
    command = command_of(partial)
    if command is None:
        if path.exists():
            raise UsageError(f"{show_path(output)}: exists, and no parts are left to finish; it was finished before")
        raise UsageError(
            f"{show_path(output)}: there is no run in parts to finish; run the parts first: qdq run INPUT -o "
            f"{show_path(output)} --part I/N"
        )
    return command
