"""Schema: the subset of JSON schema that describes our files, for their reader and for editors.

A key whose schema is `{"not": {}}` is refused; its description says what to write instead.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from math import isfinite
from typing import Any

Schema = Mapping[str, Any]

PATTERN: Schema = {"type": "string", "minLength": 1}
PATTERNS = (PATTERN, {"type": "array", "items": PATTERN, "minItems": 1})
"""A pattern on tensor names, or a list of them."""


def either(*schemas: Schema, description: str) -> Schema:
    """Return the schema of a value that is valid under one of the schemas."""
    return {"anyOf": list(schemas), "description": description}


def table(properties: Mapping[str, Schema], description: str, **words: Any) -> dict[str, Any]:
    """Return the schema of a table with these keys and no others."""
    return {
        "type": "object", "description": description, "additionalProperties": False, "properties": dict(properties),
    } | words  # fmt: skip


def tables(items: Schema, description: str) -> Schema:
    """Return the schema of an array of tables."""
    return {"type": "array", "items": items, "description": description}


def refused(description: str) -> Schema:
    """Return the schema of a forbidden key, with the reason."""
    return {"not": {}, "description": description}


def of_table(schema: Schema) -> Schema:
    """Return the schema for a table, of a value that may also be something else."""
    return next((part for part in schema.get("anyOf", ()) if part.get("type") == "object"), schema)


def known_keys(schema: Schema) -> list[str]:
    """Return the keys that a table may have."""
    return [key for key, of_key in schema["properties"].items() if "not" not in of_key]


def tables_of(schema: Schema, name: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every table below `schema` with its name in TOML: `[summary.p05]`, `[[rules]]`."""
    for key, of_key in schema["properties"].items():
        inner = f"{name}{key}"
        of_key = of_table(of_key)
        if of_key.get("type") == "object":
            yield f"[{inner}]", of_key
            yield from tables_of(of_key, f"{inner}.")
        elif "properties" in of_key.get("items", {}):
            yield f"[[{inner}]]", of_key["items"]


def is_valid(value: Any, schema: Schema) -> bool:
    """Tell whether a value other than a table is valid; supports the keywords that this file uses."""
    if "anyOf" in schema:
        return any(is_valid(value, part) for part in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(word) and value == word for word in schema["enum"])
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return False  # tables are checked key by key
        case "string" if schema.get("format") == "date":
            return _is_date(value)
        case "string":
            return isinstance(value, str) and re.search(schema.get("pattern", "."), value) is not None
        case "array":
            items = isinstance(value, list) and len(value) >= schema.get("minItems", 0)
            return items and all(is_valid(item, schema["items"]) for item in value)
    return _is_number(value, schema)


def _is_date(value: Any) -> bool:
    if isinstance(value, str):
        try:
            date.fromisoformat(value)
        except ValueError:
            return False
        return True
    return isinstance(value, date) and not isinstance(value, datetime)


def _is_number(value: Any, schema: Schema) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        if not isfinite(value) or (schema["type"] == "integer" and value != int(value)):
            return False
    except OverflowError:  # an integer beyond float64
        return False
    more_than = schema.get("exclusiveMinimum")
    return schema.get("minimum", value) <= value <= schema.get("maximum", value) and (
        more_than is None or value > more_than
    )


def words_for(schema: Schema) -> str:
    """Return the expected value in words: `an integer from 1 to 62`."""
    if "anyOf" in schema:
        return " or ".join(map(words_for, schema["anyOf"]))
    if "enum" in schema:
        shown = [f'"{word}"' if isinstance(word, str) else str(word).lower() for word in schema["enum"]]
        return " or ".join(shown[:3])
    kind = {
        "boolean": "true or false",
        "string": _words_for_text(schema),
        "array": "a list of them",
        "object": "a table",
        "integer": "an integer",
        "number": "a number",
    }[schema["type"]]  # fmt: skip
    more_than, low, high = (schema.get(word) for word in ("exclusiveMinimum", "minimum", "maximum"))
    if more_than is not None:
        return f"{kind} above {more_than} and up to {high}"
    return kind if low is None else f"{kind} from {low} on" if high is None else f"{kind} from {low} to {high}"


def _words_for_text(schema: Schema) -> str:
    if "examples" in schema:
        return f"one such as {', '.join(schema['examples'])}"
    if schema.get("format") == "date":
        return "a date such as 2027-01-31"
    return "a reason" if "pattern" in schema else "a text"


def published(schema: Schema, title: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a file, for JSON and for parsed TOML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
