"""`qdq init`: write a project file, and print a job for CI."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import say_written, write_report
from qdqcli.cli.gate import parse_headroom
from qdqcli.cli.help import Command
from qdqcli.cli.measure import measure, open_inputs, plan_inputs
from qdqcli.cli.option_sources import is_given, recipe_options
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.gate.project import PROJECT_FILE, PYPROJECT, find_project, json_schema, parse_project
from qdqcli.gate.ratchet import Headroom
from qdqcli.gate.starter import project_text
from qdqcli.recipe.keys import SELECTION, SETTINGS, SHORT

DEFAULT_SCHEME = "int8-channel"
DEFAULT_MODEL = "model"
GITLAB = ".gitlab-ci.yml"
JOBS = {
    "github": """\
# .github/workflows/quantization.yml; qdq is a folder with its sources, e.g. a submodule
name: quantization
on: [push, pull_request]
jobs:
  quantization:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        with: { lfs: true, submodules: true }
      - uses: ./qdq/.github/actions/qdq-check
""",
    "gitlab": """\
# .gitlab-ci.yml; qdq is a folder with its sources, e.g. a submodule
quantization:
  image: python:3.12
  variables: { GIT_SUBMODULE_STRATEGY: recursive, QDQ_CACHE_DIR: $CI_PROJECT_DIR/.qdq-cache }
  cache: { key: qdq, paths: [.qdq-cache] }
  script:
    - pip install ./qdq
    - qdq check --report qdq.xml --report qdq.gitlab.json
  artifacts:
    when: always
    reports: { junit: qdq.xml, codequality: qdq.gitlab.json }
""",
}
"""CI -> a job that runs the gate."""


def _print_schema(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        write(json.dumps(json_schema(), indent=2) + "\n")
        context.exit()


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq init MODEL_FOLDER
  qdq init MODEL_FOLDER --scheme int4-g128 --exclude '*embed*'
  qdq init --schema""",
)
@click.argument("models", metavar="[MODEL...]", nargs=-1, type=click.Path(readable=False))
@click.option("--headroom", type=parse_headroom, default="0.5dB", show_default=True, metavar="X",
              help="Slack added to the limits that are written.")  # fmt: skip
@click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=_print_schema,
              help="Print the JSON schema of qdq.toml and exit.")  # fmt: skip
@opt.op_options
@opt.given_ranges_option
@recipe_options
@opt.selection_options
@opt.packed_option
@opt.work_options
@opt.verbosity_options
@pass_call()
def init(call: Call, /, models: tuple[str, ...], headroom: Headroom) -> None:
    """Write qdq.toml: model, settings and a budget that the model keeps; print a job for CI.

    MODEL is measured with the settings given (int8-channel by default), and the limits are what it has, less the
    headroom. Without MODEL nothing is measured. Then 'qdq check' alone is the gate.
    """
    _check_new()
    if not any(map(is_given, _KEYS.values())):
        call = replace(call, settings={**call.settings, "scheme": DEFAULT_SCHEME})
    values: Mapping[str, object] = call.settings
    given = {key: _plain(values[name]) for key, name in _KEYS.items() if is_given(name)}
    run = None
    if models:
        request = opt.request_of(call)
        run = measure(call, "stats", plan_inputs(call, open_inputs(call, models), request), request)
    text = project_text(models or [DEFAULT_MODEL], given or {"scheme": DEFAULT_SCHEME}, run, headroom)
    parse_project(text, Path(PROJECT_FILE))
    write_report(Path(PROJECT_FILE), [text], replaces=False)
    write(JOBS["gitlab" if os.path.lexists(GITLAB) else "github"])
    say_written(call, PROJECT_FILE)
    call.session.tell("next: qdq check" if models else f"next: name the model in {PROJECT_FILE}, then: qdq check")


_KEYS: Mapping[str, str] = {
    **{key: key for key in (*SHORT, *SETTINGS, *SELECTION)},
    "recipe": "recipe",
    "preset": "presets",
    "ranges": "ranges_file",
}
"""Key of the file -> parameter."""


def _plain(value: object) -> object:
    """Return the value of an option as the file has it."""
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _check_new() -> None:
    """Refuse to write beside a project file of the working folder.

    Raises:
        UsageError: there is one.
    """
    if os.path.lexists(PROJECT_FILE):
        raise UsageError(f"{PROJECT_FILE}: exists; edit it, or move it away")
    if find_project() == Path(PYPROJECT):
        raise UsageError(f"{PYPROJECT}: has [tool.qdq] already, which {PROJECT_FILE} would hide; edit it")
