"""Schema of a JSON report: `read.py` validates with it, and `qdq render --schema` prints it.

Unknown keys are allowed and ignored, since later versions may write them. Strings may hold any text: code that shows
one escapes it. Numbers are float64.
"""

from collections.abc import Mapping, Sequence
from sys import float_info

from qdqcli.op.spec import MAX_UNSIGNED_BITS, WHOLE_TENSOR, ComputeDType, RoundMode
from qdqcli.plain import JsonObject
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.result.packing import PACKING_KEYS
from qdqcli.result.result import SCHEMA_VERSION, STATS
from qdqcli.result.verdict import Severity
from qdqcli.stats.metrics import METRICS
from qdqcli.tensors.note import NoteKind
from qdqcli.tensors.packed.storage import Scales, Values
from qdqcli.tensors.safetensors import MAX_DIMENSIONS
from qdqcli.tensors.tensor import DTYPES

Schema = JsonObject
MAX_COUNT = (1 << 63) - 1
MAX_TEXT = 1 << 20
"""Maximum length of a name, reason or path, in characters."""
_MAX_DB = 20_000
"""Twice the ratio in dB of float64's largest to smallest number, squared because sums hold squares."""
_MAX_BINS = 4096
_WORD_PATTERN = "^[a-z][a-z0-9_.-]*$"


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _object(properties: Mapping[str, Schema], required: Sequence[str], **words: object) -> Schema:
    return {"type": "object", "required": list(required), "properties": dict(properties), **words}


def _list(items: Schema, **words: object) -> Schema:
    return {"type": "array", "items": items, **words}


_LIMITS = {"minimum": -float_info.max, "maximum": float_info.max}
_TEXT: Schema = {"type": "string", "maxLength": MAX_TEXT}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"], "maxLength": MAX_TEXT}
_WORD: Schema = {"type": "string", "maxLength": 64, "pattern": _WORD_PATTERN}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
_NUMBER: Schema = {"type": "number", **_LIMITS}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"], **_LIMITS}
_DECIBELS: Schema = {"type": ["number", "null"], "minimum": -_MAX_DB, "maximum": _MAX_DB}
_ANY_LIMIT: Schema = {"type": ["number", "string", "null"], "maxLength": MAX_TEXT, **_LIMITS}
_SCALARS = ("number", "string", "boolean", "null")
_SCALAR: Schema = {"type": list(_SCALARS), "maxLength": MAX_TEXT, **_LIMITS}
_SETTING: Schema = _SCALAR | {
    "type": [*_SCALARS, "array"],
    "items": _SCALAR | {"type": [*_SCALARS, "array"], "items": _SCALAR},
}
"""Option value: a scalar, or a list of scalars or of lists of scalars."""
_RULES: Schema = {
    "type": ["array", "null"],
    "items": {
        "type": "object",
        "additionalProperties": _SCALAR | {"type": [*_SCALARS, "array"], "items": _SCALAR},
    },
    "description": "The rules of the recipe.",
}


_FRACTION: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_OF_UNIT = {"elements": _COUNT, "slices": _COUNT, "dB": _DECIBELS}


def _metric(name: str) -> Schema:
    unit = METRICS[name].unit if name in METRICS else ""
    formula = METRICS[name].formula if name in METRICS else "storage bits per element, scales included"
    of_unit = _FRACTION if name.endswith("_fraction") else _OF_UNIT.get(unit, _NUMBER_OR_NULL)
    return _described(of_unit, formula)


