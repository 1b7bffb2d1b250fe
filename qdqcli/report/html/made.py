"""How a page's figures were made: the command to type again, the settings, the inputs."""

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import ceil

from qdqcli.report.command import command_of
from qdqcli.report.escape import shorten, visible
from qdqcli.report.html.markup import in_html, quote
from qdqcli.report.number import counted, size_text
from qdqcli.result.group import naming
from qdqcli.result.result import Row, RunResult, SkippedTensor
from qdqcli.tensors.tensor import DTYPES

MAX_WORD = 1000
"""Longest word of a command line; the middle of a longer one is cut out."""


def made(run: RunResult, options: Sequence[str] | None = (), measuring: Collection[str] | None = None) -> Iterator[str]:
    """Yield the section.

    `options` are those of the command beside the settings, None where no command is known; `measuring` names the
    settings that are options of every measuring command, by default all.
    """
    yield '<section class="made"><h2 id="made">How this was made</h2>\n<dl class="terms">'
    yield from (f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in _terms(run))
    yield "</dl>"
    if options is not None:
        own = {key: value for key, value in run.settings.items() if measuring is None or key in measuring}
        yield f"<pre><code>{code(command_of(replace(run, settings=own), run.command, options))}</code></pre>"
    yield f'<details><summary>All {len(run.settings)} settings</summary><dl class="facts">'
    for name, value in run.settings.items():
        yield f"<div><dt>{quote(name)}</dt><dd>{quote(_shown(value))}</dd></div>"
    yield "</dl></details>"
    digests = {} if run.verification is None else run.verification.digests
    if digests:
        yield f"<details><summary>SHA-256 of {counted(len(digests), 'written file')}</summary><ul class=digests>"
        yield from (f"<li><code>{quote(digest)}</code> {quote(name)}</li>" for name, digest in digests.items())
        yield "</ul></details>"
    yield "</section>"


def code(words: Sequence[str]) -> str:
    """Return a command line as HTML, quoted for a shell; a very long word is cut."""
    return in_html(shlex.join(shorten(visible(word), MAX_WORD) for word in words))


def bytes_of(row: Row) -> int:
    """Return the bytes of a tensor's data as stored; 0 for an unknown dtype."""
    known = DTYPES.get(row.source.dtype)
    return 0 if known is None else -(-known.bits * row.num_elements // 8)


_MAX_BITS = 1 << 63
"""More than any tensor has; a stored report may hold any number."""


def packed_bytes_of(row: Row) -> int:
    """Return the bytes of a tensor's codes and scales, or of its data where it is not quantized."""
    bits = None if isinstance(row, SkippedTensor) else row.stats["bits_per_weight"]  # also in a stored report
    return bytes_of(row) if bits is None else ceil(round(max(0, min(bits * row.num_elements, _MAX_BITS)), 3) / 8)


def _terms(run: RunResult) -> Iterator[tuple[str, str]]:
    yield "version", f"qdq {quote(run.version)}"
    if run.settings.get("recipe"):
        yield "recipe", quote(str(run.settings["recipe"]))
    if run.device is not None:
        yield "computed on", quote(run.device)
    input_of = naming("input", run.inputs)
    for name, own in groupby(run.rows, key=lambda row: input_of(row.source)):
        rows = list(own)
        files = len({row.source.file for row in rows})
        size = sum(map(bytes_of, rows))
        held = f"{counted(len(rows), 'tensor')} in {counted(files, 'file')}"
        yield quote(name), f"{held}, {size:,} bytes ({size_text(size)})"


def _shown(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return "; ".join(f"{key} = {_shown(one)}" for key, one in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
