"""`qdq demo`: write a small checkpoint to try the commands on."""

import os
import shlex
import shutil
from pathlib import Path

import click

from qdqcli.cli.help import Command
from qdqcli.cli.options import verbosity_options
from qdqcli.cli.session import Session, pass_session
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.escape import escape, show_path
from qdqcli.report.number import counted, size_text
from qdqcli.tensors.storage import output_error, write_file

DEFAULT_FOLDER = "tiny-llama"
NEXT = (
    ("stats", "--scheme", "int4-g32"),
    ("sweep",),
    ("run", "-o", "{}-int8", "--scheme", "int8-channel"),
)
"""Commands to type next: words before and after the folder."""


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq demo
  qdq demo my-model""",
)
@click.argument("folder", metavar="[FOLDER]", default=DEFAULT_FOLDER, type=click.Path(path_type=Path))
@verbosity_options
@pass_session
def demo(session: Session, /, folder: Path) -> None:
    """Write a small checkpoint, a llama of two layers in BF16, and the commands to type next.

    FOLDER (tiny-llama by default) must not exist. Its weights are invented, with outlier channels and a dead one; the
    same bytes on every machine.
    """
    from qdqcli.tensors.sample import tiny_llama

    _check_new(folder)
    files = tiny_llama()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.qdq-partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        for name, content in files.items():
            session.interruption.check()
            write_file(partial / name, [content])
        partial.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = size_text(sum(map(len, files.values())))
    session.tell(f"wrote {show_path(folder)} ({counted(len(files), 'file')}, {size}); next:")
    name = str(folder) if not str(folder).startswith("-") else f"./{folder}"
    for command, *options in NEXT:
        words = ["qdq", command, name, *(option.format(name) for option in options)]
        write(f"  {escape(shlex.join(words))}\n")


def _check_new(folder: Path) -> None:
    if folder.is_symlink() or folder.exists():
        raise UsageError(f"{show_path(folder)}: exists; give the name of a new folder, or remove it")