_METRICS = {name: _metric(name) for name in STATS}
_EXACT = {"exact": {"type": "boolean", "enum": [True], "description": "No element changed."}}
_SHARE: dict[str, Schema] = {
    "share": {**_FRACTION, "description": "sum e^2 over that of all quantized tensors"},
}  # fmt: skip
COUNTED = ("num_tensors", "num_quantized", "num_skipped")
_SUMMARY = _object(dict.fromkeys(COUNTED, _COUNT) | _METRICS | _EXACT, [*COUNTED, *STATS])
_SPEC: Schema = _object(
    {
        "signed_input": {"type": "boolean"},
        "num_bits": {"type": "integer", "minimum": 1, "maximum": MAX_UNSIGNED_BITS},
        "range_given": {"type": "boolean"},
        "round_mode": {"type": "string", "enum": [str(mode) for mode in RoundMode]},
        "narrow_range": {"type": "boolean"},
        "axis": {
            "type": ["integer", "array"], "minimum": WHOLE_TENSOR, "maximum": MAX_DIMENSIONS - 1,
            "items": {"type": "integer", "minimum": 0, "maximum": MAX_DIMENSIONS - 1}, "maxItems": 2,
        },
        "group_size": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_COUNT},
        "compute_dtype": {"type": "string", "enum": [str(name) for name in ComputeDType]},
        "estimator": {"type": "string", "enum": list(ESTIMATORS)},
        "percentile": {"type": ["number", "null"], "minimum": 50, "maximum": 100},
    },
    ("signed_input", "num_bits", "range_given", "round_mode", "narrow_range", "axis", "group_size", "compute_dtype",
     "estimator"),
    description="The op's attributes; null where two checkpoints were compared.",
) | {"type": ["object", "null"]}  # fmt: skip
_RANGE = _object(
    {"input_min": _NUMBER_OR_NULL, "input_max": _NUMBER_OR_NULL},
    ("input_min", "input_max"),
    description="The range that set the grid; the union of those of all channels or groups.",
)
_HISTOGRAM = _object(
    {"low": _NUMBER, "high": _NUMBER, "counts": _list(_COUNT, maxItems=_MAX_BINS)}, ("low", "high", "counts")
)
_DTYPE: Schema = {"type": "string", "enum": list(DTYPES)}
_QUANTIZED = _object(
    {
        "dtype": _DTYPE,
        "spec": _SPEC,
        "range": _RANGE,
        "stats": _object(_METRICS | _SHARE | _EXACT, STATS),
        "num_zero_slices": _described(_COUNT, "Degenerate slices that are all zero, and stay so."),
        "bound": _object(
            {"metric": _WORD, "limit": _NUMBER, "margin_db": _NUMBER_OR_NULL},
            ("metric", "limit", "margin_db"),
            description="The limit that leaves the smallest margin, in dB; negative beyond it.",
        ),
        "baseline": _object({"sqnr_db": _NUMBER}, ("sqnr_db",), description="Figures of the baseline report."),
        "candidate": _object(
            {"name": _TEXT, "file": _TEXT, "dtype": _DTYPE},
            ("name", "file", "dtype"),
            description="The tensor that this one was compared with.",
        ),
        "packed": _object(
            {
                "format": _TEXT,
                "bits": {"type": "integer", "minimum": 1, "maximum": 64},
                "block_rows": _described(_COUNT, "Rows, of the last two dimensions, that share a scale."),
                "block_columns": _described(_COUNT, "Columns that share a scale."),
                "values": _described(
                    {"type": "string", "enum": [each.value for each in Values]}, "Values of codes before their scale."
                ),
                "scales": {"type": "string", "enum": [each.value for each in Scales]},
                "is_symmetric": {"type": "boolean"},
                "num_bytes": _described(_COUNT, "Codes, scales and all other parts."),
                "expected_sqnr_db": _described(
                    _DECIBELS, "SQNR of plain rounding to the same bits and blocks; null where that is not defined."
                ),
                "is_idempotent": _described(
                    {"type": ["boolean", "null"]}, "The op at the same bits and groups gives the decoded weight back."
                ),
                "slip": _described(_TEXT_OR_NULL, "A slip of a writer or reader that explains a low SQNR."),
                "slip_sqnr_db": _described(_DECIBELS, "SQNR of a sample of rows once the slip is undone."),
                "is_candidate": _described(
                    {"type": "boolean"},
                    "False where the reference alone is packed: limits on the structure count float.",
                ),
            },
            PACKING_KEYS,
            description="How the weight is stored, where one side of a comparison is packed.",
        ),
        "channels": _object(
            {name: _list(_METRICS[name]) for name in METRICS},
            (),
            propertyNames={"type": "string", "enum": list(METRICS)},
            description="Each metric by channel or group.",
        ),
        "histograms": _object({"values": _HISTOGRAM, "errors": _HISTOGRAM}, ("values", "errors")),
    },
    ("spec", "range", "stats"),
)
ROW: Schema = _object(
    {
        "name": _TEXT,
        "file": _TEXT,
        "dtype": {"type": "string", "maxLength": 1000},
        "shape": _list(_COUNT, maxItems=MAX_DIMENSIONS),
        "status": {"type": "string", "enum": ["quantized", "skipped", "failed"]},
        "decided_by": {
            "type": "object",
            "propertyNames": _WORD,
            "additionalProperties": _TEXT,
            "description": "Setting -> what of a recipe decided it.",
        },
    },
    ("name", "file", "dtype", "shape", "status"),
    **{
        "if": {"type": "object", "properties": {"status": {"type": "string", "enum": ["quantized"]}}},
        "then": _QUANTIZED,
        "else": _object(
            {"reason": _TEXT, "selected": {"type": "boolean", "description": "Its dtype alone forbids measuring it."}},
            ("reason",),
        ),
    },
)
"""One entry of `tensors`."""

