"""Files that a gate makes from measurements: none replaces a file of another kind, or one that changed."""

import os
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from pathlib import Path

from qdqcli.errors import InputError, QdqError, UsageError
from qdqcli.escape import show_path
from qdqcli.gate.budget import parse_budget
from qdqcli.recipe.document import read_text
from qdqcli.recipe.file import read_recipe
from qdqcli.result.read import read_report
from qdqcli.tensors.input_file import MAX_TEXT_BYTES, read_file
from qdqcli.tensors.output_file import write_file


def rewrite(path: Path, before: str, after: str) -> None:
    """Replace a text that was read before.

    Raises:
        UsageError: the file has changed since.
    """
    try:
        data = read_file(path, MAX_TEXT_BYTES)
    except InputError:
        data = b""
    mark = BOM_UTF8 if data.startswith(BOM_UTF8) else b""
    if data != mark + before.encode():
        raise UsageError(f"{show_path(path)}: changed after it was read; nothing was tightened, run the command again")
    write_file(path, [mark + after.encode()])


def check_replaceable(path: Path, is_kind: Callable[[Path], str | None], *, is_allowed: bool) -> None:
    """Check that a file is new, or one of the same kind that may be replaced.

    Raises:
        UsageError: it is not.
    """
    if not os.path.lexists(path):
        return
    reason = is_kind(path)
    if reason is not None:
        raise UsageError(f"{show_path(path)}: exists and is not replaced: {reason}; choose another name")
    if not is_allowed:
        raise UsageError(f"{show_path(path)}: exists; choose another name or pass --overwrite to replace it")


def is_report(path: Path) -> str | None:
    """Return the reason why a file is not a JSON report; None where it is one."""
    return _reason("a report", read_report, path)


def is_recipe(path: Path) -> str | None:
    """Return the reason why a file is not a recipe; None where it is one."""
    return _reason("a recipe", read_recipe, path)


def is_budget(path: Path) -> str | None:
    """Return the reason why a file is not a budget alone; None where it is one."""

    def read(path: Path) -> None:
        if parse_budget(read_text(path, "a budget is a TOML file"), path).is_idle:
            raise UsageError("it sets no limit")

    return _reason("a budget", read, path)


def _reason(what: str, read: Callable[[Path], object], path: Path) -> str | None:
    try:
        read(path)
    except QdqError as error:
        return f"it is not {what} ({error})"
    return None


def without(
    arguments: Sequence[str], *, values: Sequence[str] = (), flags: Sequence[str] = (), added: Sequence[str] = ()
) -> list[str]:
    """Return command line arguments without some options, and with others, before a `--` that ends the options."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in values:
            next(rest, None)
        elif argument not in flags and argument.partition("=")[0] not in values:
            kept.append(argument)
    end = kept.index("--") if "--" in kept else len(kept)
    return [*kept[:end], *added, *kept[end:]]
