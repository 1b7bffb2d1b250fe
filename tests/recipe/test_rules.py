"""What rules make of tensors: later ones override the settings that they name, and what is contradictory is refused."""

from typing import Any

import pytest

from qdqcli.errors import UsageError
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.recipe.decision import Resolution, Skip
from qdqcli.recipe.file import parse_recipe
from qdqcli.recipe.recipe import Recipe
from qdqcli.tensors.tensor import DTYPES, TensorInfo

SPEC = QuantSpec(compute_dtype=ComputeDType.FLOAT32)


def tensor(name: str, shape: tuple[int, ...] = (4, 8), dtype: str = "F32") -> TensorInfo:
    return TensorInfo(name=name, dtype=DTYPES[dtype], shape=shape, shard="m", start=0, nbytes=0)


TENSORS = [
    tensor("a.mlp.weight"),
    tensor("a.attn.weight"),
    tensor("a.norm", (8,)),
    tensor("embed"),
    tensor("ids", dtype="I64"),
]
NAMES = [t.name for t in TENSORS]


def recipe(text: str, spec: QuantSpec = SPEC, **choices: Any) -> Recipe:
    """The rules of a recipe without defaults, the first of which stands in line 2."""
    return Recipe(spec=spec, rules=parse_recipe("schema = 1\n" + text, "r.toml").rules, **choices)


def resolved(text: str, spec: QuantSpec = SPEC, **choices: Any) -> dict[str, Resolution]:
    resolutions, warnings = recipe(text, spec, **choices).resolve(TENSORS)
    assert not warnings
    return dict(zip(NAMES, resolutions, strict=True))


def refusal(text: str, spec: QuantSpec = SPEC, **choices: Any) -> str:
    with pytest.raises(UsageError) as raised:
        recipe(text, spec, **choices).resolve(TENSORS)
    return str(raised.value)


def rule(match: str, *lines: str) -> str:
    return f'[[rules]]\nmatch = "{match}"\n' + "".join(f"{line}\n" for line in lines)


def test_a_later_rule_overrides_the_settings_that_it_names_and_no_others() -> None:
    found = resolved(
        rule("a.*", "num_bits = 4", 'round_mode = "HALF_UP"')
        + rule("*.mlp.*", "num_bits = 3")
        + rule("embed", "axis = 1")
    )
    assert found["a.mlp.weight"].decision == QuantSpec(
        num_bits=3, round_mode=RoundMode.HALF_UP, compute_dtype=ComputeDType.FLOAT32
    )
    assert found["a.attn.weight"].decision == QuantSpec(
        num_bits=4, round_mode=RoundMode.HALF_UP, compute_dtype=ComputeDType.FLOAT32
    )
    assert found["embed"].decision == QuantSpec(axis=1, compute_dtype=ComputeDType.FLOAT32)
    assert found["a.mlp.weight"].decided_by == {"num_bits": "rule 2 (line 6)", "round_mode": "rule 1 (line 2)"}
    assert found["a.mlp.weight"].settings["num_bits"].places == ("rule 1 (line 2)", "rule 2 (line 6)")


def test_without_a_matching_rule_the_settings_are_those_of_all() -> None:
    found = resolved(rule("embed", "num_bits = 4"), places={"num_bits": ("[defaults]", "--num-bits")})
    assert found["a.norm"].decision == SPEC
    assert found["a.norm"].decided_by == {"num_bits": "--num-bits"}


def test_a_skip_has_its_reason_and_its_rule() -> None:
    found = resolved(rule("*norm", 'skip = "kept in float"'))
    assert found["a.norm"].decision == Skip(reason="kept in float")
    assert found["a.norm"].decided_by == {"skip": "rule 1 (line 2)"}
    assert found["embed"].decision == SPEC


def test_a_rule_that_skips_after_one_that_sets_wins() -> None:
    found = resolved(rule("*", "num_bits = 4") + rule("embed", 'skip = "no"'))
    assert found["embed"].decision == Skip(reason="no")
    assert found["a.norm"].decision == QuantSpec(num_bits=4, compute_dtype=ComputeDType.FLOAT32)


def test_skip_false_lifts_an_earlier_skip() -> None:
    found = resolved(rule("a.*", 'skip = "no"') + rule("a.mlp.*", "skip = false", "num_bits = 5"))
    assert found["a.mlp.weight"].decision == QuantSpec(num_bits=5, compute_dtype=ComputeDType.FLOAT32)
    assert found["a.attn.weight"].decision == Skip(reason="no")


def test_a_group_size_takes_the_place_of_an_axis() -> None:
    found = resolved(rule("*.mlp.*", "group_size = 4"), QuantSpec(axis=0))
    assert found["a.mlp.weight"].decision == QuantSpec(group_size=4)
    assert found["a.mlp.weight"].decided_by["axis"] == "rule 1 (line 2)"
    assert found["embed"].decision == QuantSpec(axis=0)


