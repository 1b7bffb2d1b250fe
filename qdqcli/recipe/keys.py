"""Keys of a recipe and the schemas of their values."""

from collections.abc import Mapping

from qdqcli.op.spec import MAX_UNSIGNED_BITS, WHOLE_TENSOR, ComputeDType, RoundMode
from qdqcli.plain import JsonObject
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.recipe.axis import CHANNEL, LAST, NONE, PAIR_PATTERN
from qdqcli.recipe.schema import MATCH, PATTERNS, either, published, table, tables
from qdqcli.recipe.scheme import EXAMPLES, SCHEME_PATTERN
from qdqcli.result.schema_check import Schema

SCHEMA_VERSION = 1
VERSION: Schema = {"enum": [SCHEMA_VERSION], "description": "The version of the schema; may be left out."}
ERROR, SKIP = "error", "skip"
"""Values of `indivisible`, with `channel`: treatment of a tensor that does not divide into groups."""
_ROUND_MODES = [str(mode) for mode in RoundMode]

SETTINGS: dict[str, Schema] = {
    "num_bits": {"type": "integer", "minimum": 1, "maximum": MAX_UNSIGNED_BITS,
                 "description": "Bits of a code: 1 to 61, or 62 unsigned."},
    "signed_input": {"type": "boolean", "description": "Whether codes have a sign."},
    "narrow_range": {"type": "boolean", "description": "Whether the lowest signed code is left out."},
    "round_mode": {"enum": [*_ROUND_MODES, *map(str.lower, _ROUND_MODES)], "description": "How ties are rounded."},
    "axis": either({"enum": [NONE, LAST, CHANNEL]}, {"type": "integer", "minimum": WHOLE_TENSOR},
                    {"type": "string", "pattern": PAIR_PATTERN, "examples": ["0,1"]},
                    description="The dimension along which each index has its own range; none: one for the tensor; "
                    "0,1: one for each pair of indices; channel: 0, or 0,1 for stacked experts."),
    "group_size": either({"enum": [NONE]}, {"type": "integer", "minimum": 1},
                          description="Neighbours along the last axis that share a range; none: no groups after all."),
    "ragged_groups": {"type": "boolean", "description": "Whether the last group of a row may be shorter."},
    "indivisible": {"enum": [ERROR, SKIP, CHANNEL],
                    "description": "What becomes of a tensor whose last dimension group_size does not divide: error, "
                    "left in float, one range per channel."},
    "input_min": {"type": "number", "description": "The lower end of a range that is given."},
    "input_max": {"type": "number", "description": "The upper end of a range that is given."},
    "estimator": {"enum": list(ESTIMATORS), "description": "How a range that is not given is chosen."},
    "percentile": {"type": "number", "exclusiveMinimum": 50, "maximum": 100,
                   "description": "With the estimator percentile: that of the range's upper end."},
    "compute_dtype": {"enum": [str(name) for name in ComputeDType],
                      "description": "The arithmetic of BF16 and F16 tensors."},
    "min_ndim": {"type": "integer", "minimum": 0, "description": "Tensors with fewer dimensions are left as they are."},
}  # fmt: skip
"""Keys of `[defaults]` and of rules, named like the options."""
REAL = frozenset(key for key, schema in SETTINGS.items() if schema.get("type") == "number")
"""Keys whose values are real numbers."""

SHORT: dict[str, Schema] = {
    "scheme": {"type": "string", "pattern": SCHEME_PATTERN, "examples": list(EXAMPLES),
               "description": "Short for num_bits, signed_input, axis and group_size, which override it."},
}  # fmt: skip
"""Keys of `[defaults]` and of rules that stand for several settings."""

SELECTION: dict[str, Schema] = {
    "include": either(*PATTERNS, description="Only tensors with such names are quantized."),
    "exclude": either(*PATTERNS, description="Tensors with such names are left as they are; wins over include."),
}
"""Keys of `[defaults]` only."""

PLANNING: dict[str, Schema] = {
    "min_bits": {"type": "integer", "minimum": 1, "maximum": MAX_UNSIGNED_BITS,
                 "description": "The fewest bits that qdq plan may choose."},
    "max_bits": {"type": "integer", "minimum": 1, "maximum": MAX_UNSIGNED_BITS,
                 "description": "The most bits that qdq plan may choose."},
}  # fmt: skip
"""Keys of rules that only `qdq plan` reads."""

RULE: dict[str, Schema] = {
    "match": MATCH,
    "skip": either({"type": "string", "title": "a reason", "pattern": "\\S"}, {"enum": [False]},
                    description="Leave the tensors as they are, for this reason; false lifts an earlier rule's skip."),
    "optional": {"type": "boolean", "description": "Whether the rule may match nothing."},
}  # fmt: skip
"""Keys of rules only."""


def _with_settings(keys: Mapping[str, Schema], description: str, **words: object) -> JsonObject:
    """Return the schema of a table that may contain quantization settings."""
    granular = {"axis": {"not": {"enum": [NONE, WHOLE_TENSOR]}}, "group_size": {"type": "integer"}}
    return (
        table(
            {**keys, **SHORT, **SETTINGS},
            description,
            dependentRequired={"input_min": ["input_max"], "input_max": ["input_min"]},
            allOf=[{"not": {"properties": granular, "required": list(granular)}}],
        )
        | words
    )


def _rule() -> Schema:
    rule = _with_settings(
        {**RULE, **PLANNING}, "What holds for tensors that match, over what came before.", title="rule"
    )
    rule |= {"required": ["match"], "anyOf": [{"required": [key]} for key in (*SHORT, *SETTINGS, *PLANNING, "skip")]}
    rule["allOf"] += [
        {"if": {"properties": {"skip": {"type": "string"}}, "required": ["skip"]},
         "then": {"properties": dict.fromkeys((*SHORT, *SETTINGS, *PLANNING), False)}},
    ]  # fmt: skip
    return rule


RULES = tables(_rule(), "In order: a later rule overrides the settings that it names.")

RECIPE: Schema = table(
    {
        "schema": VERSION,
        "description": {"type": "string", "description": "What the recipe is for."},
        "defaults": _with_settings(SELECTION, "For all tensors; options on the command line override it."),
        "rules": RULES,
    },
    "Settings by tensor.",
)


def json_schema() -> JsonObject:
    """Return the JSON schema of a recipe."""
    return published(RECIPE, "Recipe of qdq")
