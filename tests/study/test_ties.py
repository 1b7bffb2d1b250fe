"""Which tensors share one choice."""

import pytest

from qdqcli.study.ties import fused_key, make_ties

LLAMA = [
    f"model.layers.{layer}.{module}.weight"
    for layer in range(2)
    for module in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
]  # fmt: skip


def test_what_engines_fuse_is_tied_within_its_layer() -> None:
    ties = make_ties(LLAMA)
    assert [tie.members for tie in ties] == [(0, 1, 2), (3,), (4, 5), (6,), (7, 8, 9), (10,), (11, 12), (13,)]
    assert ties[0].name == "model.layers.0.self_attn.q_proj+k_proj+v_proj.weight"
    assert ties[1].name == LLAMA[3]


def test_the_routed_experts_of_a_layer_are_one_choice() -> None:
    names = [
        f"layers.{layer}.mlp.experts.{e}.{m}.weight" for layer in (0, 1) for e in (0, 1) for m in ("w1", "w2", "w3")
    ]
    assert [tie.members for tie in make_ties(names)] == [tuple(range(6)), tuple(range(6, 12))]


def test_shared_experts_are_not_routed_ones() -> None:
    assert fused_key("layers.0.mlp.shared_experts.down_proj.weight") is None


def test_a_weight_is_not_tied_to_a_bias() -> None:
    assert len(make_ties(["a.q_proj.weight", "a.k_proj.bias"])) == 2


def test_nothing_is_tied_by_name_where_that_is_off() -> None:
    assert len(make_ties(LLAMA, automatic=False)) == len(LLAMA)


def test_groups_are_added_and_tensors_taken_out() -> None:
    ties = make_ties(
        LLAMA,
        groups={"outputs": lambda name: "o_proj" in name},
        apart=[lambda name: name.startswith("model.layers.0.mlp.")],
    )
    assert [tie.members for tie in ties] == [(0, 1, 2), (3, 10), (4,), (5,), (6,), (7, 8, 9), (11, 12), (13,)]
    assert ties[1].name == "outputs"


def test_equal_bytes_are_one_choice_also_across_groups() -> None:
    assert [tie.members for tie in make_ties(LLAMA, duplicates=[(0, 3)])][:2] == [(0, 1, 2, 3), (4, 5)]


def test_a_group_of_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="outputs"):
        make_ties(LLAMA, groups={"outputs": lambda name: name == LLAMA[3]})
