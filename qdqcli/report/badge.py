"""Badge: what was quantized, its SQNR and the verdict in one line, as an endpoint of shields.io.

Source: shields.io, Endpoint Badge: schemaVersion, label, message, color, isError.
"""

from collections.abc import Iterator

from qdqcli.report.escape import json_text
from qdqcli.report.number import metric_text, metric_title
from qdqcli.report.options import ReportOptions
from qdqcli.report.table import spec_text
from qdqcli.result.result import RunResult, TensorResult

LABEL = "quantization"


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """Yield the badge; a verdict colours it."""
    rows = list(run.quantized)
    color = "blue" if rows else "lightgrey"
    message = [settings_text(run, rows), _sqnr(run)] if rows else ["nothing measured"]
    badge: dict[str, object] = {"schemaVersion": 1, "label": LABEL}
    if run.verdict is not None:
        passed = run.verdict.passed
        color = ("yellow" if run.verdict.warnings else "brightgreen") if passed else "red"
        message.append("budget kept" if passed else "budget exceeded")
        badge |= {"isError": True} if not passed else {}
    yield json_text(badge | {"message": ", ".join(message), "color": color}, indent=2) + "\n"


def settings_text(run: RunResult, rows: list[TensorResult]) -> str:
    """Return `int4 g128` where all tensors have the same settings, else the mean of their bits."""
    found = {spec_text(row.spec, lambda _: "other") for row in rows if row.spec is not None}
    if len(found) == 1 and all(row.spec is not None for row in rows):
        return found.pop()
    bits = run.summary["bits_per_weight"]
    return "compared" if bits is None else f"{metric_text('bits_per_weight', bits)} {metric_title('bits_per_weight')}"


def _sqnr(run: RunResult) -> str:
    if run.is_unchanged:
        return "exact"
    value = run.summary["sqnr_db"]
    return "no SQNR" if value is None else f"{metric_text('sqnr_db', value)} dB"
