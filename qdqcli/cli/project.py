"""`qdq.toml` beneath the command line: what the options leave out."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import click

from qdqcli.cli.call import Call, Function
from qdqcli.cli.option_sources import given_parameters, is_given
from qdqcli.cli.session import Session
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.gate.project import PROJECT_FILE, find_project, read_project
from qdqcli.recipe.request import Settings

NO_FILE = "none"


def project_inputs(function: Function) -> Function:
    """Add INPUT..., which a project file may name, and --config."""
    config = click.option(
        "--config", type=click.Path(), metavar="FILE", show_envvar=True,
        help="Take what the command line leaves out from this file; none: from no file. By default, without INPUT, "
        "from the nearest qdq.toml, or pyproject.toml with [tool.qdq].")  # fmt: skip
    return click.argument("inputs", metavar="[INPUT...]", nargs=-1, type=click.Path(readable=False))(config(function))


def model_of_project(session: Session) -> str:
    """Return the only model that the project file names.

    Raises:
        UsageError: there is no such file, or it names several or none.
    """
    path = find_project()
    models = read_project(path).models if path is not None else ()
    if path is None or len(models) != 1:
        raise UsageError(f"patterns are written for the tensors of a model: give MODEL, or name one in {PROJECT_FILE}")
    session.note(f"{show_path(path)}: model {models[0]!r}")
    return models[0]


def with_project(call: Call, *, is_gate: bool = False, reports_tensors: bool = True) -> Call:
    """Return the call with inputs, settings and reports completed by the project file, which the session then has.

    For calls that need it; a gate always asks, for its budget, with the settings that belong to it. INPUT takes the
    place of its model and reports, each option that of its key. Its reports are those of commands that measure tensors.

    Raises:
        UsageError: there is neither INPUT nor a project file, or the file is malformed.
    """
    inputs, settings, report = call.inputs, call.settings, call.report
    is_stored = is_given("report_in")
    is_bare = not inputs and not is_stored
    is_named = any(parameter.name == "config" for parameter in given_parameters())
    needs_budget = is_gate and not is_given("budget")
    name = call.config or None  # an empty variable names no file
    path = None
    if name != NO_FILE and (is_bare or is_named or needs_budget):
        path = find_project() if name is None else Path(name)
    if path is None:
        if is_bare:
            message = f"give INPUT, or a {PROJECT_FILE} that names the model, which 'qdq init MODEL' writes"
            click.get_current_context().fail(message)
        return call
    project = read_project(path)
    has_budget = project.budget is not None or project.budget_file is not None
    if not (is_bare or is_named or has_budget):
        return call
    taken = []
    if is_bare:
        if not project.models:
            raise UsageError(f'{show_path(path)}: names no model; add model = "FOLDER", or give INPUT')
        inputs = tuple(project.models)
        taken.append(f"model {', '.join(inputs)!r}")
    if is_given("recipe"):
        project = replace(project, settings=None)
    if not is_stored:
        found: Settings = {"recipe": project.recipe, "presets": project.presets, "ranges_file": project.ranges}
        added = [key for key, value in found.items() if value and key in settings and not is_given(key)]
        settings = cast(Settings, {**settings, **{key: value for key, value in found.items() if key in added}})
        taken += [key.partition("_")[0] for key in added]
        if project.settings is not None:
            taken.append("settings")
    if is_gate and not is_given("budget") and has_budget:
        taken.append("budget")
    if is_bare and reports_tensors and project.reports and not is_given("reports"):
        report = replace(report, reports=tuple(project.reports))
        taken.append("reports")
    call.session.project = project
    call.session.note(f"{show_path(path)}: {', '.join(taken) or 'nothing for this command'}")
    return replace(call, inputs=inputs, settings=settings, report=report)
