"""`--recipe` and `--preset`: recipes beneath the options of the command line."""

from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from qdqcli.cli.call import Function
from qdqcli.cli.environment import SHARED, is_set
from qdqcli.cli.help import completing
from qdqcli.cli.session import Session
from qdqcli.recipe import keys
from qdqcli.recipe.preset import PRESETS, check_preset, preset, read_named
from qdqcli.recipe.request import OptionSources, Settings, merge_options


def recipe_options(function: Function) -> Function:
    """Add the options for settings by tensor, from files."""
    preset_option = click.option(
        "--preset", "presets", multiple=True, type=check_preset, metavar="NAME",
        shell_complete=completing(lambda: PRESETS),
        help=f"Take a recipe that comes with qdq, under --recipe: {', '.join(PRESETS)} leaves norms, biases, "
        "embeddings, output heads and routers in float. Repeatable; 'qdq recipe show NAME' prints it.")  # fmt: skip
    recipe_option = click.option(
        "--recipe", type=click.Path(path_type=Path), metavar="FILE",
        help="Take settings by tensor from this TOML or JSON file: its rules override options, which override its "
        "[defaults].")  # fmt: skip
    return recipe_option(preset_option(function))


def option_sources_of(options: Settings, session: Session) -> OptionSources:
    """Read the recipes of the options and of the project file, and merge the options over them and over a scheme.

    Raises:
        UsageError: a recipe is malformed.
    """
    recipe, names = options.get("recipe"), options.get("presets", ())
    sources = [*map(preset, names), *([] if recipe is None else [read_named(recipe)])]
    if session.project is not None and session.project.settings is not None:
        sources.append(session.project.settings)
        recipe = session.project.path
    for source in sources:
        session.note(*source.notes)
    values: Mapping[str, object] = options
    names_of_settings = (*keys.SETTINGS, *keys.SELECTION, "ranges_file")
    given = {key: values[key] for key in names_of_settings if key in values and is_given(key)}
    flags = {key: _flag(key, value) for key, value in given.items()}
    return merge_options(options, sources, given, flags, presets=names, recipe=recipe)


def is_given(name: str) -> bool:
    """Tell whether the call gives a parameter, on the command line or in the environment."""
    return click.get_current_context().get_parameter_source(name) not in (None, ParameterSource.DEFAULT)


def given_parameters() -> list[click.Parameter]:
    """Return the parameters that the call gives, in the order of the command's, without those for all commands."""
    context = click.get_current_context()
    return [
        parameter
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        or (parameter.name not in SHARED and is_set(parameter, context))
    ]


def _flag(key: str, value: object) -> str:
    """Return the option's spelling on the command line: `--num-bits`, `--unsigned-input`."""
    for parameter in click.get_current_context().command.params:
        if parameter.name == key:
            return parameter.secondary_opts[0] if value is False and parameter.secondary_opts else parameter.opts[0]
    raise KeyError(key)
