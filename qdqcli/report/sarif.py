"""SARIF 2.1.0 report, for GitHub's code scanning and for editors: a result for each violation, worst first.

A result points to the line of its limit in the budget, or to the input without a budget; a tensor is a logical
location, and its file a related one. Source: OASIS, Static Analysis Results Interchange Format 2.1.0; limits:
docs.github.com, SARIF support for code scanning.
"""

from collections.abc import Iterator
from pathlib import PurePath
from urllib.parse import quote

from qdqcli.report.escape import json_pieces, shorten, visible
from qdqcli.report.findings import Finding, findings, fingerprints
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from qdqcli.stats.metrics import METRICS, Better, Metric
from qdqcli.tensors.note import note_to_json

MAX_RESULTS = 5000
"""Maximum results of a run that GitHub shows; it refuses 25,000."""
_MAX_TEXT = 1000
_MAX_NAMES = 10
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_OP = "https://www.tensorflow.org/api_docs/python/tf/raw_ops/QuantizeAndDequantizeV4"
_PAGES = {
    "sqnr_db": "https://en.wikipedia.org/wiki/Signal-to-quantization-noise_ratio",
    "mse": "https://en.wikipedia.org/wiki/Mean_squared_error",
    "rmse": "https://en.wikipedia.org/wiki/Root_mean_square_deviation",
    "mean_abs_error": "https://en.wikipedia.org/wiki/Mean_absolute_error",
    "cosine_similarity": "https://en.wikipedia.org/wiki/Cosine_similarity",
}
"""Rule -> a page that defines it; other rules link to the op's page."""
RULES = {
    "missing": ("A tensor of the baseline is not in the run",
                "Restore the tensor, or write a new baseline with qdq check --write-baseline."),
    "unexpected": ("A tensor of the run is not in the baseline",
                   "Write a new baseline with qdq check --write-baseline if the tensor is meant to be there."),
    "settings": ("Measured with other settings than the baseline",
                 "Measure with the settings of the baseline, or write a new one with qdq check --write-baseline."),
    "failed": ("A tensor could not be measured", "The message says why; the report has no figures for it."),
    "waiver": ("A waiver of the budget has expired",
               "Fix the tensors that it names, or renew it in [[waivers]] with another day."),
    "bits_per_weight": ("Storage bits per element", "Codes and scales at the settings, divided by the elements."),
    "incomplete": ("Shards of a checkpoint are missing", "Download the checkpoint again; check Git LFS."),
    "stale": ("A whole checkpoint stands beside the shards of one", "Remove the one that is not meant."),
    "min_quantized": ("Less of the checkpoint is measured than the budget asks for",
                      "See which tensors the report skips, and why; [structure] min_quantized is the limit."),
    "min_packed": ("Fewer weights are packed than the budget asks for",
                   "The report says which are left in float or lost; [structure] min_packed is the limit."),
    "max_bits_per_weight": ("Quantized weights take more bits than the budget allows",
                            "Use fewer bits or larger groups; [structure] max_bits_per_weight is the limit."),
    "forbid": ("A tensor is quantized that must not be",
               "Leave it in float with --exclude or a rule with skip; [structure] forbid names it."),
}  # fmt: skip
"""Rules other than metrics: problem and remedy."""


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """Yield the log of one run."""
    found = list(findings(run, with_waived=True))
    shown = found[:MAX_RESULTS]
    rules = sorted({finding.rule for finding in shown})
    driver = {
        "name": "qdq",
        "version": run.version,
        "rules": [_rule(name) for name in rules],
    }
    properties: dict[str, object] = {"left_out": len(found) - len(shown)} if len(shown) < len(found) else {}
    if run.notes:
        properties["notes"] = [note_to_json(note) for note in run.notes]
    fallback = next(iter(run.inputs), "qdq")
    log: dict[str, object] = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "results": [
                    _result(finding, key, rules, fallback)
                    for finding, key in zip(shown, fingerprints(shown), strict=True)
                ],
                "columnKind": "unicodeCodePoints",
                **({"properties": properties} if properties else {}),
            }
        ],
    }
    yield from json_pieces(log, indent=1)
    yield "\n"


def _rule(name: str) -> dict[str, object]:
    if name in RULES:
        short, text = RULES[name]
    elif name in METRICS:
        metric = METRICS[name]
        short, text = f"{metric.title}: {metric.formula}", _metric_help(metric)
    else:  # a rule of a stored report from a later version
        short, text = name, "The message says what is wrong."
    page = _PAGES.get(name, _OP)
    return {
        "id": name,
        "shortDescription": {"text": short},
        "fullDescription": {"text": f"{short}."},
        "help": {"text": f"{text} See {page}", "markdown": f"{text}\n\n[Definition]({page})"},
        "helpUri": page,
        "defaultConfiguration": {"level": "error"},
    }


def _metric_help(metric: Metric) -> str:
    better = "" if metric.better is Better.NEITHER else f" Better when {metric.better}."
    return (
        f"{metric.name} is {metric.formula}; x is the weight, y the quantized and dequantized weight, e = y - x."
        f"{better} Raise it with more bits, smaller groups or another range estimator, leave the tensor in float, "
        "or change the limit in the budget."
    )


def _result(finding: Finding, key: str, rules: list[str], fallback: str) -> dict[str, object]:
    """Return a result. GitHub requires a physical location in each, and tells alerts apart by the hash only."""
    file, line = finding.location
    location: dict[str, object] = {"physicalLocation": _physical(fallback if file is None else file, line)}
    names = [finding.tensor] if finding.tensor is not None else list(finding.tensors[:_MAX_NAMES])
    if names:
        location["logicalLocations"] = [
            {"fullyQualifiedName": shorten(visible(name), _MAX_TEXT), "kind": "variable"} for name in names
        ]
    result: dict[str, object] = {
        "ruleId": finding.rule,
        "ruleIndex": rules.index(finding.rule),
        "level": "error" if finding.is_error else "warning",
        "message": {"text": shorten(finding.message, _MAX_TEXT)},
        "locations": [location],
        "partialFingerprints": {"primaryLocationLineHash": key, "qdq/v2": key},
    }
    if finding.file is not None and finding.file != file:
        input_location = {"id": 1, "physicalLocation": _physical(finding.file, 1), "message": {"text": "the input"}}
        result["relatedLocations"] = [input_location]
    if finding.justification is not None:
        text = shorten(visible(finding.justification), _MAX_TEXT)
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": text}]
    return result


def _physical(file: str, line: int) -> dict[str, object]:
    return {"artifactLocation": {"uri": uri_of(file)}, "region": {"startLine": line}}


def uri_of(file: str) -> str:
    """Return a relative path as the URI reference that code hosts want; an absolute one as file:///."""
    path = quote(PurePath(file).as_posix().encode("utf-8", "backslashreplace"))
    return f"file://{path}" if path.startswith("/") else path
