"""Patterns: names that are patterns themselves, tensors of one name told apart by their files, nearest names."""

import pytest

from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.patterns import Covering, Tables, compile_pattern, holders_of, matches_any, nearest_names, unmatched
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.rule import Rule
from tests.growth import growth
from tests.recipe.test_recipe import SPEC, selected_names, tensor

ENCODER = FileRef("models/pipe/text_encoder/model.safetensors", 2)
ENCODER_2 = FileRef("models/pipe/text_encoder_2/model.safetensors", 2)
UNET = FileRef("models/pipe/unet/model-00001-of-00002.safetensors", 2)
HOLDERS = holders_of([("w", ENCODER), ("w", ENCODER_2), ("a#b", UNET), ("conv", UNET)])


def rule(*patterns: str) -> Rule:
    return Rule(patterns=patterns, source="r.toml", number=1, line=1)


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("w", [ENCODER, ENCODER_2]),
        ("text_encoder/model.safetensors#w", [ENCODER]),
        ("pipe/text_encoder/model.safetensors#w", [ENCODER]),
        ("models/pipe/text_encoder/model.safetensors#w", [ENCODER]),
        ("text_encoder#w", [ENCODER]),
        ("pipe/text_encoder#w", [ENCODER]),
        ("text_encoder#*", [ENCODER]),
        ("text_encoder*#w", [ENCODER, ENCODER_2]),
        ("*_2/*#re:.", [ENCODER_2]),
        ("[st]ext_encoder#w", [ENCODER]),
        ("model.safetensors#w", []),  # the path within INPUT, from its beginning
        ("encoder#w", []),
        ("pipe#w", []),  # INPUT itself and what lies above it say nothing of the file
        ("models#w", []),
        ("unet#w", []),
        ("#w", []),
        ("text_encoder#", []),
        ("re:text_encoder#w", []),
    ],
)
def test_file_and_name(pattern: str, files: list[FileRef]) -> None:
    matches = compile_pattern(pattern, HOLDERS)
    assert [file for file in (ENCODER, ENCODER_2) if matches("w", file)] == files
    assert [file for file in (ENCODER, ENCODER_2) if Tables([rule(pattern)], HOLDERS).numbers("w", file)] == files
    assert matches_any(pattern, HOLDERS) == bool(files)


def test_a_file_that_is_the_input_goes_by_its_name() -> None:
    ref = FileRef("v1/model.safetensors")
    assert [p for p in ("model.safetensors#w", "v1/model.safetensors#w", "v1#w", "v2/model.safetensors#w")
            if compile_pattern(p)("w", ref)] == ["model.safetensors#w", "v1/model.safetensors#w"]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "inputs", "ref"),
    [
        ("m/a/b.safetensors", ["m"], FileRef("m/a/b.safetensors", 2)),
        ("m/a/b.safetensors", ["m/", "m/a"], FileRef("m/a/b.safetensors", 1)),
        ("x/m.safetensors", ["x/m.safetensors"], FileRef("x/m.safetensors", 1)),
        ("/m.npy", ["/"], FileRef("/m.npy", 1)),
    ],
)
def test_a_row_of_a_report_has_the_file_of_its_tensor(path: str, inputs: list[str], ref: FileRef) -> None:
    assert FileRef.within(path, inputs) == ref


def test_a_name_with_the_separator_is_reached_by_itself_and_with_a_file() -> None:
    for pattern in ("a#b", "*#a#b", "unet#a#b", "unet#a*", "a[#]b", "*[#]b"):
        assert compile_pattern(pattern, HOLDERS)("a#b", UNET)
        assert Tables([rule(pattern)], HOLDERS).numbers("a#b", UNET) == (0,)
        assert matches_any(pattern, HOLDERS)


@pytest.mark.parametrize("name", ["params['dense'][0]", "a[bc]d", "re:(", "*", "a?", "[", "x#y", "re:.*"])
def test_a_name_that_is_there_matches_itself(name: str) -> None:
    tensors = [tensor(name), tensor("other")]
    assert name in selected_names(tensors, include=[name])
    assert name not in selected_names(tensors, exclude=[name])


def test_brackets_of_a_name_that_is_there_match_nothing_else() -> None:
    tensors = [tensor(name) for name in ("a[bc]d", "abd", "acd")]
    assert selected_names(tensors, include=["a[bc]d"]) == ["a[bc]d"]
    assert selected_names(tensors[1:], include=["a[bc]d"]) == ["abd", "acd"]


def test_a_tensor_called_star_takes_nothing_from_the_star_of_a_pattern() -> None:
    tensors = [tensor(name) for name in ("*", "w", "re:.*")]
    assert selected_names(tensors, include=["*"]) == ["*", "w", "re:.*"]
    assert selected_names(tensors, include=["re:.*"]) == ["*", "w", "re:.*"]


def test_rules_take_names_with_brackets_too() -> None:
    tables = Tables([rule("a[bc]d"), rule("a*")], {"a[bc]d", "abd"})
    assert (tables.numbers("a[bc]d"), tables.numbers("abd")) == ((0, 1), (1,))


def test_patterns_that_cover_others_by_file_and_name() -> None:
    covering = Covering([rule("w*"), rule("text*#w*"), rule("unet#*")])
    assert covering.numbers("weight") == (0,)
    assert covering.numbers("text_encoder#weight") == (0, 1)
    assert covering.numbers("unet#bias") == (2,)


def test_a_file_that_is_not_there_says_which_are() -> None:
    message = unmatched("vae#w", HOLDERS)
    assert message.startswith("pattern 'vae#w' matches none of 4 tensors; no file matches 'vae'; files: ")
    assert "'text_encoder/model.safetensors'" in message
    assert unmatched("unet#conw", HOLDERS).endswith("nearest names: 'conv'")


def test_the_search_for_the_nearest_name_is_bounded() -> None:
    def search(length: int) -> None:
        nearest_names("q" + "abdcefghij" * 24, [f"{'abcdefghij' * length}{i}" for i in range(30)])

    assert growth(search, 2_000, 20_000) < 40
    names = [f"layer.{i}.weight" for i in range(50_000)]
    assert "'layer.7.weight'" in nearest_names("layer.7.wieght", names)


def test_selection_by_file() -> None:
    tensors = [tensor("w")._replace(shard=shard) for shard in ("a/model.safetensors", "b/model.safetensors")]
    decisions, _ = Recipe(spec=SPEC, include=["b#w"]).decide(tensors)
    assert [decision == SPEC for decision in decisions] == [False, True]
    skipping = Rule(patterns=["a#*"], skip="kept", source="r.toml", number=1, line=1)
    decisions, _ = Recipe(spec=SPEC, rules=[skipping]).decide(tensors)
    assert [decision == SPEC for decision in decisions] == [False, True]
