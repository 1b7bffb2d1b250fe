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
MORE = settings_of([4, 5], ["none", "last", "channel"], [16], ["percentile"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dtype, tensors that groups divide and that they do not, small ones and one of several chunks."""
    tensors = {
        f"{dtype}.{shape[0]}x{shape[1]}": sample(shape, dtype, 7 * k + j)
        for k, dtype in enumerate(("F32", "BF16", "F16", "F64"))
        for j, shape in enumerate([(5, 32), (40, 97), (600, 256)])
    }
    spoilt, zeros = sample((64, 96), "F32", 1), sample((64, 96), "BF16", 2)
    spoilt[3, 5], spoilt[7, 2] = np.nan, np.inf
    zeros[:9] = 0
    tensors |= {
        "spoilt": spoilt,
        "zeros": zeros,
        "experts": sample((4, 16, 96), "F32", 3),
        "patterns": sample((640, 1024), "BF16", 4),
        "bias": sample((9,), "F32", 1),
        "empty": sample((0, 32), "F32", 1),
    }
    return write_safetensors(tmp_path_factory.mktemp("sweep") / "model.safetensors", tensors)


@pytest.fixture(scope="module")
def swept(checkpoint: Path) -> Sweep:
    """All settings at once; the memory lets a block have one chunk."""
    return sweep_of(checkpoint, [*SETTINGS, *MORE], max_memory=1 << 20)


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


@pytest.mark.parametrize("number", range(len([*SETTINGS, *MORE])), ids=[s.name for s in (*SETTINGS, *MORE)])
def test_a_cell_equals_stats_to_the_last_digit(checkpoint: Path, swept: Sweep, qdq: Qdq, number: int) -> None:
    setting, result = swept.settings[number], swept.results[number]
    found = json.loads(json.dumps(to_json(result)))
    expected = qdq("stats", checkpoint, *options_of(setting), "--format", "json", "--quiet").report
    assert found["summary"] == expected["summary"]
    assert found["tensors"] == expected["tensors"]


def test_neither_memory_nor_threads_change_a_digit(checkpoint: Path) -> None:
    settings = SETTINGS[:4]
    least = sweep_of(checkpoint, settings, max_memory=4 << 20, threads=1)
    most = sweep_of(checkpoint, settings)
    assert [to_json(result) for result in least.results] == [to_json(result) for result in most.results]


def test_settings_whose_ranges_do_not_fit_together_take_another_read(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "w.safetensors", {"w": sample((40, 30_000), "F32", 1)})
    settings = settings_of([3, 4, 5, 6], ["last"], [], ["minmax"])
    least = sweep_of(path, settings, max_memory=5 << 20, threads=1)  # 64 bytes for a range: 2 settings at a time
    assert [to_json(r) for r in least.results] == [to_json(r) for r in sweep_of(path, settings).results]


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
    assert names[:3] == ["int8 channel", "int4 channel", "int4 channel mse"]
    assert len({setting.name for setting in LADDER}) == len(LADDER)
