"""Ties from a TOML file: tensors that share one choice of bits, and tensors that no automatic tie may hold.

[[together]]
match = ["*.o_proj.weight", "*.down_proj.weight"]
by_layer = true            # one group for each layer; without it one for all

[[apart]]
match = "*.k_proj.weight"
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qdqcli.escape import show_path
from qdqcli.recipe.document import Document, read_text
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.recipe.schema import MATCH, table, tables
from qdqcli.result.schema_check import Schema

AUTO, NO_TIES = "auto", "none"
"""Ties without a file: by name, or only of equal tensors."""
_MATCH = {"match": MATCH}
_TOGETHER = {**_MATCH, "by_layer": {"type": "boolean", "description": "Whether each layer has a group of its own."}}
TIES: Schema = table(
    {
        "together": tables(table(_TOGETHER, "Tensors that share a choice.") | {"required": ["match"]}, "Groups."),
        "apart": tables(table(_MATCH, "Tensors without automatic ties.") | {"required": ["match"]}, "Exceptions."),
    },
    "Ties of a plan.",
)
_LAYER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True, kw_only=True)
class NamedTies:
    """Groups of tensor names, and names without automatic ties."""

    groups: Sequence[frozenset[str]] = ()
    apart: frozenset[str] = frozenset()


def read_ties(path: Path) -> Document:
    """Read the file and check its keys.

    Raises:
        UsageError: missing or malformed; names the line.
    """
    text = read_text(path, "ties are a TOML file with [[together]] and [[apart]] tables")
    document = Document(show_path(path), text)
    document.check(TIES)
    return document


def ties_among(document: Document, names: Sequence[str]) -> NamedTies:
    """Return the ties of these tensors.

    Raises:
        UsageError: a group of fewer than two tensors, or a pattern of exceptions that matches none; names the line.
    """
    data = document.data
    groups: list[frozenset[str]] = []
    for index, entry in enumerate(data.get("together", [])):
        place = ("together", index)
        by_layer: dict[str, set[str]] = defaultdict(set)
        for pattern in document.patterns(entry, (*place, "match"), f"group {index + 1}"):
            matches = compile_pattern(pattern)
            for name in filter(matches, names):
                layer = _LAYER.search(name) if entry.get("by_layer") else None
                by_layer[name[: layer.end()] if layer else ""].add(name)
        small = sorted(group for group in by_layer.values() if len(group) < 2)
        if small or not by_layer:
            found = f"holds '{min(small[0])}' alone" if small else "matches no planned tensor"
            document.fail((*place, "match"), f"group {index + 1} {found}; a group has at least two tensors")
        groups += map(frozenset, by_layer.values())
    apart: set[str] = set()
    for index, entry in enumerate(data.get("apart", [])):
        place = ("apart", index)
        for pattern in document.patterns(entry, (*place, "match"), f"exception {index + 1}"):
            held = set(filter(compile_pattern(pattern), names))
            if not held:
                document.fail((*place, "match"), f"exception {index + 1}: '{pattern}' matches no planned tensor")
            apart |= held
    return NamedTies(groups=groups, apart=frozenset(apart))
