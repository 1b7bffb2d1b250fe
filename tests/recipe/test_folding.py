"""Folding: patterns that match the names, and nothing else."""

import re

from hypothesis import given
from hypothesis import strategies as st

from qdqcli.recipe.folding import folded_globs, folded_regexes, plain_name
from qdqcli.recipe.patterns import compile_pattern

LAYERS = [f"model.layers.{i}.{part}" for i in range(12) for part in ("mlp.up_proj", "attn.q_proj", "attn.k_proj")]
NAMES = st.lists(
    st.lists(st.sampled_from(["a", "b", "0", "1", "10", "a-b", "x_y"]), min_size=1, max_size=4).map(".".join),
    unique=True,
)


def matched_by(expressions: list[str], names: list[str]) -> list[list[str]]:
    return [[name for name in names if re.fullmatch(expression, name)] for expression in expressions]


@given(NAMES, st.data())
def test_expressions_match_the_names_once_and_no_others(names: list[str], data: st.DataObject) -> None:
    own = [name for name in names if data.draw(st.booleans())]
    expressions = folded_regexes(own, set(names) - set(own))
    found = [name for matched in matched_by(expressions, names) for name in matched]
    assert sorted(found) == sorted(own)
    assert len(expressions) <= len(own)


@given(NAMES, st.data())
def test_globs_match_the_names_and_no_others(names: list[str], data: st.DataObject) -> None:
    own = [name for name in names if data.draw(st.booleans())]
    tests = [compile_pattern(glob, names) for glob in folded_globs(own, set(names) - set(own))]
    assert {name for name in names if any(test(name) for test in tests)} == set(own)


def test_names_that_differ_in_one_component_share_an_expression() -> None:
    own = [name for name in LAYERS if "attn" in name]
    assert folded_regexes(own, set(LAYERS) - set(own)) == [r"model\.layers\.\d+\.attn\.(k_proj|q_proj)"]


def test_numbers_are_listed_by_value_where_others_have_numbers_too() -> None:
    own = [f"model.layers.{i}.mlp.up_proj" for i in (10, 2, 1)]
    assert folded_regexes(own, set(LAYERS) - set(own)) == [r"model\.layers\.(1|2|10)\.mlp\.up_proj"]


def test_a_single_name_is_told_from_an_expression() -> None:
    (expression,) = folded_regexes(["a.b-c.weight"], ())
    assert plain_name(expression, ["a.b-c.weight"]) == "a.b-c.weight"
    assert plain_name(r"a\.(b|c)", ["a.b", "a.c"]) is None


def test_experts_of_a_layer_share_a_glob_where_layers_differ() -> None:
    names = [
        f"model.layers.{i}.mlp.experts.{j}.{part}.weight" for i in range(4) for j in range(8) for part in ("up", "down")
    ]
    own = [name for name in names if ".layers.1." in name or ".layers.3." in name]
    assert folded_globs(own, set(names) - set(own)) == [
        f"model.layers.{i}.mlp.experts.*.{part}.weight" for i in (1, 3) for part in ("up", "down")
    ]
