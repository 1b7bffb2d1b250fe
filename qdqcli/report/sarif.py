"""SARIF 2.1.0, for GitHub's code scanning and for editors: a result for each violation, the worst first.

Locations are the files of the checkpoint; a tensor is a logical location in it. Source: OASIS, Static Analysis Results
Interchange Format 2.1.0; limits: docs.github.com, SARIF support for code scanning.
"""

from collections.abc import Iterator
from hashlib import sha256
from json import dumps
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from qdqcli.report.escape import json_text, shorten, visible
from qdqcli.report.findings import Finding, findings
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from qdqcli.stats.metrics import METRICS
from qdqcli.tensors.note import note_to_json

MAX_RESULTS = 5000
"""GitHub shows no more of a run, and refuses 25,000."""
_MAX_TEXT = 1000
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "missing": "A tensor of the baseline is not in the run",
    "unexpected": "A tensor of the run is not in the baseline",
    "settings": "A tensor is measured with other settings than in the baseline",
    "failed": "A tensor could not be measured",
    "waiver": "A waiver of the budget has expired",
    "bits_per_weight": "Storage bits per element",
    "incomplete": "Shards of a checkpoint are missing",
    "stale": "A whole checkpoint stands beside the shards of one",
}


def render(run: RunResult, _options: ReportOptions) -> Iterator[str]:
    """The log: one run."""
    found = list(findings(run))
    shown = found[:MAX_RESULTS]
    rules = sorted({finding.rule for finding in shown})
    driver = {
        "name": "qdq",
        "version": run.version,
        "rules": [_rule(name) for name in rules],
    }
    properties: dict[str, Any] = {"left_out": len(found) - len(shown)} if len(shown) < len(found) else {}
    if run.notes:
        properties["notes"] = [note_to_json(note) for note in run.notes]
    log: dict[str, Any] = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "results": [_result(finding, rules) for finding in shown],
                "columnKind": "unicodeCodePoints",
                **({"properties": properties} if properties else {}),
            }
        ],
    }
    yield json_text(log, indent=1) + "\n"


def _rule(name: str) -> dict[str, Any]:
    metric = METRICS.get(name)
    text = RULES.get(name, name) if metric is None else f"{metric.title}: {metric.formula}"
    return {"id": name, "shortDescription": {"text": text}}


def _result(finding: Finding, rules: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": rules.index(finding.rule),
        "level": "error" if finding.is_error else "warning",
        "message": {"text": shorten(finding.message, _MAX_TEXT)},
        "partialFingerprints": {"qdq/v1": fingerprint(finding)},
    }
    location: dict[str, Any] = {}
    if finding.file is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": uri_of(finding.file)},
            "region": {"startLine": 1},
        }
    if finding.tensor is not None:
        name = shorten(visible(finding.tensor), _MAX_TEXT)
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "variable"}]
    return result | ({"locations": [location]} if location else {})


def uri_of(file: str) -> str:
    """A relative path as the URI reference that code hosts want; an absolute one as file:///."""
    path = quote(PurePath(file).as_posix().encode("utf-8", "backslashreplace"))
    return f"file://{path}" if path.startswith("/") else path


def fingerprint(finding: Finding) -> str:
    """The same for the same complaint about the same tensor, whatever its value."""
    parts = dumps([finding.rule, finding.tensor, finding.file if finding.tensor is not None else None])
    return sha256(parts.encode("ascii")).hexdigest()