def test_no_group_size_gives_an_axis_its_place_again() -> None:
    spec = QuantSpec(group_size=4)
    found = resolved(rule("embed", 'group_size = "none"', "axis = 1"), spec)
    assert found["embed"].decision == QuantSpec(axis=1)
    assert found["a.mlp.weight"].decision == spec


def test_the_last_axis_is_each_tensors_own() -> None:
    found = resolved(rule("a.*", 'axis = "last"'))
    assert [found[name].decision.axis for name in NAMES[:4]] == [1, 1, 0, -1]  # type: ignore[union-attr]


def test_a_given_range_takes_the_place_of_an_estimator() -> None:
    found = resolved(rule("embed", "input_min = -1", "input_max = 2.5"), QuantSpec(estimator="mse"))
    assert found["embed"].decision == QuantSpec(given_range=(-1, 2.5))
    assert found["a.norm"].decision == QuantSpec(estimator="mse")


def test_another_estimator_forgets_the_percentile() -> None:
    spec = QuantSpec(estimator="percentile", percentile=99.0)
    found = resolved(rule("embed", 'estimator = "mse"') + rule("a.norm", "percentile = 95"), spec)
    assert found["embed"].decision == QuantSpec(estimator="mse")
    assert found["a.norm"].decision == QuantSpec(estimator="percentile", percentile=95.0)


def test_rules_override_min_ndim() -> None:
    found = resolved(rule("a.norm", "min_ndim = 1"), min_ndim=2)
    assert found["a.norm"].decision == SPEC
    assert resolved(rule("embed", "min_ndim = 3"))["embed"].decision == Skip(reason="fewer than 3 dimensions")
    assert resolved(rule("embed", "min_ndim = 3"))["embed"].decided_by == {"min_ndim": "rule 1 (line 2)"}


def test_exclude_wins_over_rules() -> None:
    found = resolved(rule("a.*", "num_bits = 4"), exclude=["*.mlp.*"])
    assert found["a.mlp.weight"].decision == Skip(reason="excluded by '*.mlp.*'")
    assert "exclude" in found["a.mlp.weight"].settings


def test_integers_stay_as_they_are_whatever_matches() -> None:
    found = resolved(rule("*", "num_bits = 4"))
    assert found["ids"].decision == Skip(reason="I64 is not a floating-point dtype")


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        (rule("*.nrom", 'skip = "x"'), "r.toml:2: rule 1: pattern '*.nrom' matches none of 5 tensors",
         ("nearest names: 'a.norm'", "--allow-unmatched")),
        ('[[rules]]\nmatch = ["embed", "embd"]\naxis = 0\n', "r.toml:2: rule 1: pattern 'embd'", ("'embed'",)),
        (rule("a.mlp.*", "num_bits = 3") + rule("a.*", "num_bits = 4"), "r.toml:2: rule 1: decides nothing",
         ("for the 1 tensor that it matches", "rule 2 (line 5) overrides it")),
        (rule("a.norm", "num_bits = 3", "axis = 0") + rule("a.*", "num_bits = 4") + rule("*norm", 'skip = "no"'),
         "r.toml:2: rule 1: decides nothing", ("rule 3 (line 9) skips them",)),
        (rule("a.norm", 'skip = "a"') + rule("a.*", 'skip = "b"'), "r.toml:2: rule 1: decides nothing", ("rule 2",)),
        (rule("embed", 'skip = "x"') + rule("e*", "skip = false", "num_bits = 4"), "r.toml:2: rule 1: decides nothing",
         ("that it matches: rule 2 (line 5) lifts it",)),
        (rule("ids", "num_bits = 3"), "r.toml:2: rule 1: decides nothing", ("I64 is not a floating-point dtype",)),
        (rule("embed", "skip = false"), "r.toml:2: rule 1: decides nothing", ("nothing skips them before",)),
        (rule("*.norm", 'skip = "a"') + rule("a.*", "num_bits = 4"), "r.toml:5: rule 2: sets num_bits for 'a.norm'",
         ("skipped by rule 1 (line 2)", "skip = false")),
        (rule("a.*", "group_size = 4") + rule("*.mlp.*", "axis = 0"), "r.toml:5: rule 2: sets axis for 'a.mlp.weight'",
         ("where group_size 4 of rule 1 (line 2) holds", 'group_size = "none"')),
        (rule("embed", "input_min = 0", "input_max = 1") + rule("e*", 'estimator = "mse"'),
         "r.toml:6: rule 2: sets estimator for 'embed'", ("given by rule 1 (line 2)",)),
        (rule("embed", "ragged_groups = true"), "r.toml:2: rule 1: sets ragged_groups for 'embed'", ("no group_size",)),
        (rule("embed", "percentile = 99"), "r.toml:2: rule 1: sets percentile for 'embed'", ("estimator",)),
        (rule("embed", "num_bits = 62"), "r.toml:2: rule 1: leaves 'embed' with settings that the op refuses",
         ("num_bits is 62; signed input takes 1 to 61",)),
    ],
)  # fmt: skip
def test_what_silently_does_something_else_is_refused(text: str, start: str, words: tuple[str, ...]) -> None:
    message = refusal(text)
    assert message.startswith(start), message
    for word in words:
        assert word in message, message


