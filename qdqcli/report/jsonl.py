"""JSON lines report, for streams and big checkpoints, in the checkpoint's order.

The first line is the head (`schema_version`, `tool`, `command`, `inputs`, `settings`), then comes one line per tensor
(an entry of `tensors` in the JSON report), the last line is `{"summary": {...}}`, with `verdict` in it where a budget
was given and `verification` where the output was read back. `--sort` and `--top` do not apply.
"""

from collections.abc import Iterator

from qdqcli.report.escape import json_pieces, json_text
from qdqcli.report.json import row_pieces
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult, header_to_json, judged_to_json, summary_to_json


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """Yield head, tensors and summary, a line each."""
    yield json_text(header_to_json(run, run.version)) + "\n"
    for row in run.rows:
        yield from row_pieces(row)
        yield "\n"
    yield from json_pieces({"summary": summary_to_json(run)} | judged_to_json(run))
    yield "\n"
