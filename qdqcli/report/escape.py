r"""Escaping of untrusted text (tensor names, files, reasons): one function per format.

All begin with `visible`: a character without a glyph of its own is written as a Python escape (`\n`, `\x1b`, `\u202e`),
so that names cannot move the cursor, change the text direction or start a line. Two names can then look alike (a
newline and the two characters `\n`); JSON, which is not escaped beyond its own rules, tells them apart.
"""

from collections.abc import Callable, Iterable, Iterator
from json import JSONEncoder, dumps
from re import compile as compile_regex
from re import findall

from qdqcli.escape import without_commands

NO_NAME = "(no name)"
"""Placeholder for an empty name, which the format allows."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that start a formula, half and full width (TAB and CR are escaped). Source: OWASP, CSV Injection."""

_WORD = compile_regex(r"[A-Za-z0-9]+([ .+_-][A-Za-z0-9]+)*")
"""Words and numbers without markup in any format: a single underscore within a word is literal in Markdown."""

TIMES = "\N{MULTIPLICATION SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"
_SYMBOLS = str.maketrans({TIMES: "x", ARROW: "->", "…": "...", "─": "-"})


def visible(text: str, *, ascii_only: bool = False) -> str:
    """Write characters that do not print, and with `ascii_only` those beyond ASCII, as backslash escapes."""
    if text.isprintable() and (not ascii_only or text.isascii()):
        return text
    return "".join(
        char if char.isprintable() and (not ascii_only or char.isascii()) else _escaped(char) for char in text
    )


def terminal(text: str, *, ascii_only: bool = False) -> str:
    """Escape text for a terminal or a CI log.

    CI systems take a line that starts with `::` (GitHub), or `##vso[` and `##teamcity[` anywhere in it, for a command
    to them: both pairs are broken up.
    """
    return without_commands(visible(text, ascii_only=ascii_only)) or NO_NAME


def json_text(value: object, *, indent: int | None = None) -> str:
    r"""Return strict JSON in ASCII; the second of two `#` is escaped, as in `##vso[`.

    Lossless, lone surrogates included. A `#` occurs in strings only.
    """
    return dumps(value, allow_nan=False, indent=indent).replace("##", "#\\u0023")


def json_pieces(value: object, *, indent: int | None = None) -> Iterator[str]:
    """Yield the text of `json_text` in pieces, one per value."""
    pieces = JSONEncoder(allow_nan=False, indent=indent).iterencode(value)
    return (piece.replace("##", "#\\u0023") for piece in pieces)


def csv_cell(text: str, *, ascii_only: bool = False) -> str:
    """Escape text for a CSV cell, before quoting: prefixes an apostrophe where a spreadsheet would calculate.

    Also before `::`, since the first cell starts a line, see `terminal`.
    """
    shown = visible(text, ascii_only=ascii_only).replace("##", "#\\x23")
    return f"'{shown}" if shown.startswith((*_FORMULA_STARTS, "::")) else shown


def markdown(text: str, *, ascii_only: bool = False) -> str:
    r"""Return text as a code span: nothing in it is HTML, emphasis, a link or a mention.

    A backslash before a pipe, where renderers of tables disagree, is written `\x5c`.
    """
    shown = without_commands(visible(text, ascii_only=ascii_only)).replace("\\|", "\\x5c|")
    if not shown:
        return NO_NAME
    fence = "`" * (max(map(len, findall("`+", shown)), default=0) + 1)
    # A span loses a space at each end if it has both (and more than spaces), and cannot start or end with a backtick.
    pad = " " if shown.strip(" ") and (shown[0] in "` " or shown[-1] in "` ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def word(text: str, quote: Callable[[str], str]) -> str:
    """Return text that should be a word of ours, a date or a number: unchanged if it looks like one, else quoted."""
    return text if _WORD.fullmatch(text) else quote(text)


def markdown_cell(text: str) -> str:
    """Escape finished Markdown for a table cell: tables are split at pipes first, even within code spans."""
    return text.replace("|", "\\|")


def shorten(text: str, length: int, *, ellipsis: str = "…", head: int | None = None) -> str:
    """Cut out the middle so that at most `length` characters are left; `head` (default: half) are from the start."""
    if len(text) <= length:
        return text
    kept = max(length - len(ellipsis), 1)
    head = min(kept // 2 if head is None else head, kept)
    return text[:head] + ellipsis + text[len(text) - (kept - head) :]


def ascii_symbols(text: str) -> str:
    """Replace our own symbols by ASCII: `TIMES`, `…`, rules."""
    return text.translate(_SYMBOLS)


def finished(lines: Iterable[str], *, ascii_only: bool) -> Iterator[str]:
    """Yield lines of a report with their ends, our own symbols replaced where only ASCII is allowed."""
    return ((ascii_symbols(line) if ascii_only else line) + "\n" for line in lines)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
