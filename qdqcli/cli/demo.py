"""`qdq demo`: write a small checkpoint to try the commands on."""

import os
import shutil
from pathlib import Path

import click

from qdqcli.cli.help import Command
from qdqcli.cli.options import verbosity_options
from qdqcli.cli.session import Session, pass_session
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_command, show_path
from qdqcli.report.number import counted, size_text
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.remote_path import is_url
from qdqcli.tensors.system_error import blame_output

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
@click.argument("name", metavar="[FOLDER]", default=DEFAULT_FOLDER, type=click.Path())
@verbosity_options
@pass_session
def demo(session: Session, /, name: str) -> None:
    """Write a small checkpoint, a llama of two layers in BF16, and the commands to type next.

    FOLDER (tiny-llama by default) must not exist. Its weights are invented, with outlier channels and a dead one; the
    same bytes on every machine.
    """
    from qdqcli.tensors.sample import tiny_llama

    folder = _new_folder(name)
    files = tiny_llama()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.qdq-partial")
    try:
        with blame_output(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            for name, content in files.items():
                session.interruption.check()
                write_file(partial / name, [content])
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = size_text(sum(map(len, files.values())))
    session.tell(f"wrote {show_path(folder)} ({counted(len(files), 'file')}, {size}); next:")
    shown = str(folder) if not str(folder).startswith("-") else f"./{folder}"
    for command, *options in NEXT:
        words = ["qdq", command, shown, *(option.format(shown) for option in options)]
        write(f"  {show_command(words)}\n")


def _new_folder(name: str) -> Path:
    """Return the path of a folder that does not exist.

    Raises:
        UsageError: it exists, or is a URL.
        OutputError: the system does not take the name.
    """
    if is_url(name):
        raise UsageError(f"{escape_name(name)}: the sample is written to this computer; give the name of a new folder")
    folder = Path(name)
    with blame_output(folder):
        if folder.is_symlink() or folder.exists():
            raise UsageError(f"{show_path(folder)}: exists; give the name of a new folder, or remove it")
    return folder