_VIOLATION = _object(
    {
        "tensor": _described(_TEXT_OR_NULL, "null: the limit is on the whole run."),
        "file": _TEXT_OR_NULL,
        "metric": _WORD,
        "limit": _ANY_LIMIT,
        "actual": _ANY_LIMIT,
        "severity": {"type": "string", "enum": [str(severity) for severity in Severity]},
        "excess_db": _described(_NUMBER_OR_NULL, "How far over the limit, in dB."),
        "origin": _described(_WORD, "The part of the budget."),
        "budget": _described(_TEXT_OR_NULL, "The file of the limit."),
        "line": _described({**_COUNT, "minimum": 1}, "Where it stands in that file."),
        "tensors": _described(_list(_TEXT), "All that it is about, where several have one cause."),
        "reason": _described(_TEXT, "Why it is waived."),
    },
    ("tensor", "metric", "limit", "actual", "severity"),
)
_NEAREST = _object(
    {
        "tensor": _TEXT_OR_NULL,
        "file": _TEXT_OR_NULL,
        "metric": _WORD,
        "limit": _NUMBER,
        "actual": _NUMBER,
        "margin_db": _NUMBER,
        "origin": _WORD,
    },
    ("tensor", "metric", "limit", "actual", "margin_db", "origin"),
    description="The tensor that is nearest to a limit that it keeps.",
) | {"type": ["object", "null"]}
HEAD: Schema = _object(
    {
        "schema_version": {"type": "integer", "enum": [SCHEMA_VERSION]},
        "tool": _object(
            {
                "name": _TEXT,
                "version": {"type": "string", "maxLength": 64, "pattern": "^[0-9A-Za-z.+!_-]+$"},
            },
            ("version",),
        ),
        "command": _WORD,
        "inputs": _list(_TEXT),
        "settings": {
            "type": "object",
            "properties": {
                "scale_bits": {"type": "integer", "minimum": 0, "maximum": 1 << 31},
                **dict.fromkeys(("include", "exclude", "map", "presets"), _list(_TEXT)),
                **dict.fromkeys(("ranges", "recipe"), _TEXT_OR_NULL),
                "rules": _RULES,
            },
            "additionalProperties": _SETTING,
            "description": "The options that decide the result.",
        },
        "notes": _list(
            _object(
                {
                    "kind": {"type": "string", "enum": [str(kind) for kind in NoteKind]},
                    "severity": {"type": "string", "enum": ["warning", "note"]},
                    "file": _TEXT,
                    "names": _list(_TEXT),
                    "num_names": _COUNT,
                    "other": _TEXT,
                    "message": _TEXT,
                },
                ("kind", "file"),
            )
        ),
        "summary": _described(_SUMMARY, "Over all quantized elements."),
        "by_input": _described(
            _list(_object({"input": _TEXT, "stats": _object(_METRICS | _SHARE, STATS)}, ("input", "stats"))),
            "The figures of each input of several.",
        ),
        "run": _object(
            {
                "device": _TEXT,
                "inputs": _list(
                    _object(
                        {
                            "name": _TEXT,
                            "num_bytes": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_COUNT},
                            "seconds": {"type": "number", "minimum": 0, "maximum": MAX_COUNT},
                            "state": _TEXT,
                        },
                        ("name", "num_bytes", "seconds", "state"),
                    )
                ),
            },
            (),
            description="What may differ between two runs on the same input.",
        ),
        "verification": _object(
            {
                "num_files": _COUNT,
                "num_bytes": _COUNT,
                "num_opened_by_safetensors": _COUNT,
                "sha256": {
                    "type": "object",
                    "propertyNames": _TEXT,
                    "additionalProperties": {"type": "string", "maxLength": 64, "pattern": "^[0-9a-f]{64}$"},
                },
            },
            ("num_bytes", "sha256"),
        ),
        "verdict": _object(
            {
                "passed": {"type": "boolean"},
                "violations": _list(_VIOLATION),
                "waived": _list(_VIOLATION),
                "nearest": _NEAREST,
            },
            ("violations",),
        ),
    },
    ("schema_version", "tool", "command", "inputs", "settings", "summary"),
)
"""A report without its `tensors`."""


def report_schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of a whole report."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A report of qdq",
        **HEAD,
        "required": [*HEAD["required"], "tensors"],
        "properties": {**HEAD["properties"], "tensors": _list(ROW)},
    }
