"""A run against an earlier one: worse fails, better never does, and what is not comparable is named."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qdqcli.op.spec import QuantSpec
from qdqcli.report.verdict import predicate, sentence
from qdqcli.result.packing import Packing
from qdqcli.result.result import Row, RunResult, TensorResult
from qdqcli.tensors.packed.storage import CodeGrid, Storage
from tests.gate.samples import verdict
from tests.report.samples import BAD, EXACT, GOOD, KEPT, quantized, run_of, skipped

NAME = GOOD.source.name
WORSE = GOOD._replace(sums=BAD.sums)


def found(folder: Path, run: RunResult, baseline: RunResult, settings: str = "") -> list[tuple[str | None, str]]:
    result = verdict(folder, run, f"[baseline]\nfile = 'x.json'\n{settings}", baseline=baseline)
    assert {violation.origin for violation in result.violations} <= {"baseline"}
    return [(violation.tensor, violation.metric) for violation in result.violations]


def test_the_same_run_passes_and_a_better_one_too(tmp_path: Path) -> None:
    assert found(tmp_path, run_of(GOOD, KEPT), run_of(GOOD, KEPT)) == []
    assert found(tmp_path, run_of(GOOD), run_of(WORSE)) == []


def test_a_worse_one_fails_by_more_than_the_tolerance_only(tmp_path: Path) -> None:
    assert found(tmp_path, run_of(WORSE), run_of(GOOD)) == [(NAME, "sqnr_db")]
    drop = GOOD.stats["sqnr_db"] - BAD.stats["sqnr_db"]
    assert found(tmp_path, run_of(WORSE), run_of(GOOD), f"sqnr_db_drop = {drop + 0.01}") == []
    assert found(tmp_path, run_of(WORSE), run_of(GOOD), f"sqnr_db_drop = {drop - 0.01}") == [(NAME, "sqnr_db")]


@pytest.mark.parametrize(
    ("settings", "fails"),
    [
        ("rmse_rise = 1.0", False),
        ("rmse_rise = 0.1", True),
        ("rmse_rise_percent = 10", True),
        ("rmse_rise_percent = 1e6", False),
    ],
)
def test_tolerances_of_errors_are_rises(tmp_path: Path, settings: str, fails: bool) -> None:
    assert found(tmp_path, run_of(WORSE), run_of(GOOD), settings) == ([(NAME, "rmse")] if fails else [])


def test_what_lost_nothing_must_go_on_to_lose_nothing(tmp_path: Path) -> None:
    now = GOOD._replace(source=EXACT.source)
    assert found(tmp_path, run_of(now), run_of(EXACT)) == [(EXACT.source.name, "sqnr_db")]
    assert found(tmp_path, run_of(EXACT), run_of(GOOD._replace(source=EXACT.source))) == []


def test_tensors_that_came_and_went_are_named(tmp_path: Path) -> None:
    assert found(tmp_path, run_of(GOOD, BAD), run_of(GOOD, EXACT)) == [
        (BAD.source.name, "unexpected"),
        (EXACT.source.name, "missing"),
    ]
    assert found(tmp_path, run_of(GOOD, GOOD), run_of(GOOD)) == [(NAME, "unexpected")], "of two files, one name"


def test_changed_settings_and_rules_are_named_with_both_values(tmp_path: Path) -> None:
    now = quantized(NAME, [1.0, -2.0, 3.0], [1.001, -2.0, 3.0], spec=BAD.spec)
    result = verdict(tmp_path, run_of(now), "[baseline]\nfile = 'x.json'", baseline=run_of(GOOD))
    (only,) = result.violations
    assert only.metric == "settings"
    assert only.limit == "num_bits 8, axis 0, group_size none"
    assert only.actual == f"num_bits 4, axis none, group_size {BAD.spec.group_size}"
    assert found(tmp_path, run_of(EXACT, skipped("a", "one")), run_of(EXACT, skipped("a", "other"))) == [
        ("a", "settings")
    ]
    assert found(tmp_path, run_of(EXACT, skipped(NAME, "kept")), run_of(EXACT, GOOD)) == [(NAME, "settings")]


def test_a_weight_that_is_no_longer_packed_or_with_other_bits_is_named_though_it_is_better(tmp_path: Path) -> None:
    def stored(bits: int | None) -> RunResult:
        packing = None if bits is None else Packing(Storage("GPTQ", CodeGrid(bits, (1, 3)), 2))
        return run_of(EXACT, WORSE._replace(spec=None, packing=packing))

    for now, actual in ((None, "stored in float"), (8, "bits 8")):
        result = verdict(tmp_path, stored(now), "[baseline]\nfile = 'x.json'", baseline=stored(4))
        assert [(each.tensor, each.metric, each.actual) for each in result.violations] == [(NAME, "settings", actual)]
    assert found(tmp_path, stored(4), stored(4)) == []


def many(*, num_bits: int = 8, shift: float = 0.001, count: int = 80) -> list[Row]:
    """As many tensors, each with another error."""
    return [
        quantized(f"layer.{i}", [1.0, -2.0], [1.0 + shift * (i + 1), -2.0], spec=QuantSpec(num_bits=num_bits))
        for i in range(count)
    ]


def test_a_baseline_of_other_settings_is_one_violation_not_one_for_each_tensor(tmp_path: Path) -> None:
    now = replace(run_of(*many(num_bits=4, shift=0.1)), settings={"num_bits": 4, "axis": "none", "scale_bits": 16})
    before = replace(run_of(*many()), settings={"num_bits": 8, "axis": -1, "scale_bits": 16})
    (only,) = verdict(tmp_path, now, "[baseline]\nfile = 'x.json'", baseline=before).violations
    assert (only.tensor, only.metric, only.limit, only.actual) == (None, "settings", "num_bits 8", "num_bits 4")
    assert (only.budget, only.line) == (str(tmp_path / "budget.toml"), 2)
    assert predicate(only, str) == "measured with other settings than the baseline: num_bits 4 instead of num_bits 8"


def test_other_rules_of_a_recipe_are_other_settings_and_its_name_is_not(tmp_path: Path) -> None:
    def run(rules: list[dict[str, Any]], name: str = "a.toml") -> RunResult:
        return replace(run_of(GOOD), settings={"num_bits": 8, "recipe": name, "rules": rules})

    assert (
        found(tmp_path, run([{"match": ["a"], "num_bits": 4}], "b.toml"), run([{"match": ["a"], "num_bits": 4}])) == []
    )
    rules = [{"match": ["a"], "num_bits": 4}]
    assert found(tmp_path, run(rules, "b.toml"), run(rules)) == []
    assert found(tmp_path, run(rules), run([{"match": ["a"], "num_bits": 3}])) == [(None, "settings")]
    assert found(tmp_path, run(rules), run([])) == [(None, "settings")]
    (only,) = verdict(tmp_path, run(rules), "[baseline]\nfile = 'x.json'", baseline=run([])).violations
    assert str(only.actual).startswith("rules a recipe's or preset's (")


def test_what_changed_for_many_tensors_alike_is_one_violation(tmp_path: Path) -> None:
    """A rule that is new, a shard that is gone: as `settings` of the run say nothing of it, tensor by tensor."""
    other = many(num_bits=4, shift=0.1)[:40] + many()[40:79] + many()[79:]
    result = verdict(tmp_path, run_of(*other), "[baseline]\nfile = 'x.json'", baseline=run_of(*many()))
    (only,) = result.violations
    assert (only.tensor, only.metric, len(only.tensors)) == (None, "settings", 40)
    assert "40 tensors (layer.0, layer.1, layer.2 and 37 more): measured with other" in sentence(only, str)
    gone, kept = run_of(*many()[:2], EXACT), run_of(*many(), EXACT)
    (missing,) = verdict(tmp_path, gone, "[baseline]\nfile = 'x.json'", baseline=kept).violations
    assert (missing.metric, len(missing.tensors)) == ("missing", 78)
    (new,) = verdict(tmp_path, kept, "[baseline]\nfile = 'x.json'", baseline=gone).violations
    assert (new.metric, len(new.tensors)) == ("unexpected", 78)


def test_a_waiver_covers_one_of_those_that_are_missing(tmp_path: Path) -> None:
    text = "[baseline]\nfile = 'x.json'\n[[waivers]]\nmatch = 'layer.1'\nreason = 'r'\nuntil = 2027-01-31\n"
    result = verdict(tmp_path, run_of(EXACT), text, baseline=run_of(*many(count=3), EXACT))
    (only,) = result.violations
    assert only.tensors == ("layer.0", "layer.2")
    assert [violation.tensor for violation in result.waived] == ["layer.1"]


def of_files(folder: str, *files: str, rows: Sequence[TensorResult] = (GOOD, WORSE)) -> RunResult:
    """A tensor of one name in each file."""
    found = [
        row._replace(source=row.source._replace(name="w", file=f"{folder}/{file}"))
        for file, row in zip(files, rows, strict=True)
    ]
    return run_of(*found, inputs=(folder,))


def test_tensors_of_one_name_are_paired_by_their_file_within_the_input(tmp_path: Path) -> None:
    """A pipeline with a `w` in each of its models; it may lie elsewhere, and its files may come in another order."""
    before = of_files("/here/pipe", "unet/m.safetensors", "vae/m.safetensors")
    moved = of_files("pipe", "vae/m.safetensors", "unet/m.safetensors", rows=(WORSE, GOOD))
    assert found(tmp_path, moved, before) == []
    swapped = of_files("pipe", "vae/m.safetensors", "unet/m.safetensors", rows=(GOOD, WORSE))
    assert found(tmp_path, swapped, before) == [("w", "sqnr_db")]
    other = of_files("pipe", "unet/m.safetensors", "text/m.safetensors")
    assert sorted(found(tmp_path, other, before)) == [("w", "missing"), ("w", "unexpected")]
    one = of_files("pipe", "unet/m.safetensors", rows=(GOOD,))
    assert found(tmp_path, one, before) == [("w", "missing")]
