"""`QDQ_*` variables: options from the environment, beneath the command line and above files.

`--num-bits` of `qdq stats` is QDQ_STATS_NUM_BITS, as click names them; what belongs to the machine (`SHARED`) also has
one name for all commands, QDQ_THREADS.
"""

import os
from collections.abc import Iterator
from difflib import get_close_matches

import click
from click.core import ParameterSource

from qdqcli.cli.session import Session
from qdqcli.errors import UsageError

PREFIX = "QDQ_"
SHARED = ("threads", "max_memory", "device", "config", "quiet", "verbose", "debug")
"""Options with one variable for all commands."""
OTHERS = ("QDQ_CACHE_DIR",)
"""Variables of no option."""
NEAR = 0.75
"""Similarity from which a name is taken for a misspelt one."""


def bind(command: click.Command, *words: str) -> None:
    """Give each option of a command its variables, and those of its subcommands theirs."""
    for option in command.params:
        is_shared = option.name in SHARED
        if isinstance(option, click.Option) and (is_shared or not option.is_eager):
            name = max(option.opts, key=len).lstrip("-")
            owners = (words, ()) if is_shared else (words,)
            option.envvar = [PREFIX + "_".join([*owner, name]).upper().replace("-", "_") for owner in owners]
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            bind(subcommand, *words, name)


def variables_of(option: click.Parameter) -> list[str]:
    """Return the names under which an option is looked up, the first that is set counts."""
    return [] if option.envvar is None else [option.envvar] if isinstance(option.envvar, str) else [*option.envvar]


def source_of(option: click.Parameter) -> str:
    """Return the variable that sets an option."""
    return next(name for name in variables_of(option) if os.environ.get(name))


def options_set(ctx: click.Context) -> Iterator[click.Option]:
    """Yield the options that the environment sets in this call."""
    for option in ctx.command.params:
        if isinstance(option, click.Option) and is_set(option, ctx):
            yield option


def is_set(option: click.Parameter, ctx: click.Context) -> bool:
    """Tell whether the environment sets an option in this call."""
    return ctx.get_parameter_source(option.name or "") is ParameterSource.ENVIRONMENT


def name_variable(error: UsageError, ctx: click.Context) -> None:
    """Begin the message of an error with the variable whose value could not be parsed, if it was one."""
    for option in options_set(ctx):
        if option.expose_value and option.name not in ctx.params:
            error.args = (f"{source_of(option)}: {error}",)


def take(session: Session, ctx: click.Context) -> None:
    """Tell what the environment sets, and add it to the session's command line; warn of misspelt variables."""
    found = [option for option in options_set(ctx) if option.name not in SHARED]
    if found:
        session.note(f"taken from the environment: {', '.join(map(source_of, found))}")
    depth = len(ctx.command_path.split()) - 1
    words = [word for option in found for word in _words(option, ctx)]
    session.arguments = [*session.arguments[:depth], *words, *session.arguments[depth:]]
    _warn_of_misspelt(session, ctx)


def _warn_of_misspelt(session: Session, ctx: click.Context) -> None:
    """Warn of variables that are nearly ours; those of other commands are left alone."""
    root = ctx.find_root()
    commands = root.command.list_commands(root) if isinstance(root.command, click.Group) else []
    known = [*OTHERS, *(name for option in ctx.command.params for name in variables_of(option))]
    own = PREFIX + "_".join([*ctx.command_path.split()[1:], ""]).upper()
    others = tuple(f"{PREFIX}{name.upper()}_" for name in commands)
    for name in sorted(os.environ):
        is_own = name.startswith(own)
        if not name.startswith(PREFIX) or name in known or (name.startswith(others) and not is_own):
            continue
        nearest = get_close_matches(name, known, n=1, cutoff=NEAR)
        if nearest or is_own:
            hint = f"did you mean {nearest[0]}?" if nearest else f"see '{ctx.command_path} --help'"
            session.warn(f"{name}: {ctx.command_path} has no option of this name; {hint}")


def _words(option: click.Option, ctx: click.Context) -> Iterator[str]:
    """Yield the option as the command line would give it."""
    text = os.environ[source_of(option)]
    if option.is_flag:
        is_on = click.BOOL.convert(text, option, ctx)
        yield from option.opts[-1:] if is_on else option.secondary_opts[-1:]
        return
    for value in option.type.split_envvar_value(text) if option.multiple else [text]:
        yield from (max(option.opts, key=len), value)
