"""Cost of many settings against one: python -m tests.benchmarks.settings [FOLDER]

Seven bit widths at one layout, and the candidates of a plan (int 2, 3, 4, 5, 6, 8 in groups of 128), as multiples of
one `qdq stats` of the same checkpoint, all timed alternately in one run. Processor time: others that use the machine
change it less.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import ml_dtypes
import numpy as np

from qdqcli.measure.workers import Workers
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.recipe.plan import make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.sweep import Setting
from qdqcli.run.execute import measure_plans
from qdqcli.run.pipeline import Measuring
from qdqcli.study.sweep import plan_sweep, run_sweep
from qdqcli.tensors.checkpoint import Checkpoint, open_checkpoint
from tests.benchmarks.ratios import compare
from tests.run.checkpoints import write_safetensors

SHAPE, COUNT, ROUNDS = (2048, 8192), 3, 5
RECIPE = Recipe(spec=QuantSpec(compute_dtype=ComputeDType.FLOAT32))
CANDIDATES = [Setting(num_bits=bits, group_size=128) for bits in (2, 3, 4, 5, 6, 8)]
LAYOUTS = {
    "tensor": {},
    "channel": {"axis": 0},
    "groups of 128": {"group_size": 128},
}


def checkpoint_of(folder: Path, dtype: str) -> Checkpoint:
    random = np.random.default_rng(0)
    tensors = {}
    for number in range(COUNT):
        x = random.standard_normal(SHAPE, dtype=np.float32)
        tensors[f"layers.{number}.weight"] = x.astype(ml_dtypes.bfloat16) if dtype == "BF16" else x
    return open_checkpoint(write_safetensors(folder / f"{dtype}.safetensors", tensors))


def stats(checkpoint: Checkpoint, setting: Setting, workers: Workers) -> None:
    plans, _ = make_plans([checkpoint], setting.apply(RECIPE))
    measure_plans(plans, Measuring(), workers)


def sweep(checkpoint: Checkpoint, settings: Sequence[Setting], workers: Workers) -> None:
    columns, _ = plan_sweep([checkpoint], RECIPE, settings)
    run_sweep(columns, settings, Measuring(), workers, {})


def main(folder: Path) -> None:
    for dtype in ("F32", "BF16"):
        checkpoint = checkpoint_of(folder, dtype)
        for name, layout in LAYOUTS.items():
            seven = [Setting(num_bits=bits, **layout) for bits in range(2, 9)]  # type: ignore[arg-type]
            with Workers() as workers:
                seconds = compare(
                    ROUNDS,
                    min,
                    process_time,
                    stats=lambda: stats(checkpoint, seven[2], workers),  # noqa: B023 - called before the next turn
                    seven=lambda: sweep(checkpoint, seven, workers),  # noqa: B023
                    plan=lambda: sweep(checkpoint, CANDIDATES, workers),  # noqa: B023
                )
            seven_times, plan_times = seconds["seven"] / seconds["stats"], seconds["plan"] / seconds["stats"]
            print(f"{dtype} {name}: seven bit widths {seven_times:.2f} x stats, a plan's candidates {plan_times:.2f} x")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as temporary:
            main(Path(temporary))
