"""Selection: which tensors, with which settings, and what is said when a choice does not fit."""

import pytest

from qdqcli.errors import UsageError
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.recipe.recipe import Recipe, why_nothing
from qdqcli.tensors.tensor import DTYPES, TensorInfo

SPEC = QuantSpec(num_bits=4)


def tensor(name: str, shape: tuple[int, ...] = (4, 8), dtype: str = "F32") -> TensorInfo:
    return TensorInfo(name=name, dtype=DTYPES[dtype], shape=shape, shard="m.safetensors", start=0, nbytes=0)


TENSORS = [
    tensor("layer.0.mlp.weight"),
    tensor("layer.0.mlp.bias", (8,)),
    tensor("layer.1.mlp.weight", dtype="BF16"),
    tensor("layer.1.norm", (8,), "F16"),
    tensor("embed", (10, 4), "F64"),
    tensor("ids", (3,), "I64"),
    tensor("scale", ()),
]


def selected(**choices: object) -> list[str]:
    """Names of the tensors that are quantized."""
    decisions, warnings = Recipe(spec=SPEC, **choices).decide(TENSORS)  # type: ignore[arg-type]
    assert warnings == []
    assert [decision for decision in decisions if not isinstance(decision, Skip)] == [SPEC] * sum(
        isinstance(decision, QuantSpec) for decision in decisions
    )
    return [t.name for t, decision in zip(TENSORS, decisions, strict=True) if isinstance(decision, QuantSpec)]


def selected_names(tensors: list[TensorInfo], **choices: object) -> list[str]:
    """Names of those that are quantized."""
    decisions, _ = Recipe(spec=SPEC, **choices).decide(tensors)  # type: ignore[arg-type]
    return [t.name for t, decision in zip(tensors, decisions, strict=True) if isinstance(decision, QuantSpec)]


def reasons(**choices: object) -> dict[str, str]:
    decisions, _ = Recipe(spec=SPEC, **choices).decide(TENSORS)  # type: ignore[arg-type]
    return {t.name: d.reason for t, d in zip(TENSORS, decisions, strict=True) if isinstance(d, Skip)}


def refusal(tensors: list[TensorInfo] = TENSORS, spec: QuantSpec = SPEC, **choices: object) -> str:
    with pytest.raises(UsageError) as raised:
        Recipe(spec=spec, **choices).decide(tensors)  # type: ignore[arg-type]
    return str(raised.value)


def test_every_floating_point_tensor_is_quantized_unless_something_says_no() -> None:
    assert selected() == [t.name for t in TENSORS if t.name != "ids"]


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"F32", "F64", "BF16", "F16"}))
def test_every_other_dtype_is_left_alone(dtype: str) -> None:
    decisions, _ = Recipe(spec=SPEC, include=["w"]).decide([tensor("w", dtype=dtype)])
    what = (
        "is already quantized"
        if dtype.startswith(("F8", "F6", "F4"))
        else "is not one of F16, BF16, F32, F64"
        if dtype == "C64"
        else "is not a floating-point dtype"
    )
    is_selected = not DTYPES[dtype].is_integer
    assert decisions == [Skip(reason=f"{dtype} {what}", is_selected=is_selected)]


@pytest.mark.parametrize(
    ("include", "names"),
    [
        (["embed"], ["embed"]),
        (["layer.0.*"], ["layer.0.mlp.weight", "layer.0.mlp.bias"]),
        (["*.weight"], ["layer.0.mlp.weight", "layer.1.mlp.weight"]),
        (["layer.?.norm"], ["layer.1.norm"]),
        (["layer.[1-9].*"], ["layer.1.mlp.weight", "layer.1.norm"]),
        (["embed", "scale"], ["embed", "scale"]),
        (["re:layer\\.\\d+\\.mlp\\.(weight|bias)"], ["layer.0.mlp.weight", "layer.0.mlp.bias", "layer.1.mlp.weight"]),
        (["re:.*norm|embed"], ["layer.1.norm", "embed"]),
        (["*"], [t.name for t in TENSORS if t.name != "ids"]),
    ],
)
def test_include(include: list[str], names: list[str]) -> None:
    assert selected(include=include) == names


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("layer", "layer.0", False),
        ("re:layer", "layer.0", False),
        ("re:.*0", "layer.0", True),
        ("re:a|b", "ab", False),
        ("LAYER.*", "layer.0", False),
        ("*", "a/b.c d\nnew line", True),
        ("re:^layer.*$", "layer.0", True),
        ("layer.0", "layerx0", False),
        ("re:", "", True),
        ("[[]x]", "[x]", True),
    ],
)
def test_a_pattern_is_about_the_whole_name(pattern: str, name: str, matches: bool) -> None:
    assert compile_pattern(pattern)(name) is matches


def test_exclude_wins_over_include() -> None:
    assert selected(include=["layer.*"], exclude=["*.bias", "re:.*norm"]) == [
        "layer.0.mlp.weight",
        "layer.1.mlp.weight",
    ]
    assert selected(include=["embed", "scale"], exclude=["embed"]) == ["scale"]


def test_exclude_alone_leaves_the_rest_selected() -> None:
    assert selected(exclude=["layer.*"]) == ["embed", "scale"]


@pytest.mark.parametrize(("min_ndim", "count"), [(0, 6), (1, 5), (2, 3)])
def test_min_ndim_counts_dimensions(min_ndim: int, count: int) -> None:
    assert len(selected(min_ndim=min_ndim)) == count


