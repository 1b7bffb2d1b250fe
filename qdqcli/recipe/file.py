"""RecipeFile: a recipe as TOML or JSON says it, checked whole before any work (INTERFACE section 3).

It knows no tensors: `recipe.py` applies it to them.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.op.spec import WHOLE_TENSOR
from qdqcli.recipe.keys import NONE, RULE, SCHEMA_VERSION, SELECTION, SETTINGS, Schema, is_valid, words_for
from qdqcli.recipe.lines import Path as Place
from qdqcli.recipe.lines import json_lines, toml_lines
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.recipe.rule import Rule, listed_keys
from qdqcli.tensors.storage import MAX_TEXT_BYTES, read_file
from qdqcli.tensors.strict_json import parse_object

_TOP = ("schema", "description", "defaults", "rules")


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """What one file says."""

    source: str
    """The file, as the user gave it, or `preset NAME`."""
    prefix: str = ""
    """What tells its tables apart from those of another file."""
    description: str = ""
    defaults: Mapping[str, Any]
    """Key -> value; a group size of None is none, patterns are tuples."""
    rules: Sequence[Rule]
    notes: Sequence[str] = ()
    """What a user should know of it."""

    @property
    def place(self) -> str:
        """The name of its defaults in reports."""
        return f"{self.prefix}[defaults]"


def read_recipe(path: Path) -> RecipeFile:
    """The recipe in a TOML file, or in a JSON one: its name ends so, or it begins with a brace.

    Raises:
        UsageError: no such file, malformed, an unknown key (offers the nearest), a value of the wrong kind; names the
            line.
    """
    shown = show_path(path)
    try:
        text = read_file(path, MAX_TEXT_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except InputError as error:
        raise UsageError(f"{error}; a recipe is a TOML or JSON file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown}: not UTF-8 at byte {error.start}; a recipe is a TOML or JSON file") from None
    return parse_recipe(text, shown, is_json=path.suffix.lower() == ".json" or text.lstrip().startswith("{"))


def parse_recipe(text: str, source: str, *, is_json: bool = False, prefix: str = "") -> RecipeFile:
    """The recipe in a text; raises like `read_recipe`."""
    try:
        data: Mapping[str, Any] = parse_object(text.encode()) if is_json else tomllib.loads(text)
        lines = json_lines(text) if is_json else toml_lines(text)
    except MalformedError as error:
        raise UsageError(f"{source}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not TOML: {escape_name(str(error))}") from None
    except RecursionError:
        raise UsageError(f"{source}: nested too deeply for a recipe") from None
    return _Reader(source=source, prefix=prefix, lines=lines).recipe(data)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """The walk through the data; every message names the line."""

    source: str
    prefix: str
    lines: Mapping[Place, int]
    notes: list[str] = field(default_factory=list)

    def recipe(self, data: Mapping[str, Any]) -> RecipeFile:
        self.check_keys(data, (), _TOP, "")
        if data.get("schema") != SCHEMA_VERSION or isinstance(data["schema"], bool):
            found = f"schema is {escape_name(repr(data['schema']))}" if "schema" in data else "schema is missing"
            self.fail(("schema",), f"{found}; this version reads schema = {SCHEMA_VERSION}")
        if not isinstance(data.get("description", ""), str):
            self.fail(("description",), "description must be a text")
        defaults = data.get("defaults", {})
        if not isinstance(defaults, dict):
            self.fail(("defaults",), "defaults must be a table, [defaults]")
        rules = data.get("rules", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            self.fail(("rules",), "rules must be tables, [[rules]]")
        return RecipeFile(
            source=self.source,
            prefix=self.prefix,
            description=data.get("description", ""),
            defaults=self.defaults(defaults),
            rules=[self.rule(table, number) for number, table in enumerate(rules)],
            notes=self.notes,
        )

    def defaults(self, table: Mapping[str, Any]) -> dict[str, Any]:
        place: Place = ("defaults",)
        self.check_keys(table, place, (*SETTINGS, *SELECTION), " in [defaults]")
        values = self.settings(table, place, "[defaults]")
        for key in SELECTION:
            if key in table:
                values[key] = self.patterns(table, (*place, key), SELECTION[key], "[defaults]")
        return values

    def rule(self, table: Mapping[str, Any], index: int) -> Rule:
        place: Place = ("rules", index)
        name = f"rule {index + 1}"
        self.check_keys(table, place, (*RULE, *SETTINGS), f" in {name}")
        if "match" not in table:
            self.fail(place, f"{name} has no match, a pattern or a list of them")
        patterns = self.patterns(table, (*place, "match"), RULE["match"], name)
        changes = self.settings(table, place, name)
        for key in ("skip", "optional"):
            if key in table and not is_valid(table[key], RULE[key]):
                self.refuse(table[key], (*place, key), RULE[key], name)
        skip = table.get("skip")
        if not changes and skip is None:
            self.fail(place, f"{name} names no setting; give it one, or skip with a reason")
        if isinstance(skip, str) and changes:
            self.fail(place, f"{name} skips its tensors and sets {listed_keys(changes)}; leave one of the two out")
        return Rule(
            patterns=patterns,
            changes=changes,
            skip=skip if isinstance(skip, str) else None,
            lifts_skip=skip is False,
            is_optional=table.get("optional", False),
            source=self.source,
            number=index + 1,
            line=self.line(place),
            prefix=self.prefix,
        )

    def settings(self, table: Mapping[str, Any], place: Place, name: str) -> dict[str, Any]:
        values = {}
        for key, value in table.items():
            if key not in SETTINGS:
                continue
            if not is_valid(value, SETTINGS[key]):
                self.refuse(value, (*place, key), SETTINGS[key], name)
            if key == "axis" and value == WHOLE_TENSOR:
                line = f"{self.source}:{self.line((*place, key))}"
                self.notes.append(f'{line}: axis -1 is the op\'s word for "none"; the last axis is "last"')
            values[key] = _plain(key, value)
        if values.get("group_size") is not None and values.get("axis", NONE) != NONE:
            self.fail((*place, "axis"), f"{name} sets axis and group_size, which exclude each other; leave one out")
        if ("input_min" in values) != ("input_max" in values):
            self.fail(place, f"{name} sets one end of a range; input_min and input_max belong together")
        if values.get("input_min", 0) > values.get("input_max", 0):
            self.fail((*place, "input_min"), f"{name}: input_min is above input_max; min <= max must hold")
        if "input_min" in values and "estimator" in values:
            self.fail((*place, "estimator"), f"{name} gives a range and an estimator of ranges; leave one out")
        return values

    def patterns(self, table: Mapping[str, Any], place: Place, schema: Schema, name: str) -> tuple[str, ...]:
        value = table[str(place[-1])]
        if not is_valid(value, schema):
            self.refuse(value, place, schema, name)
        patterns = (value,) if isinstance(value, str) else tuple(value)
        for index, pattern in enumerate(patterns):
            try:
                compile_pattern(pattern)
            except UsageError as error:
                self.fail((*place, index) if (*place, index) in self.lines else place, f"{name}: {error}")
        return patterns

    def check_keys(self, table: Mapping[str, Any], place: Place, known: Sequence[str], where: str) -> None:
        for key in table:
            if key not in known:
                offer = f"; {_offer(key, known)}"
                self.fail((*place, key), f"unknown key '{escape_name(key)}'{where}{offer}")

    def refuse(self, value: Any, place: Place, schema: Schema, name: str) -> NoReturn:
        given = str(value).lower() if isinstance(value, bool) else repr(value)
        self.fail(place, f"{name}: {place[-1]} is {escape_name(given)}; it must be {words_for(schema)}")

    def line(self, place: Place) -> int:
        """Where it stands, or the table that it is in."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def fail(self, place: Place, message: str) -> NoReturn:
        raise UsageError(f"{self.source}:{self.line(place)}: {message}")


def _offer(key: str, known: Sequence[str]) -> str:
    """What may have been meant by an unknown key."""
    word = key.lower().replace("-", "_")
    if nearest := get_close_matches(word, known, n=1, cutoff=0.5):
        return f"the nearest is {nearest[0]}"
    if known == _TOP and (nearest := get_close_matches(word, (*SETTINGS, *SELECTION), n=1)):
        return f"the nearest is {nearest[0]}, which stands in [defaults] or in [[rules]]"
    return f"known are {', '.join(known)}"


def _plain(key: str, value: Any) -> Any:
    """The value as the program has it."""
    match key:
        case "group_size" if value == NONE:
            return None
        case "axis" if value == WHOLE_TENSOR:
            return NONE
        case "num_bits" | "axis" | "group_size" | "min_ndim" if isinstance(value, float):
            return int(value)
        case "round_mode":
            return value.upper()
    return value
