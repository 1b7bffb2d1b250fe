"""A recipe's text: what is read, and what is refused with the line and the nearest name."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qdqcli.errors import UsageError
from qdqcli.recipe.file import RecipeFile, parse_recipe, read_recipe
from qdqcli.recipe.keys import PLANNING, RULE, SELECTION, SETTINGS, SHORT, json_schema
from qdqcli.recipe.preset import PRESETS, preset_text

HEAD = "schema = 1\n"
RULE_OF_ALL = '[[rules]]\nmatch = "*"\n'
VALUES: dict[str, Any] = {
    "num_bits": 4, "signed_input": False, "narrow_range": True, "round_mode": "half_up", "axis": "last",
    "group_size": 32, "ragged_groups": True, "indivisible": "skip",
    "input_min": -1.5, "input_max": 2, "estimator": "mse", "percentile": 99.5,
    "compute_dtype": "native", "min_ndim": 2,
}  # fmt: skip
EXCLUSIVE = ({"group_size", "ragged_groups"}, {"input_min", "input_max"})


def refusal(text: str, *, is_json: bool = False) -> str:
    with pytest.raises(UsageError) as raised:
        parse_recipe(text, "r.toml", is_json=is_json)
    return str(raised.value)


def validates(data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(json_schema()).is_valid(data))


def test_the_example_of_the_contract() -> None:
    recipe = parse_recipe(
        HEAD + '[defaults]\nnum_bits = 8\naxis = 0\n[[rules]]\nmatch = "*.mlp.*.weight"\nnum_bits = 4\n'
        'group_size = 128\n[[rules]]\nmatch = ["*norm*", "re:.*embed.*"]\nskip = "kept in float"\n',
        "r.toml",
    )
    first, second = recipe.rules
    assert recipe.defaults == {"num_bits": 8, "axis": 0}
    assert (first.patterns, first.changes, first.skip) == (
        ("*.mlp.*.weight",),
        {"num_bits": 4, "group_size": 128},
        None,
    )
    assert (second.patterns, second.changes, second.skip) == (("*norm*", "re:.*embed.*"), {}, "kept in float")
    assert (first.place, second.place) == ("rule 1 (line 5)", "rule 2 (line 9)")


def groups() -> list[dict[str, Any]]:
    """Every key once, with those that belong together and without those that exclude it."""
    first = {key: value for key, value in VALUES.items() if not any(key in group for group in EXCLUSIVE)}
    return [first, {"group_size": 32, "ragged_groups": True}, {"input_min": -1.5, "input_max": 2}]


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("settings", groups(), ids=str)
def test_every_key_in_defaults_and_in_rules(tmp_path: Path, settings: dict[str, Any], is_json: bool) -> None:
    data = {"schema": 1, "defaults": settings, "rules": [{"match": "*", **settings}]}
    path = tmp_path / ("r.json" if is_json else "r.toml")
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    path.write_text(json.dumps(data) if is_json else f"{HEAD}[defaults]\n{lines}{RULE_OF_ALL}{lines}")
    recipe = read_recipe(path)
    expected = {key: value.upper() if key == "round_mode" else value for key, value in settings.items()}
    assert recipe.defaults == recipe.rules[0].changes == expected
    assert validates(data)


def test_the_samples_above_hold_every_key() -> None:
    assert set(VALUES) == set(SETTINGS)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("num_bit = 4\n", 1, ("unknown key 'num_bit'", "the nearest is num_bits")),
        (HEAD + "[default]\n", 2, ("unknown key 'default'", "defaults")),
        (HEAD + "[defaults]\naxis = 0\nnum-bits = 4\n", 4, ("'num-bits' in [defaults]", "num_bits")),
        (HEAD + RULE_OF_ALL + "\n\ngroupsize = 4\n", 6, ("'groupsize' in rule 1", "group_size")),
        (HEAD + RULE_OF_ALL + "axis = 0\n" + RULE_OF_ALL + "xyzzy = 1\n", 7, ("'xyzzy' in rule 2", "known are match")),
        (HEAD + '[defaults]\nmatch = "a"\n', 3, ("unknown key 'match' in [defaults]",)),
        (HEAD + RULE_OF_ALL + 'include = "a"\n', 4, ("unknown key 'include' in rule 1",)),
        ("schema = 2\n", 1, ("schema is 2", "must be 1")),
        ("schema = true\n", 1, ("schema is true",)),
        (HEAD + f"[defaults]\nnum_bits = 0x{'f' * 5000}\n", 3, ("num_bits is a number of very many digits",)),
        (HEAD + f"[defaults]\ngroup_size = {10**400}\n", 3, ("an integer from 1 on",)),
        (HEAD + "[defaults]\ninput_min = -inf\ninput_max = 1\n", 3, ("input_min is -inf", "a number")),
        (HEAD + "[defaults]\nnum_bits = 0\n", 3, ("num_bits is 0", "an integer from 1 to 62")),
        (HEAD + "[defaults]\nnum_bits = 63\n", 3, ("num_bits is 63",)),
        (HEAD + "[defaults]\nnum_bits = 4.5\n", 3, ("num_bits is 4.5", "an integer")),
        (HEAD + "[defaults]\nnum_bits = true\n", 3, ("num_bits is true",)),
        (HEAD + '[defaults]\nnum_bits = "4"\n', 3, ("num_bits is '4'",)),
        (HEAD + '[defaults]\nround_mode = "UP"\n', 3, ("round_mode is 'UP'", "one of HALF_TO_EVEN, HALF_UP")),
        (HEAD + '[defaults]\naxis = "first"\n', 3, ("axis is 'first'", '"none" or "last" or "channel" or', "0,1")),
        (HEAD + "[defaults]\naxis = -2\n", 3, ("axis is -2",)),
        (HEAD + "[defaults]\ngroup_size = 0\n", 3, ("group_size is 0", "from 1 on")),
        (HEAD + "[defaults]\nsigned_input = 1\n", 3, ("signed_input is 1", "true or false")),
        (HEAD + "[defaults]\npercentile = 50\n", 3, ("percentile is 50", "above 50 and up to 100")),
        (HEAD + "[defaults]\ninput_min = nan\ninput_max = 1\n", 3, ("input_min is nan", "a number")),
        (HEAD + "[defaults]\ninput_min = 0\n", 2, ("[defaults] sets one end", "belong together")),
        (HEAD + RULE_OF_ALL + "input_min = 2\ninput_max = 1\n", 4, ("input_min is above input_max",)),
        (HEAD + RULE_OF_ALL + "axis = 0\ngroup_size = 4\n", 4, ("rule 1 sets axis and group_size", "exclude")),
        (HEAD + RULE_OF_ALL + 'input_min = 0\ninput_max = 1\nestimator = "mse"\n', 6, ("a range and an estimator",)),
        (HEAD + "[[rules]]\nnum_bits = 4\n", 2, ("rule 1 has no match",)),
        (HEAD + '[[rules]]\nmatch = ""\nnum_bits = 4\n', 3, ("match is ''",)),
        (HEAD + "[[rules]]\nmatch = []\nnum_bits = 4\n", 3, ("match is []", "a list of them")),
        (HEAD + '[[rules]]\nmatch = ["a",\n1]\nnum_bits = 4\n', 3, ("match is",)),
        (HEAD + '[[rules]]\nmatch = ["a",\n"re:("]\nnum_bits = 4\n', 4, ("'re:(' is not a regular expression",)),
        (HEAD + RULE_OF_ALL, 2, ("rule 1 names no setting", "skip with a reason")),
        (HEAD + RULE_OF_ALL + "skip = true\n", 4, ("skip is true", "a reason or false")),
        (HEAD + RULE_OF_ALL + 'skip = " "\n', 4, ("skip is ' '", "a reason")),
        (HEAD + RULE_OF_ALL + 'skip = "a"\nnum_bits = 4\n', 2, ("skips its tensors and sets num_bits",)),
        (HEAD + RULE_OF_ALL + 'skip = "a"\noptional = "yes"\n', 5, ("optional is 'yes'", "true or false")),
        (HEAD + "defaults = 4\n", 2, ("defaults must be a table",)),
        (HEAD + "[rules]\n", 2, ("rules must be tables",)),
        (HEAD + "description = 4\n", 2, ("description is 4; it must be a text",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, words: tuple[str, ...]) -> None:
    message = refusal(text)
    assert message.startswith(f"r.toml:{line}: "), message
    for word in words:
        assert word in message


def test_a_json_recipe_is_refused_with_its_line_too() -> None:
    text = json.dumps({"schema": 1, "rules": [{"match": "a", "num_bits": 4}, {"match": "b", "nm_bits": 4}]}, indent=1)
    line = next(number for number, row in enumerate(text.split("\n"), 1) if "nm_bits" in row)
    message = refusal(text, is_json=True)
    assert message.startswith(f"r.toml:{line}: unknown key 'nm_bits' in rule 2; the nearest is num_bits")


@pytest.mark.parametrize(
    ("text", "is_json", "words"),
    [
        ("schema = ", False, "not TOML"),
        ("schema = 1\nschema = 1\n", False, "r.toml:2: not TOML: Cannot overwrite a value"),
        ("{", True, "is not JSON"),
        ('{"schema": 1, "schema": 1}', True, "'schema' twice"),
        ("[]", True, "not a JSON object"),
        ("x = " + "[" * 100_000, False, ""),
        ('{"x": ' + "[" * 100_000, True, "nested too deeply"),
    ],
)
def test_malformed_text_is_one_message(text: str, is_json: bool, words: str) -> None:
    message = refusal(text, is_json=is_json)
    assert message.startswith("r.toml:")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"\xff\xfe", "not UTF-8 at byte 0")],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "r.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_recipe(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("r", '\n {"schema": 1, "defaults": {"axis": 0}}'), ("R.JSON", '{"schema": 1, "defaults": {"axis": 0}}'),
     ("r.toml", "\ufeffschema = 1\n[defaults]\naxis = 0\n"), ("r.toml", "schema = 1\r\n[defaults]\r\naxis = 0\r\n")],
)  # fmt: skip
def test_files_as_other_programs_write_them(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_recipe(path).defaults == {"axis": 0}


def test_axis_minus_one_is_the_whole_tensor_with_a_note() -> None:
    recipe = parse_recipe(HEAD + "[defaults]\naxis = -1\n", "r.toml")
    assert recipe.defaults == {"axis": "none"}
    assert recipe.notes == ['r.toml:3: axis -1 is the op\'s word for "none"; the last axis is "last"']


def test_hostile_keys_are_escaped() -> None:
    assert refusal(HEAD + '"a\\u001b[31m" = 1\n').isprintable()


BAD_FOR_THE_SCHEMA: list[dict[str, Any]] = [
    {"schema": 2}, {"schema": 1, "default": {}}, {"schema": 1, "defaults": {"match": "a"}},
    {"schema": 1, "defaults": {"num_bits": 0}}, {"schema": 1, "defaults": {"num_bits": 4.5}},
    {"schema": 1, "defaults": {"axis": -2}}, {"schema": 1, "defaults": {"axis": 0, "group_size": 4}},
    {"schema": 1, "defaults": {"axis": "last", "group_size": 4}}, {"schema": 1, "defaults": {"input_min": 1}},
    {"schema": 1, "defaults": {"estimator": "mean"}}, {"schema": 1, "rules": [{"num_bits": 4}]},
    {"schema": 1, "rules": [{"match": "a"}]}, {"schema": 1, "rules": [{"match": [], "num_bits": 4}]},
    {"schema": 1, "rules": [{"match": "a", "skip": True}]}, {"schema": 1, "rules": [{"match": "a", "skip": " "}]},
    {"schema": 1, "rules": [{"match": "a", "skip": "b", "num_bits": 4}]}, {"schema": 1, "defaults": {"scheme": "nf4"}},
    {"schema": 1, "rules": [{"match": "a", "skip": "b", "scheme": "int4"}]},
    {"schema": 1, "rules": [{"match": "a", "optional": True}]}, {"schema": 1, "rules": {"match": "a", "axis": 0}},
    {"schema": 1, "defaults": {"percentile": 50}}, {"schema": 1, "defaults": {"round_mode": "Half_Up"}},
]  # fmt: skip
GOOD_FOR_THE_SCHEMA: list[dict[str, Any]] = [
    {}, {"schema": 1}, {"rules": []}, {"schema": 1, "description": "x", "defaults": {}, "rules": []},
    {"schema": 1, "defaults": {"axis": "none", "group_size": 4, "include": "a", "exclude": ["b", "re:c"]}},
    {"schema": 1, "defaults": {"axis": 0, "group_size": "none"}}, {"schema": 1, "defaults": {"num_bits": 4.0}},
    {"schema": 1, "rules": [{"match": "a", "skip": False, "num_bits": 4}, {"match": ["a"], "skip": False}]},
    {"schema": 1, "rules": [{"match": "a", "skip": "b", "optional": True}, {"match": "b", "scheme": "int4-g32"}]},
]  # fmt: skip


@pytest.mark.parametrize("data", [*BAD_FOR_THE_SCHEMA, *GOOD_FOR_THE_SCHEMA], ids=json.dumps)
def test_the_schema_and_the_reader_say_the_same(data: dict[str, Any]) -> None:
    try:
        accepted = isinstance(parse_recipe(json.dumps(data), "r.json", is_json=True), RecipeFile)
    except UsageError:
        accepted = False
    assert validates(data) is accepted is (data in GOOD_FOR_THE_SCHEMA)


def test_the_schema_is_one_and_describes_every_key() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for keys, part in ((SHORT | SETTINGS | SELECTION, schema["properties"]["defaults"]),
                       (SHORT | SETTINGS | PLANNING | RULE, schema["properties"]["rules"]["items"])):  # fmt: skip
        assert set(part["properties"]) == set(keys)
        assert all(entry["description"].endswith(".") for entry in part["properties"].values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset(name: str) -> None:
    import tomllib

    text = preset_text(name)
    recipe = parse_recipe(text, name)
    assert recipe.description.endswith(".")
    assert validates(tomllib.loads(text))
    assert all(rule.is_optional for rule in recipe.rules)
    assert all(len(line) <= 120 or line.startswith("description") for line in text.splitlines())
