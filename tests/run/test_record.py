"""Rows in the journal come back to the last bit."""

import json
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.plan import Plan, make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.result.result import Row, TensorResult, to_json
from qdqcli.run.execute import measure_plans, result_of
from qdqcli.run.pipeline import Measuring
from qdqcli.run.record import record_rows, restore_rows
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.conftest import TINY
from tests.run.checkpoints import write_safetensors

ODD = {
    "nothing finite": np.array([nan, inf, -inf], np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "minus zero": np.array([-0.0, -0.0], np.float32),
    "huge": np.array([1.7e308, -1.7e308, 1.1e-300, 3.0], np.float64),
    "wide sums": np.geomspace(1e-30, 1e30, 70_000, dtype=np.float64),
}


def measured(path: Path, per_slice: bool) -> tuple[Plan, list[Row]]:
    checkpoint = open_checkpoint(write_safetensors(path, TINY | ODD))
    (plan,), _ = make_plans([checkpoint], Recipe(spec=QuantSpec(num_bits=4), min_ndim=0, exclude=["embed"]))
    with Workers(2) as workers:
        return plan, measure_plans([plan], Measuring(per_slice=per_slice, scale_bits=13), workers)


@pytest.mark.parametrize("per_slice", [False, True])
def test_rows_come_back_as_they_were(tmp_path: Path, per_slice: bool) -> None:
    plan, rows = measured(tmp_path / "x.safetensors", per_slice)
    assert any(len(row.sums.sq_error) > 1 for row in rows if isinstance(row, TensorResult))
    record = json.loads(json.dumps(record_rows(rows)))
    restored = restore_rows(record, plan, 0, 13)
    assert restored == rows
    # `==` takes -0.0 for 0.0, the text does not.
    assert repr(restored) == repr(rows)
    assert to_json(result_of("run", [plan], {}, restored)) == to_json(result_of("run", [plan], {}, rows))


def test_records_of_parts_make_the_whole(tmp_path: Path) -> None:
    plan, rows = measured(tmp_path / "x.safetensors", True)
    for cut in range(len(rows) + 1):
        parts = record_rows(rows[:cut]), record_rows(rows[cut:])
        assert [*restore_rows(parts[0], plan, 0, 13), *restore_rows(parts[1], plan, cut, 13)] == rows


def test_every_field_of_a_row_is_recorded_or_known_otherwise() -> None:
    """A new field of a row must go into the journal, or a run that resumes loses it."""
    recorded = {"input_min", "input_max", "num_slices", "num_zero_slices", "sums", "channels"}
    in_the_plan = {"source", "spec", "scale_bits"}
    of_other_commands = {"candidate", "packing", "reported"}
    added_at_the_end = {"baseline_db", "bound", "decided_by", "histograms", "share"}
    names = set(TensorResult._fields)
    assert names == recorded | in_the_plan | of_other_commands | added_at_the_end
