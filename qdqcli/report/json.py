"""The report as one JSON document, schema_version 1: the lossless form, in the checkpoint's order.

Strict JSON in ASCII, one line per tensor, so that two reports can be compared with `diff`. `--sort` and `--top` do not
apply.
"""

from collections.abc import Iterator

from qdqcli.report.escape import json_text
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult, header_to_json, judged_to_json, row_to_json, summary_to_json


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """What `to_json` holds, tensor by tensor."""
    head = header_to_json(run, run.version) | {"summary": summary_to_json(run)}
    yield "{\n"
    for key, value in head.items():
        text = json_text(value, indent=2).replace("\n", "\n  ")
        yield f"  {json_text(key)}: {text},\n"
    yield '  "tensors": ['
    for index, row in enumerate(run.rows):
        yield f"{',' if index else ''}\n    {json_text(row_to_json(row))}"
    yield "\n  ]"
    for key, value in judged_to_json(run).items():
        text = json_text(value, indent=2).replace("\n", "\n  ")
        yield f",\n  {json_text(key)}: {text}"
    yield "\n}\n"
