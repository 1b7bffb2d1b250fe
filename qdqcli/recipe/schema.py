"""Schema: the subset of JSON schema that describes our files, for their reader and for editors.

A key whose schema is `{"not": {}}` is refused; its description says what to write instead.
"""

from collections.abc import Iterator, Mapping

from qdqcli.plain import JsonObject
from qdqcli.result.schema_check import Schema

PATTERN: Schema = {"type": "string", "minLength": 1}
PATTERNS = (PATTERN, {"type": "array", "items": PATTERN, "minItems": 1})
"""A pattern on tensor names, or a list of them."""


def either(*schemas: Schema, description: str) -> Schema:
    """Return the schema of a value that is valid under one of the schemas."""
    return {"anyOf": list(schemas), "description": description}


MATCH = either(*PATTERNS, description="Globs on the whole tensor name, or re: and a regular expression.")
"""Key `match` of a table on tensors."""


def table(properties: Mapping[str, Schema], description: str, **words: object) -> JsonObject:
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


def published(schema: Schema, title: str) -> JsonObject:
    """Return the JSON schema (draft 2020-12) of a file, for JSON and for parsed TOML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
