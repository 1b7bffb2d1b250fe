"""`qdq.toml` beneath the command line: what the options leave out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from qdqcli.cli.option_sources import given_parameters, is_given
from qdqcli.cli.session import Session
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.gate.project import PROJECT_FILE, find_project, read_project

Function = TypeVar("Function", bound=Callable[..., Any])
NO_FILE = "none"


def project_inputs(function: Function) -> Function:
    """Add INPUT..., which a project file may name, and --config."""
    config = click.option(
        "--config", type=click.Path(), metavar="FILE", show_envvar=True,
        help="Take what the command line leaves out from this file; none: from no file. By default, without INPUT, "
        "from the nearest qdq.toml, or pyproject.toml with [tool.qdq].")  # fmt: skip
    return click.argument("inputs", metavar="[INPUT...]", nargs=-1, type=click.Path(readable=False))(config(function))


def with_project(
    inputs: tuple[str, ...],
    options: dict[str, Any],
    session: Session,
    *,
    is_gate: bool = False,
    reports_tensors: bool = True,
) -> tuple[str, ...]:
    """Complete the options by the project file, and return the inputs.

    It is taken where no INPUT is given, or --config is; by a gate also for its budget, with the settings that belong to
    it. INPUT takes the place of its model and reports, each option that of its key. Its reports are those of commands
    that measure tensors.

    Raises:
        UsageError: there is neither INPUT nor a project file, or the file is malformed.
    """
    is_bare = not inputs and options.get("report_in") is None
    is_named = any(parameter.name == "config" for parameter in given_parameters())
    needs_budget = is_gate and options["budget"] is None
    name = options["config"] or None  # an empty variable names no file
    options["config"] = None
    path = None
    if name != NO_FILE and (is_bare or is_named or needs_budget):
        path = find_project() if name is None else Path(name)
    if path is None:
        if is_bare:
            message = f"give INPUT, or a {PROJECT_FILE} that names the model, which 'qdq init MODEL' writes"
            click.get_current_context().fail(message)
        return inputs
    project = read_project(path)
    has_budget = project.budget is not None or project.budget_file is not None
    if not (is_bare or is_named or has_budget):
        return inputs
    options["config"] = path
    taken = []
    if is_bare:
        if not project.models:
            raise UsageError(f'{show_path(path)}: names no model; add model = "FOLDER", or give INPUT')
        inputs = tuple(project.models)
        taken.append(f"model {', '.join(inputs)!r}")
    if is_given("recipe"):
        project = replace(project, settings=None)
    if options.get("report_in") is None:
        for key, value in (("recipe", project.recipe), ("presets", project.presets), ("ranges_file", project.ranges)):
            if value and key in options and not is_given(key):
                options[key] = value
                taken.append(key.partition("_")[0])
        if project.settings is not None:
            taken.append("settings")
    if is_gate and not is_given("budget") and has_budget:
        options["budget"] = project.budget_file
        taken.append("budget")
    if is_bare and reports_tensors and project.reports and not is_given("reports"):
        options["reports"] = tuple(project.reports)
        taken.append("reports")
    session.project = project
    session.note(f"{show_path(path)}: {', '.join(taken) or 'nothing for this command'}")
    return inputs
