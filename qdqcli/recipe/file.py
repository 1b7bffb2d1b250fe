"""RecipeFile: a TOML or JSON recipe, validated before any work (INTERFACE section 3).

It knows no tensors: `recipe.py` applies it to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qdqcli.escape import show_path
from qdqcli.op.spec import MAX_UNSIGNED_BITS, WHOLE_TENSOR
from qdqcli.plain import JsonObject, Parsed
from qdqcli.recipe.axis import NONE
from qdqcli.recipe.document import Document, read_text
from qdqcli.recipe.keys import PLANNING, RECIPE, SELECTION, SETTINGS, SHORT
from qdqcli.recipe.lines import KeyPath
from qdqcli.recipe.rule import Rule, listed_keys, overridden
from qdqcli.recipe.scheme import settings_of_scheme


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """Content of one recipe file."""

    source: str
    """The file, as the user gave it, or `preset NAME`."""
    place: str = "[defaults]"
    """Name of the table of its defaults in reports."""
    description: str = ""
    defaults: Parsed
    """Key -> value; a group size of None means no groups, patterns are tuples."""
    rules: Sequence[Rule]
    notes: Sequence[str] = ()
    """Notes on the recipe for the user."""


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe from a TOML file, or from a JSON file: named *.json, or starting with a brace.

    Raises:
        UsageError: no such file, malformed, an unknown key (offers the nearest), a value of the wrong kind; names the
            line.
    """
    text = read_text(path, "a recipe is a TOML or JSON file", may_be_pipe=True)
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    return parse_recipe(text, show_path(path), is_json=is_json)


def parse_recipe(text: str, source: str, *, is_json: bool = False, prefix: str = "") -> RecipeFile:
    """Parse a recipe from text; raises like `read_recipe`."""
    return _Reader(document=Document(source, text, is_json), prefix=prefix).recipe()


def recipe_in(document: Document, table: Parsed, base: KeyPath) -> RecipeFile | None:
    """Return the settings and rules in a valid table, at `base`, of another file; None where it has none."""
    if not {*SHORT, *SETTINGS, *SELECTION, "rules"} & {*table}:
        return None
    reader = _Reader(document=document, base=base)
    return RecipeFile(
        source=document.source,
        place=document.source,
        defaults=reader.defaults(table, base, document.name(base) if base else "the file"),
        rules=reader.rules(table),
        notes=reader.notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Walk through valid data: checks what a schema cannot say in a helpful message."""

    document: Document
    prefix: str = ""
    """Prefix that distinguishes its tables from those of another file."""
    base: KeyPath = ()
    """Path of keys to the table of the rules."""
    notes: list[str] = field(default_factory=list)

    def recipe(self) -> RecipeFile:
        data = self.document.check(RECIPE)
        return RecipeFile(
            source=self.document.source,
            place=f"{self.prefix}[defaults]",
            description=data.get("description", ""),
            defaults=self.defaults(data.get("defaults", {}), ("defaults",), "[defaults]"),
            rules=self.rules(data),
            notes=self.notes,
        )

    def defaults(self, table: Parsed, key_path: KeyPath, name: str) -> dict[str, object]:
        values = self.settings(table, key_path, name)
        for key in SELECTION:
            if key in table:
                values[key] = self.document.patterns(table, (*key_path, key), name)
        return values

    def rules(self, table: Parsed) -> list[Rule]:
        return [self.rule(rule, number) for number, rule in enumerate(table.get("rules", []))]

    def rule(self, table: Parsed, index: int) -> Rule:
        key_path: KeyPath = (*self.base, "rules", index)
        name = f"rule {index + 1}"
        patterns = self.document.patterns(table, (*key_path, "match"), name)
        changes = self.settings(table, key_path, name)
        skip = table.get("skip")
        if not changes and skip is None:
            self.document.fail(key_path, f"{name} names no setting; give it one, or skip with a reason")
        if isinstance(skip, str) and changes:
            message = f"{name} skips its tensors and sets {listed_keys(changes)}; leave one of the two out"
            self.document.fail(key_path, message)
        return Rule(
            patterns=patterns,
            changes=changes,
            skip=skip if isinstance(skip, str) else None,
            lifts_skip=skip is False,
            is_optional=table.get("optional", False),
            source=self.document.source,
            number=index + 1,
            line=self.document.line(key_path),
            prefix=self.prefix,
        )

    def settings(self, table: Parsed, key_path: KeyPath, name: str) -> JsonObject:
        fail = self.document.fail
        values: JsonObject = {}
        for key, value in table.items():
            if key not in SETTINGS and key not in PLANNING:
                continue
            if key == "axis" and value == WHOLE_TENSOR:
                line = f"{self.document.source}:{self.document.line((*key_path, key))}"
                self.notes.append(f'{line}: axis -1 is the op\'s word for "none"; the last axis is "last"')
            values[key] = _plain(key, value)
        if values.get("group_size") is not None and values.get("axis", NONE) != NONE:
            fail((*key_path, "axis"), f"{name} sets axis and group_size, which exclude each other; leave one out")
        if values.get("min_bits", 0) > values.get("max_bits", MAX_UNSIGNED_BITS):
            fail((*key_path, "min_bits"), f"{name}: min_bits is above max_bits")
        if ("input_min" in values) != ("input_max" in values):
            fail(key_path, f"{name} sets one end of a range; input_min and input_max belong together")
        if values.get("input_min", 0) > values.get("input_max", 0):
            fail((*key_path, "input_min"), f"{name}: input_min is above input_max; min <= max must hold")
        if "input_min" in values and "estimator" in values:
            fail((*key_path, "estimator"), f"{name} gives a range and an estimator of ranges; leave one out")
        return overridden(settings_of_scheme(table["scheme"]), values) if "scheme" in table else values


def _plain(key: str, value: object) -> object:
    """Return the value as the program represents it."""
    match key:
        case "group_size" if value == NONE:
            return None
        case "axis" if value == WHOLE_TENSOR:
            return NONE
        case "num_bits" | "axis" | "group_size" | "min_ndim" if isinstance(value, float):
            return int(value)
        case "round_mode":
            return str(value).upper()
    return value
