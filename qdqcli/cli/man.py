"""Manual pages in roff, made of the help texts: `qdq help --man FOLDER`.

Source: man-pages(7) for sections, groff_man(7) for macros.
"""

from collections.abc import Iterable, Iterator

import click

from qdqcli import __version__
from qdqcli.cli.help import Command
from qdqcli.errors import InputError, OutputError, UnavailableError, UsageError

EXIT_STATUS = (
    ("0", "Done."),
    ("1", "The budget said no, and nothing else."),
    (str(UsageError.exit_code), "Usage: options, selection, an output that exists."),
    (str(InputError.exit_code), "An input is missing, unreadable or malformed."),
    (str(OutputError.exit_code), "An output could not be written."),
    (str(UnavailableError.exit_code), "Something that was asked for is not installed, or does not work here."),
    ("70", "A bug; please report it."),
    ("129, 130, 143", "Interrupted by SIGHUP, SIGINT, SIGTERM."),
)


def pages(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the name of a file and its text, for a command and all commands below it."""
    yield f"{_name(ctx)}.1", "\n".join(_page(ctx)) + "\n"
    for name, command in _subcommands(ctx):
        yield from pages(click.Context(command, info_name=name, parent=ctx))


def _subcommands(ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            if command is not None:
                yield name, command


def _page(ctx: click.Context) -> Iterator[str]:
    command = ctx.command
    first, *paragraphs = (command.help or "").strip().split("\n\n")
    yield f'.TH "{_roff(_name(ctx).upper())}" 1 "" "qdq {__version__}" "qdq manual"'
    yield ".ad l"
    yield ".nh"
    yield ".SH NAME"
    yield f"{_roff(_name(ctx))} \\- {_text(first).rstrip('.')}"
    yield ".SH SYNOPSIS"
    yield f".B {_roff(ctx.command_path)}"
    yield _text(" ".join(command.collect_usage_pieces(ctx)))
    yield ".SH DESCRIPTION"
    yield _text(first)
    for paragraph in paragraphs:
        yield ".PP"
        yield _text(paragraph)
    yield from _epilog(command.epilog or "")
    yield from _commands(ctx)
    yield from _options(ctx)
    yield ".SH EXIT STATUS"
    yield from _list(EXIT_STATUS)
    yield ".SH SEE ALSO"
    others = [ctx.parent] if ctx.parent is not None else []
    names = [*map(_name, others), *(f"{_name(ctx)}-{name}" for name, _ in _subcommands(ctx))]
    yield from (f".BR {_roff(name)} (1)," for name in names)
    yield "the manual, a page per topic:"
    yield ".B qdq help"


def _epilog(text: str) -> Iterator[str]:
    """Yield the examples, or the last words of the help."""
    title, _, examples = text.removeprefix("\b").strip().partition("\n")
    if title != "Examples:":
        yield from (".PP", _text(text)) if text else ()
        return
    yield ".SH EXAMPLES"
    yield ".nf"
    yield from (_roff(line.strip()) for line in examples.splitlines())
    yield ".fi"


def _commands(ctx: click.Context) -> Iterator[str]:
    found = [(f"{ctx.command_path} {name}", command.get_short_help_str(200)) for name, command in _subcommands(ctx)]
    if found:
        yield ".SH COMMANDS"
        yield from _list(found)


def _options(ctx: click.Context) -> Iterator[str]:
    command = ctx.command
    yield ".SH OPTIONS"
    if isinstance(command, Command):
        for title, options in command.grouped(ctx):
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                yield f".SS {_roff(title)}"
                yield from _list(records)
    else:
        yield from _list(record for o in command.get_params(ctx) if (record := o.get_help_record(ctx)) is not None)


def _list(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield ".TP"
        yield f".B {_roff(term)}"
        yield _text(text)


def _name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _text(text: str) -> str:
    return _roff(" ".join(text.split()))


def _roff(text: str) -> str:
    r"""Escape text: a backslash, hyphens that are typed, what would begin a request; let lines break after bars."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace("|", "|\\:")
    return f"\\&{shown}" if shown.startswith((".", "'")) else shown
