"""JSON report, schema_version 1: one lossless document, or lines of JSON, in the checkpoint's order.

Strict JSON in ASCII, one line per tensor, so that two reports can be compared with `diff`. `--sort` and `--top` do not
apply.
"""

from collections.abc import Iterable, Iterator, Mapping

from qdqcli.report.escape import json_pieces, json_text
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import (
    Row,
    RunResult,
    TensorResult,
    header_to_json,
    judged_to_json,
    row_to_json,
    summary_to_json,
)


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """Yield the content of `to_json`, tensor by tensor."""
    head = header_to_json(run, run.version) | {"summary": summary_to_json(run)}
    yield from document(head, map(row_pieces, run.rows), judged_to_json(run))


def render_lines(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """Yield lines of JSON, for streams and big checkpoints: the head, a line for each tensor, the summary.

    The head has `schema_version`, `tool`, `command`, `inputs`, `settings`; the last line is `{"summary": {...}}`, with
    `verdict` where a budget was given and `verification` where the output was read back.
    """
    yield json_text(header_to_json(run, run.version)) + "\n"
    for row in run.rows:
        yield from row_pieces(row)
        yield "\n"
    yield from json_pieces({"summary": summary_to_json(run)} | judged_to_json(run))
    yield "\n"


def document(head: Mapping[str, object], rows: Iterable[Iterable[str]], tail: Mapping[str, object]) -> Iterator[str]:
    """Yield a JSON object: the members of `head`, `tensors` with one line per row, the members of `tail`."""
    yield "{\n"
    for key, value in head.items():
        yield f"  {json_text(key)}: "
        yield from _indented(value)
        yield ",\n"
    yield '  "tensors": ['
    for index, pieces in enumerate(rows):
        yield f"{',' if index else ''}\n    "
        yield from pieces
    yield "\n  ]"
    for key, value in tail.items():
        yield f",\n  {json_text(key)}: "
        yield from _indented(value)
    yield "\n}\n"


def row_pieces(row: Row) -> Iterator[str]:
    """Yield the entry of a tensor; in pieces where it has channels, which may be hundreds of thousands."""
    channels = row.channels if isinstance(row, TensorResult) else None
    if not isinstance(row, TensorResult) or not channels:
        yield json_text(row_to_json(row))
        return
    yield f'{json_text(row_to_json(row._replace(channels=None)))[:-1]}, "channels": '
    for index, (name, values) in enumerate(channels.items()):
        yield f"{', ' if index else '{'}{json_text(name)}: {json_text(list(values))}"
    yield "}}"


def _indented(value: object) -> Iterator[str]:
    return (piece.replace("\n", "\n  ") for piece in json_pieces(value, indent=2))
