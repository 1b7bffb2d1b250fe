"""`qdq help`: the help of a command, or a page of the manual."""

import sys
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

import click

from qdqcli.cli.help import Command, completing
from qdqcli.cli.session import Session
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_command
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.system_error import blame_output


def topics() -> dict[str, str]:
    """Return page of the manual -> title, in alphabetical order."""
    folder = files("qdqcli").joinpath("docs")
    pages = sorted(page.name for page in folder.iterdir() if page.name.endswith(".md")) if folder.is_dir() else []
    return {page.removesuffix(".md"): _read(page).partition("\n")[0].removeprefix("# ") for page in pages}


def page_of(topic: str) -> str:
    """Return the page as Markdown."""
    return _read(f"{topic}.md")


def wrapped(page: str, width: int) -> str:
    """Return a page whose prose and rows of tables fit a terminal; headings and blocks of code stay as they are."""
    found: list[str] = []
    prose: list[str] = []
    in_code = False

    def end_paragraph() -> None:
        if prose:
            indent = "  " if prose[0][0] in "-|" else ""
            text = " ".join(map(str.strip, prose))
            found.append(fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))
            prose.clear()

    for line in page.splitlines():
        is_fence = line.startswith("```")
        if in_code or is_fence or not line or line[0] in "#<":
            end_paragraph()
            found.append(line)
        else:
            if line.startswith(("- ", "| ")):
                end_paragraph()
            prose.append(line)
        in_code ^= is_fence
    end_paragraph()
    return "\n".join(found) + "\n"


def _read(page: str) -> str:
    return files("qdqcli").joinpath("docs", page).read_text(encoding="utf-8")


def _names() -> list[str]:
    """Return the topics and the commands."""
    from qdqcli.cli.main import COMMANDS  # late: it imports this file for the command

    return [*topics(), *COMMANDS]


def _write_man(ctx: click.Context, folder: Path) -> None:
    """Write pages for `man`, over those of another version.

    Raises:
        OutputError: the folder, or a page, cannot be written.
    """
    from qdqcli.cli.man import pages  # late: seldom asked for

    with blame_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = list(pages(ctx))
    for name, text in found:
        write_file(folder / name, [text.encode()])
    ctx.ensure_object(Session).tell(f"wrote {len(found)} pages; read one: {show_command(['man', f'{folder}/qdq.1'])}")


@click.command(
    "help",
    cls=Command,
    epilog="""\b
Examples:
  qdq help
  qdq help stats
  qdq help recipe lint
  qdq help --man ~/.local/share/man/man1""",
)
@click.argument("words", metavar="[COMMAND|TOPIC]", nargs=-1, shell_complete=completing(_names))
@click.option(
    "--man",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the help of all commands as pages for man into FOLDER instead.",
)
@click.pass_context
def manual(ctx: click.Context, words: tuple[str, ...], folder: Path | None) -> None:
    """Show the help of a command or a page of the manual; without a name, list both."""
    parent = ctx.parent or ctx
    group = parent.command
    if folder is not None:
        if words:
            raise UsageError("--man writes the pages of all commands; leave out the name, or --man")
        _write_man(parent, folder)
        return
    if not words:
        pages = topics()
        width = max(map(len, pages), default=0)
        listed = "".join(f"  {topic:<{width}}  {title}\n" for topic, title in pages.items())
        write(f"{parent.get_help()}\n" + (f"\nTopics (qdq help TOPIC):\n{listed}" if listed else ""))
        return
    name, *rest = words
    if not rest and name in topics():
        page = page_of(name)
        write(wrapped(page, get_terminal_size().columns) if sys.stdout.isatty() else page)
        return
    path, context = "qdq", parent
    for word in words:
        command = group.get_command(context, word) if isinstance(group, click.Group) else None
        if command is None:
            known = [*topics(), *(group.list_commands(context) if isinstance(group, click.Group) else ())]
            nearest = get_close_matches(word, known, n=2) or known
            raise UsageError(f"there is no command or topic '{escape_name(word)}'; try {', '.join(nearest)}")
        group, path = command, f"{path} {word}"
        context = click.Context(command, info_name=word, parent=context)
    write(context.get_help() + "\n")
