"""Each cell of a sweep is what `qdq stats` with its setting reports."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdqcli.measure.workers import Workers
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.sweep import LADDER, Setting, Sweep, settings_of
from qdqcli.result.result import to_json
from qdqcli.run.pipeline import Measuring
from qdqcli.study.sweep import plan_sweep, run_sweep
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

SETTINGS = settings_of([3, 4, 8], ["none", 0], [32], ["minmax", "mse"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dtype, tensors that groups divide and that they do not, small ones and one of several chunks."""
    tensors = {
        f"{dtype}.{shape[0]}x{shape[1]}": sample(shape, dtype, 7 * k + j)
        for k, dtype in enumerate(("F32", "BF16", "F16", "F64"))
        for j, shape in enumerate([(5, 32), (40, 97), (600, 256)])
    }
    return write_safetensors(
        tmp_path_factory.mktemp("sweep") / "model.safetensors", tensors | {"bias": sample((9,), "F32", 1)}
    )


def sweep_of(path: Path, settings: list[Setting], max_memory: int = 64 << 20, threads: int = 2) -> Sweep:
    with Workers(threads, max_memory) as workers:
        recipe = Recipe(spec=QuantSpec(compute_dtype=ComputeDType.FLOAT32), min_ndim=None)
        columns, _ = plan_sweep([open_checkpoint(path)], recipe, settings)
        return run_sweep(columns, settings, Measuring(), workers, {})


def options_of(setting: Setting) -> list[object]:
    granularity = (
        ["-g", setting.group_size, "--indivisible", "skip"] if setting.group_size else ["--axis", setting.axis]
    )
    return ["-b", setting.num_bits, *granularity, "--estimator", setting.estimator]


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=[setting.name for setting in SETTINGS])
def test_a_cell_equals_stats_to_the_last_digit(checkpoint: Path, qdq: Qdq, number: int) -> None:
    setting = SETTINGS[number]
    result = sweep_of(checkpoint, [SETTINGS[0], setting]).results[1]
    found = json.loads(json.dumps(to_json(result)))
    expected = qdq("stats", checkpoint, *options_of(setting), "--format", "json", "--quiet").report
    assert found["summary"] == expected["summary"]
    assert found["tensors"] == expected["tensors"]


def test_neither_memory_nor_threads_change_a_digit(checkpoint: Path) -> None:
    settings = SETTINGS[:4]
    least = sweep_of(checkpoint, settings, max_memory=4 << 20, threads=1)
    most = sweep_of(checkpoint, settings)
    assert [to_json(result) for result in least.results] == [to_json(result) for result in most.results]


def test_what_a_shape_forbids_is_a_cell_with_a_reason(checkpoint: Path) -> None:
    (result,) = sweep_of(checkpoint, [Setting(num_bits=4, group_size=32)]).results
    reasons = {row.source.name: row.reason for row in result.skipped}
    assert "does not divide" in reasons["F32.40x97"]
    (result,) = sweep_of(checkpoint, [Setting(num_bits=4, axis=1)]).results
    assert "bias" in {row.source.name for row in result.skipped}


def test_a_setting_that_another_beats_is_dominated(checkpoint: Path) -> None:
    whole = [Setting(num_bits=8), Setting(num_bits=9), Setting(num_bits=3, axis=0), Setting(num_bits=4)]
    assert sweep_of(checkpoint, whole).dominated() == [False, False, False, False]
    np.testing.assert_array_equal(
        sweep_of(checkpoint, [Setting(num_bits=4, axis=0), Setting(num_bits=4, axis=0, estimator="mse")]).dominated(),
        [True, False],
    )


def test_names_are_short_and_tell_all_apart() -> None:
    names = [setting.name for setting in (*LADDER, *SETTINGS)]
    assert names[:3] == ["int8 axis 0", "int4 axis 0", "int4 axis 0 mse"]
    assert len({setting.name for setting in LADDER}) == len(LADDER)