def test_an_axis_where_the_groups_of_all_tensors_hold_is_refused() -> None:
    message = refusal(rule("embed", "axis = 0"), QuantSpec(group_size=4), places={"group_size": ("[defaults]",)})
    assert "where group_size 4 of [defaults] holds" in message


def test_an_estimator_overrides_the_ranges_of_a_file() -> None:
    found = resolved(rule("embed", 'estimator = "mse"'), QuantSpec(range_given=True), places={"ranges": ("--ranges",)})
    assert found["embed"].decision == QuantSpec(estimator="mse")
    assert found["a.norm"].decision == QuantSpec(range_given=True)


def test_a_rule_that_only_reaches_what_min_ndim_leaves_alone_is_refused() -> None:
    assert "left as they are, fewer than 2 dimensions" in refusal(rule("a.norm", "num_bits = 4"), min_ndim=2)


def test_several_problems_are_counted() -> None:
    text = rule("x", "num_bits = 4") + rule("y", "num_bits = 4") + rule("embed", "num_bits = 4")
    message = refusal(text)
    assert message.startswith("r.toml:2: rule 1: pattern 'x'")
    assert message.endswith("; 1 more: 'qdq recipe lint' lists them")


def test_unmatched_rules_may_be_allowed_and_nothing_else() -> None:
    text = rule("x", "num_bits = 4") + rule("embed", "num_bits = 4")
    resolutions, warnings = recipe(text).resolve(TENSORS, allow_unmatched=True)
    assert warnings == ["r.toml:2: rule 1: pattern 'x' matches none of 5 tensors"]
    assert resolutions[3].decided_by == {"num_bits": "rule 2 (line 5)"}
    with pytest.raises(UsageError, match="decides nothing"):
        recipe(text + rule("e*", "num_bits = 5")).resolve(TENSORS, allow_unmatched=True)


def test_an_optional_rule_may_match_nothing_or_decide_nothing() -> None:
    text = rule("*router*", 'skip = "r"', "optional = true") + rule("*norm", 'skip = "n"', "optional = true")
    assert resolved(text)["a.norm"].decision == Skip(reason="n")
    assert resolved(text + rule("a.norm", 'skip = "mine"'))["a.norm"].decision == Skip(reason="mine")


def test_optional_rules_none_of_which_matches_are_spoken_of() -> None:
    text = rule("*router*", 'skip = "r"', "optional = true") + rule("*gate*", 'skip = "n"', "optional = true")
    _, warnings = recipe(text).resolve(TENSORS)
    assert warnings == ["r.toml: none of its 2 rules matches any of 5 tensors"]


def test_settings_that_tensors_cannot_take_name_the_rule() -> None:
    assert "rank 1, set by rule 1 (line 2); 1 of the selected tensors: 'a.norm'" in refusal(rule("*", "axis = 1"))
    message = refusal(rule("embed", "group_size = 3"))
    assert "group_size 3 does not divide" in message
    assert "set by rule 1 (line 2)" in message


def test_a_plain_name_among_ten_thousand_rules() -> None:
    rules = "".join(rule(f"layer.{i}", f"num_bits = {i % 7 + 2}") for i in range(2000))
    tensors = [tensor(f"layer.{i}") for i in range(2000)]
    decisions, _ = recipe(rules).decide(tensors)
    assert [d.num_bits for d in decisions] == [i % 7 + 2 for i in range(2000)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (rule("a.*", "num_bits = 4") + rule("*", "num_bits = 5"), "rule 1: decides nothing"),
        (rule("a", "num_bits = 4") + rule("a", "num_bits = 5"), "rule 1: decides nothing"),
        (rule("re:a+", "axis = 0") + rule("re:a+", "axis = 1"), "rule 1: decides nothing"),
        (rule("*norm*", 'skip = "x"') + rule("*", "num_bits = 4"), "sets num_bits for '*norm*', skipped by rule 1"),
        (rule("*.mlp.*", "group_size = 4") + rule("*.mlp.*.weight", "axis = 0"), "sets axis for '*.mlp.*.weight'"),
        (rule("*", "num_bits = 4") + rule("a.*", "num_bits = 5"), None),
        (rule("a?", "num_bits = 4") + rule("a*", 'skip = "x"'), "rule 1: decides nothing"),
        (rule("a*", "num_bits = 4") + rule("a?", "num_bits = 5"), None),
        (rule("[ab]c", "num_bits = 4") + rule("*b*", "num_bits = 5"), None),
        (rule("re:.*", "num_bits = 4") + rule("*", "num_bits = 5"), None),
    ],
)
def test_what_is_wrong_whatever_the_tensors(text: str, words: str | None) -> None:
    found = [str(finding) for finding in recipe(text).findings_without_tensors()]
    assert (len(found) == 1 and words in found[0]) if words else not found, found
