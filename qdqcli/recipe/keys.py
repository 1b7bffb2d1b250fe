"""What a recipe may say: its keys, and the JSON schema of their values for the reader and for editors alike."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from qdqcli.op.spec import MAX_UNSIGNED_BITS, WHOLE_TENSOR, ComputeDType, RoundMode
from qdqcli.ranges.estimator import ESTIMATORS

SCHEMA_VERSION = 1
NONE = "none"
"""For `axis`: one range per tensor. For `group_size`: no groups, where an earlier table asks for them."""

Schema = Mapping[str, Any]


def _either(*schemas: Schema, description: str) -> Schema:
    return {"anyOf": list(schemas), "description": description}


_PATTERN = {"type": "string", "minLength": 1}
_PATTERNS = (_PATTERN, {"type": "array", "items": _PATTERN, "minItems": 1})
_ROUND_MODES = [str(mode) for mode in RoundMode]

SETTINGS: dict[str, Schema] = {
    "num_bits": {"type": "integer", "minimum": 1, "maximum": MAX_UNSIGNED_BITS,
                 "description": "Bits of a code: 1 to 61, or 62 unsigned."},
    "signed_input": {"type": "boolean", "description": "Whether codes have a sign."},
    "narrow_range": {"type": "boolean", "description": "Whether the lowest signed code is left out."},
    "round_mode": {"enum": [*_ROUND_MODES, *map(str.lower, _ROUND_MODES)], "description": "How ties are rounded."},
    "axis": _either({"enum": [NONE, "last"]}, {"type": "integer", "minimum": WHOLE_TENSOR},
                    description="The dimension along which each index has its own range; none: one for the tensor."),
    "group_size": _either({"enum": [NONE]}, {"type": "integer", "minimum": 1},
                          description="Neighbours along the last axis that share a range; none: no groups after all."),
    "ragged_groups": {"type": "boolean", "description": "Whether the last group of a row may be shorter."},
    "input_min": {"type": "number", "description": "The lower end of a range that is given."},
    "input_max": {"type": "number", "description": "The upper end of a range that is given."},
    "estimator": {"enum": list(ESTIMATORS), "description": "How a range that is not given is chosen."},
    "percentile": {"type": "number", "exclusiveMinimum": 50, "maximum": 100,
                   "description": "With the estimator percentile: that of the range's upper end."},
    "compute_dtype": {"enum": [str(name) for name in ComputeDType],
                      "description": "The arithmetic of BF16 and F16 tensors."},
    "min_ndim": {"type": "integer", "minimum": 0, "description": "Tensors with fewer dimensions are left as they are."},
}  # fmt: skip
"""Keys of `[defaults]` and of rules: the options' names."""

SELECTION: dict[str, Schema] = {
    "include": _either(*_PATTERNS, description="Only tensors with such names are quantized."),
    "exclude": _either(*_PATTERNS, description="Tensors with such names are left as they are; wins over include."),
}
"""Keys of `[defaults]` alone."""

RULE: dict[str, Schema] = {
    "match": _either(*_PATTERNS, description="Globs on the whole tensor name, or re: and a regular expression."),
    "skip": _either({"type": "string", "pattern": "\\S"}, {"enum": [False]},
                    description="Leave the tensors as they are, for this reason; false lifts an earlier rule's skip."),
    "optional": {"type": "boolean", "description": "Whether the rule may match nothing."},
}  # fmt: skip
"""Keys of rules alone."""


def is_valid(value: Any, schema: Schema) -> bool:
    """Whether a value keeps a schema, of the words that this file uses."""
    if "anyOf" in schema:
        return any(is_valid(value, part) for part in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(word) and value == word for word in schema["enum"])
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str) and bool(value.strip() if "pattern" in schema else value)
        case "array":
            return isinstance(value, list) and bool(value) and all(is_valid(item, schema["items"]) for item in value)
    return _is_number(value, schema)


def _is_number(value: Any, schema: Schema) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return False
    if schema["type"] == "integer" and (not isfinite(value) or value != int(value)):
        return False
    more_than = schema.get("exclusiveMinimum")
    return schema.get("minimum", value) <= value <= schema.get("maximum", value) and (
        more_than is None or value > more_than
    )


def words_for(schema: Schema) -> str:
    """What a value must be: `an integer from 1 to 62`."""
    if "anyOf" in schema:
        return " or ".join(map(words_for, schema["anyOf"]))
    if "enum" in schema:
        shown = [str(word).lower() if isinstance(word, bool) else f'"{word}"' for word in schema["enum"]]
        return " or ".join(shown[:3])
    kind = {
        "boolean": "true or false",
        "string": "a reason" if "pattern" in schema else "a text",
        "array": "a list of them",
        "integer": "an integer",
        "number": "a number",
    }[schema["type"]]
    more_than, low, high = (schema.get(word) for word in ("exclusiveMinimum", "minimum", "maximum"))
    if more_than is not None:
        return f"{kind} above {more_than} and up to {high}"
    return kind if low is None else f"{kind} from {low} on" if high is None else f"{kind} from {low} to {high}"


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe: of one in JSON, and of what one in TOML reads as."""
    defaults = _table(SETTINGS | SELECTION, "For all tensors; options on the command line override it.")
    rule = _table(RULE | SETTINGS, "What holds for tensors that match, over what came before.")
    rule |= {"required": ["match"], "anyOf": [{"required": [key]} for key in (*SETTINGS, "skip")]}
    rule["allOf"] += [
        {"if": {"properties": {"skip": {"type": "string"}}, "required": ["skip"]},
         "then": {"properties": dict.fromkeys(SETTINGS, False)}},
    ]  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of qdq",
        "type": "object",
        "additionalProperties": False,
        "required": ["schema"],
        "properties": {
            "schema": {"const": SCHEMA_VERSION, "description": "The version of this schema."},
            "description": {"type": "string", "description": "What the recipe is for."},
            "defaults": defaults,
            "rules": {
                "type": "array",
                "items": rule,
                "description": "In order: a later rule overrides the settings that it names.",
            },
        },
    }


def _table(keys: Mapping[str, Schema], description: str) -> dict[str, Any]:
    granular = {"axis": {"not": {"enum": [NONE, WHOLE_TENSOR]}}, "group_size": {"type": "integer"}}
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": dict(keys),
        "dependentRequired": {"input_min": ["input_max"], "input_max": ["input_min"]},
        "allOf": [{"not": {"properties": granular, "required": list(granular)}}],
    }
