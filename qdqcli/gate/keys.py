"""Budget keys and the schemas of their values."""

from qdqcli.gate.aggregate import AGGREGATES
from qdqcli.plain import JsonObject, Parsed
from qdqcli.recipe.axis import NONE
from qdqcli.recipe.keys import SETTINGS, VERSION
from qdqcli.recipe.schema import MATCH, PATTERNS, either, published, refused, table, tables
from qdqcli.result.result import STATS
from qdqcli.result.schema_check import Schema
from qdqcli.result.verdict import Severity
from qdqcli.stats.metrics import METRICS, Better

NO_LIMIT = "none"
"""Value that lifts a limit for the tensors of a later table."""


def limit_key(metric: str, *, is_minimum: bool) -> str:
    """Return the key of a limit: `min_sqnr_db`; `max_abs_error` is both metric and key of its upper limit."""
    return metric if metric == "max_abs_error" else f"{'min' if is_minimum else 'max'}_{metric}"


def _better(metric: str) -> Better:
    return METRICS[metric].better if metric in METRICS else Better.NEITHER


LIMIT_KEYS = {
    limit_key(metric, is_minimum=is_minimum): (metric, is_minimum)
    for metric in STATS
    for is_minimum in (True, False)
    if _better(metric) is not (Better.LOWER if is_minimum else Better.HIGHER)
}
"""Key of a limit -> its metric, and True for a minimum. Only the worse side can be limited."""

TOLERANCE_KEYS = {
    f"{metric.name}_{'drop' if metric.better is Better.HIGHER else 'rise'}{unit}": (metric.name, bool(unit))
    for metric in METRICS.values()
    if metric.better is not Better.NEITHER
    for unit in ("", "_percent")
}
"""Key of a tolerance -> its metric, and True for a percentage of the baseline's value."""

_NUMBER: Schema = {"type": "number"}
_LIMITS = {
    key: either(
        {"enum": [NO_LIMIT]},
        _NUMBER,
        description=f"The {'least' if is_minimum else 'largest'} {metric} that passes; none lifts the limit.",
    )
    for key, (metric, is_minimum) in LIMIT_KEYS.items()
}
_WRONG_SIDE = {
    f"{side}_{metric}": refused(f"{metric} is better when {_better(metric)}; limit it with {right}")
    for right, (metric, _) in LIMIT_KEYS.items()
    for side in ("min", "max")
    if f"{side}_{metric}" not in LIMIT_KEYS
}
"""Keys on the better side are refused: such a limit would fail an improvement."""
_LIMITS |= _WRONG_SIDE
_SEVERITY: dict[str, Schema] = {
    "severity": {"enum": [str(word) for word in Severity], "description": "What a violation does; warn lets it pass."}
}
_NONFINITE: dict[str, Schema] = {
    "allow_nonfinite": {"type": "boolean", "description": "Whether elements may be NaN or infinite."}
}
_MATCH: dict[str, Schema] = {"match": MATCH}

STRUCTURE: dict[str, Schema] = {
    "min_quantized": {"type": "number", "minimum": 0, "maximum": 1,
                      "description": "The least share of the selected elements that must be measured."},
    "min_packed": {"type": "number", "minimum": 0, "maximum": 1,
                   "description": "Of a comparison: the least share of the elements of weights that must be packed."},
    "max_bits_per_weight": {"type": "number", "minimum": 0,
                            "description": "The most storage bits per quantized element, scales included."},
    "forbid": either(*PATTERNS, description="Tensors that must not be quantized."),
}  # fmt: skip

_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
RUN_SETTINGS: dict[str, Schema] = {
    key: either({"enum": [NONE]}, *schema.get("anyOf", [schema]),
                description=f"{schema['description'].rstrip('.')}, of the runs that are judged.")
    for key, schema in SETTINGS.items()
} | {
    "include": {**_TEXTS, "description": "The --include patterns."},
    "exclude": {**_TEXTS, "description": "The --exclude patterns."},
    "map": {**_TEXTS, "description": "The --map of a comparison."},
    "scale_bits": {"type": "integer", "minimum": 0, "description": "The --scale-bits of the runs."},
    "ranges": {"type": "string", "description": "A digest of the --ranges file, or its name; none: there is none."},
    "rules": {"type": "string", "description": "A digest of the rules of recipes and presets; none: there are none."},
}  # fmt: skip
"""Keys of `[settings]`: the options that determine a result, named as in reports."""

BUDGET: Schema = table(
    {
        "schema": VERSION,
        **_NONFINITE,
        "limits": table({**_SEVERITY, **_NONFINITE, **_LIMITS}, "Limits for every tensor."),
        "tensors": tables(
            table({**_MATCH, **_SEVERITY, **_NONFINITE, **_LIMITS}, "Limits for tensors that match.",
                  required=["match"]),
            "In order: a later match overrides the limits that it names.",
        ),
        "summary": table(
            {**_SEVERITY, **_LIMITS} | {name: table({**_SEVERITY, **_LIMITS}, f"Limits on the {name} of all tensors.")
                                        for name in AGGREGATES},
            "Limits on all elements together.",
        ),
        "structure": table({**_SEVERITY, **STRUCTURE}, "What must be so before anything is measured."),
        "settings": table(RUN_SETTINGS, "What was asked of the run that the limits come from: others are not judged."),
        "baseline": table(
            {
                "file": {"type": "string", "pattern": "\\S", "examples": ["qdq-baseline.json"],
                         "description": "A JSON report, beside this file."},
                **_SEVERITY,
                **{key: {"type": "number", "minimum": 0, "description": f"How much worse {metric} may be."}
                   for key, (metric, _) in TOLERANCE_KEYS.items()},
            },
            "An earlier report that a run must not be worse than.",
            required=["file"],
        ),
        "waivers": tables(
            table(
                _MATCH | {
                    "reason": {"type": "string", "title": "a reason", "pattern": "\\S",
                               "description": "Why violations do not count."},
                    "until": {"type": "string", "format": "date", "description": "The last day."},
                },
                "Violations that do not count until a day has passed.",
                required=["match", "reason", "until"],
            ),
            "The first that matches holds.",
        ),
    },
    "What a run may lose.",
)  # fmt: skip


def json_schema() -> JsonObject:
    """Return the JSON schema of a budget."""
    return published(BUDGET, "Budget of qdq")


def limits_in(keys: Parsed) -> list[tuple[str, str, bool]]:
    """Return a table's limits in the order of the metrics: key, metric, and True for a minimum."""
    return [(key, metric, is_minimum) for key, (metric, is_minimum) in LIMIT_KEYS.items() if key in keys]