def test_each_skip_has_its_reason() -> None:
    found = reasons(include=["layer.*"], exclude=["*.bias"], min_ndim=2)
    assert found == {
        "layer.0.mlp.bias": "excluded by '*.bias'",
        "layer.1.norm": "fewer than 2 dimensions",
        "embed": "not included",
        "ids": "I64 is not a floating-point dtype",
        "scale": "not included",
    }


@pytest.mark.parametrize("choice", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_names(choice: str) -> None:
    message = refusal(**{choice: ["embd"]})
    assert message.startswith("pattern 'embd' matches none of 7 tensors; nearest names: 'embed'")
    assert "--allow-unmatched" in message
    assert "'layer.0.mlp.weight'" in refusal(**{choice: ["layer.0.mlp.weihgt"]})
    assert "did you mean 'layer.1.norm'" in refusal(**{choice: ["norm"]})
    assert "did you mean 'layer.0.*', which matches 2" in refusal(**{choice: ["layer.0"]})
    assert "did you mean '*.mlp.*', which matches 3" in refusal(**{choice: ["mlp"]})
    assert "'layer.1.norm'" in refusal(**{choice: ["*Norm*"]})


def test_a_pattern_near_to_nothing_offers_nothing() -> None:
    assert "nearest" not in refusal(include=["zzzzzzzzzzzz"])


def test_one_unmatched_pattern_among_matching_ones_is_an_error() -> None:
    assert "'embd'" in refusal(include=["layer.*", "embd"])


def test_unmatched_patterns_are_warnings_where_that_is_allowed() -> None:
    recipe = Recipe(spec=SPEC, include=["embed", "embd"], exclude=["nothing"])
    decisions, warnings = recipe.decide(TENSORS, allow_unmatched=True)
    assert [warning.split(" matches")[0] for warning in warnings] == ["pattern 'embd'", "pattern 'nothing'"]
    assert [isinstance(decision, QuantSpec) for decision in decisions].count(True) == 1


def test_an_unmatched_include_that_is_allowed_still_selects_nothing() -> None:
    decisions, _ = Recipe(spec=SPEC, include=["embd"]).decide(TENSORS, allow_unmatched=True)
    assert not any(isinstance(decision, QuantSpec) for decision in decisions)


def test_a_pattern_that_matches_only_what_is_not_quantized_does_match() -> None:
    assert selected(exclude=["ids"]) == selected()


def test_a_malformed_regular_expression_is_an_error_that_shows_it() -> None:
    assert "pattern 're:layer(' is not a regular expression" in refusal(include=["re:layer("])


def test_an_axis_that_tensors_lack_names_them_and_offers_min_ndim() -> None:
    message = refusal(spec=QuantSpec(axis=1))
    for name in ("'layer.0.mlp.bias'", "'layer.1.norm'", "'scale'"):
        assert name in message
    assert "'embed'" not in message
    assert "3 of the selected tensors" in message
    assert "--min-ndim" in message


def test_min_ndim_lifts_the_error_of_a_missing_axis() -> None:
    decisions, _ = Recipe(spec=QuantSpec(axis=1), min_ndim=2).decide(TENSORS)
    assert sum(isinstance(decision, QuantSpec) for decision in decisions) == 3


def test_many_tensors_without_the_axis_are_counted_not_listed() -> None:
    message = refusal([tensor(f"bias.{i}", (3,)) for i in range(40)], QuantSpec(axis=1))
    assert "40 of the selected tensors" in message
    assert "'bias.4' and 35 more" in message
    assert "'bias.5'" not in message


def test_a_group_size_that_does_not_divide_names_the_tensors() -> None:
    message = refusal(spec=QuantSpec(group_size=8))
    assert "group_size 8 does not divide the last dimension of shape [10, 4]" in message
    assert "2 of the selected tensors: 'embed', 'scale'" in message
    assert "--indivisible skip" in message


def test_ragged_groups_lift_the_error_of_a_group_size() -> None:
    decisions, _ = Recipe(spec=QuantSpec(group_size=8, ragged_groups=True)).decide(TENSORS)
    assert sum(isinstance(decision, QuantSpec) for decision in decisions) == 6


def test_the_last_axis_is_each_tensors_own() -> None:
    tensors = [tensor("a", (2, 3, 4)), tensor("b", (2, 3)), tensor("c", (2,))]
    decisions, _ = Recipe(spec=SPEC, axis="last").decide(tensors)
    assert [decision.axis for decision in decisions if isinstance(decision, QuantSpec)] == [2, 1, 0]


def test_a_scalar_has_no_last_axis() -> None:
    message = refusal([tensor("a"), tensor("s", ())], axis="last")
    assert "'s'" in message
    assert "--min-ndim" in message


def test_nothing_selected_says_why() -> None:
    decisions, _ = Recipe(spec=SPEC, exclude=["*.weight", "embed"], min_ndim=2).decide(TENSORS)
    for reason in ("2 tensors: excluded by '*.weight'", "3 tensors: fewer than 2 dimensions", "I64 is not"):
        assert reason in why_nothing(decisions)


def test_no_tensors_at_all_is_nothing_selected() -> None:
    assert why_nothing([]) == "the input has no tensors"


def test_hostile_names_are_escaped_in_messages() -> None:
    hostile = tensor("a\x1b[31m\nerror: x", (3,))
    message = refusal([hostile], QuantSpec(axis=1))
    assert message.isprintable()
    assert "\\x1b" in message
    assert refusal([hostile], include=["b\x1b"]).isprintable()
