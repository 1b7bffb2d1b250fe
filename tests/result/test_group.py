"""Shares of the squared error, and groups of tensors measured as one."""

import json

import pytest

from qdqcli.result.group import groups_by, kind_of, layer_of
from qdqcli.result.read import from_json
from qdqcli.result.result import ROW_STATS, RunResult, TensorResult, to_json, with_shares
from qdqcli.stats.metrics import METRICS
from tests.report.samples import BAD, EMPTY, EVERY_KIND, EXACT, GOOD, quantized, run_of, skipped
from tests.stats.samples import measured


def test_shares_are_parts_of_the_summed_squared_error() -> None:
    half, tenth = quantized("a", [1.0], [1.5]), quantized("b", [1.0], [1.1])
    rows = with_shares([half, skipped("ids", "no float"), tenth, EXACT])
    shares = [row.share for row in rows if isinstance(row, TensorResult)]
    assert shares == pytest.approx([0.25 / 0.26, 0.01 / 0.26, 0.0])
    assert [row.stats["share"] for row in rows if isinstance(row, TensorResult)] == shares


def test_nothing_lost_has_no_share() -> None:
    assert [row.share for row in with_shares([EXACT, EXACT]) if isinstance(row, TensorResult)] == [None, None]


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("encoder.layer.3.output.dense.weight", "encoder.layer.*.output.dense.weight", "encoder.layer.3"),
        ("model.layers.10.mlp.experts.7.w1.weight", "model.layers.*.mlp.experts.*.w1.weight", "model.layers.10"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens"),
        ("conv2d.weight", "conv2d.weight", "conv2d"),
        ("w", "w", "w"),
        ("", "", ""),
    ],
)
def test_kinds_and_layers_of_names(name: str, kind: str, layer: str) -> None:
    assert (kind_of(name), layer_of(name)) == (kind, layer)


def test_a_group_measures_its_tensors_as_one() -> None:
    first = quantized("l.0.w", [1.0, -2.0, 3.0], [1.25, -2.0, 3.0])
    second = quantized("l.1.w", [5.0], [4.0])
    other = quantized("head", [1.0], [1.5])
    run = run_of(*with_shares([first, other, second, skipped("ids", "no float")]))
    groups = {group.name: group for group in groups_by(run, "kind")}
    assert list(groups) == ["l.*.w", "head"]
    together = measured([1.0, -2.0, 3.0, 5.0], [1.25, -2.0, 3.0, 4.0])
    stats = groups["l.*.w"].stats
    assert list(stats) == list(ROW_STATS)
    assert {name: stats[name] for name in METRICS} == {name: m.value(together) for name, m in METRICS.items()}
    assert stats["bits_per_weight"] == (2 * 4 * 16 + 4 * 8) / 4
    assert stats["share"] == pytest.approx((0.0625 + 1) / (0.0625 + 1 + 0.25))
    assert [len(group.rows) for group in groups_by(run, "layer")] == [1, 1, 1]


def test_every_row_is_in_one_group_of_each_kind() -> None:
    for by in ("kind", "layer", "input"):
        rows = [row for group in groups_by(EVERY_KIND, by) for row in group.rows]
        assert sorted(map(id, rows)) == sorted(map(id, EVERY_KIND.quantized))


def test_inputs_are_told_apart_by_whole_names() -> None:
    rows = [quantized("w", [1.0], [1.5], file=file) for file in ("m/a.safetensors", "m2/a.safetensors", "x.npy")]
    run = RunResult(command="stats", inputs=["m", "m2", "x.npy"], settings={}, rows=[*rows, GOOD, BAD])
    assert [(group.name, len(group.rows)) for group in groups_by(run, "input")] == [
        ("m", 1), ("m2", 1), ("x.npy", 1), ("m.safetensors", 2)
    ]  # fmt: skip


def test_groups_of_an_earlier_report_have_the_figures_of_the_measurement() -> None:
    rows = [
        quantized("l.0.w", [1.0, -2.0, 3.0], [1.25, -2.0, 3.0]),
        quantized("l.1.w", [5.0, 1e-3], [4.0, 0.0]),
        quantized("same.0", [1.0], [1.0]),
        quantized("half.0", [1.0], [1.0]),
        quantized("half.1", [1.0], [1.5]),
        EMPTY,
    ]
    run = run_of(*with_shares(rows))
    stored = from_json(json.loads(json.dumps(to_json(run))))
    for measured_group, group in zip(groups_by(run, "kind"), groups_by(stored, "kind"), strict=True):
        is_hidden = group.name == "half.*"  # nothing tells the energy of a tensor that did not change
        unknown = {"cosine_similarity", *({"sqnr_db", "relative_l2"} if is_hidden else ())}
        for name in {*ROW_STATS} - unknown - {"bits_per_weight"}:  # the samples' slices are made up
            found, expected = group.stats[name], measured_group.stats[name]
            assert found == (None if expected is None else pytest.approx(expected, rel=1e-12)), (group.name, name)
        if is_hidden:
            assert [group.stats[name] for name in sorted(unknown)] == [None] * 3
