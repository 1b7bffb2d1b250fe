"""Lines of keys in TOML and JSON: an independent answer is that a key is there once the text up to its line is read."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from qdqcli.recipe.lines import json_lines, toml_lines

TEXT = '''
# a comment with [brackets] and "quotes"
schema = 1
description = """
[[rules]]
not = "a key"
"""
[defaults]
num_bits = 8   # [x]
"quoted # key" = 'lit#eral'
dotted . "key" = [1, 2,
  3]

[[ rules ]]
match = ["a", "#b",  # why
  're:[c]"',
]
inline = {x = 1, y = [{z = 2}]}

[rules.sub]
k = 07:32:00

[[rules]]
match = "[[rules]]"
axis = "last"
[[rules.deep]]
one = 1
[[rules.deep]]
two = 2
'''


def test_lines_of_toml() -> None:
    lines = toml_lines(TEXT)
    rows = TEXT.split("\n")

    def row(*path: str | int) -> str:
        return rows[lines[path] - 1].split("#")[0].strip()

    assert row("schema") == "schema = 1"
    assert row("description") == 'description = """'
    assert row("defaults", "num_bits") == "num_bits = 8"
    assert rows[lines["defaults", "quoted # key"] - 1].startswith('"quoted # key"')
    assert row("defaults", "dotted", "key") == 'dotted . "key" = [1, 2,'
    assert row("defaults", "dotted", "key", 2) == "3]"
    assert row("rules", 0) == "[[ rules ]]"
    assert rows[lines["rules", 0, "match", 1] - 1].startswith('match = ["a", "#b"')
    assert row("rules", 0, "match", 2) == "'re:[c]\"',".strip()
    assert row("rules", 0, "inline", "y", 0, "z").startswith("inline")
    assert row("rules", 0, "sub", "k") == "k = 07:32:00"
    assert row("rules", 1) == "[[rules]]"
    assert row("rules", 1, "match") == 'match = "[[rules]]"'
    assert row("rules", 1, "deep", 1, "two") == "two = 2"


def paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items: list[tuple[str | int, Any]] = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return {path} | {p for key, inner in items for p in paths(inner, (*path, key))}


def test_every_key_and_element_of_toml_has_a_line_and_nothing_else() -> None:
    tables = {("defaults", "dotted"), ("rules", 0, "sub")}
    arrays = {("rules",), ("rules", 1, "deep")}
    assert set(toml_lines(TEXT)) | arrays | {()} | tables == paths(tomllib.loads(TEXT))


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_every_key_and_element_of_json_has_a_line(indent: int | None) -> None:
    data = {"schema": 1, "rules": [{"match": ["a,]}", "b\n"], "num_bits": 4}, {"match": "c:", "skip": False}], "e": {}}
    text = json.dumps(data, indent=indent)
    lines = json_lines(text)
    assert set(lines) | {()} == paths(data)
    if indent is None:
        assert set(lines.values()) == {1}
    else:
        rows = text.split("\n")
        assert rows[lines["rules", 1, "skip"] - 1].strip() == '"skip": false'
        assert rows[lines["rules", 0, "match", 1] - 1].strip() == '"b\\n"'


@pytest.mark.parametrize("cut", range(1, TEXT.count("\n") + 1))
def test_a_key_is_there_once_the_text_up_to_its_line_is_read(cut: int) -> None:
    """The parser alone, given ever more lines, says when a key first appears."""
    head = "\n".join(TEXT.split("\n")[:cut]) + "\n"
    try:
        known = paths(tomllib.loads(head))
    except tomllib.TOMLDecodeError:
        return  # in the middle of a value
    for path, line in toml_lines(TEXT).items():
        if line <= cut:
            assert path in known
        else:
            assert path not in known


def test_every_value_of_the_projects_own_settings_has_a_line() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    check_lines(text)


def check_lines(text: str) -> None:
    """No line for what is not there, and one for each value that is no table."""
    lines = toml_lines(text)
    data = tomllib.loads(text)
    assert set(lines) <= paths(data)
    assert {path for path in paths(data) if not isinstance(at(data, path), dict | list)} <= set(lines)


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True) | st.text(max_size=4)
SCALARS = st.integers(-5, 5) | st.booleans() | st.text(max_size=8) | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_tables_arrays_and_texts_of_every_spelling(data: dict[str, Any]) -> None:
    """As another library writes them: inline and dotted, quoted and escaped."""
    try:
        text = tomlkit.dumps(data)
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, tomlkit.exceptions.TOMLKitError):
        return  # a key or a text that tomlkit does not write right
    check_lines(text)
