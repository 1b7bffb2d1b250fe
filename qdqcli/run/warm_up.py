"""Warm-up: compile the kernels for files, so that no later process has to, e.g. into a cache folder of an image.

A small checkpoint is measured, written and compared, which compiles every kernel that a later run calls. Exception:
HALF_UP has kernels of its own, compiled by the first run that uses it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qdqcli.measure.workers import Workers
from qdqcli.op.histogram import HISTOGRAM_ELEMENTS
from qdqcli.op.params import STORAGE
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.pairing import entries_of
from qdqcli.recipe.plan import make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.run.compare import compare_entries
from qdqcli.run.execute import measure_plans
from qdqcli.run.pipeline import Measuring
from qdqcli.run.write import write_plans
from qdqcli.stats.sums import CHUNK_ELEMENTS
from qdqcli.tensors.checkpoint import Checkpoint, open_checkpoint
from qdqcli.tensors.packed.bits import dequantize
from qdqcli.tensors.safetensors import header_of

_SHAPES = {
    "small tensor": (2, 64),
    "other small tensor": (2, 64),
    "large": (CHUNK_ELEMENTS // 32, 64),
    "counted": (HISTOGRAM_ELEMENTS // 512, 512),
    "not finite": (CHUNK_ELEMENTS // 32, 64),
}
"""Small tensors go through the batch kernels, others through the block kernels; those of 16 bits through pattern
counts.
"""
_SPECS = (QuantSpec(), QuantSpec(axis=0), QuantSpec(axis=1), QuantSpec(group_size=32))
"""Whole tensor, rows, columns and groups: together they cover every loop."""
_ESTIMATORS = ("minmax", "percentile")
"""A range other than the measured one needs clamping kernels; estimated and given ranges share them."""


STEPS: Sequence[tuple[str, ComputeDType | None]] = [
    (dtype, compute_dtype)
    for dtype in STORAGE
    for compute_dtype in (*(ComputeDType if dtype in ("BF16", "F16") else (ComputeDType.NATIVE,)), None)
]
"""Dtypes with each compute dtype; None for comparisons."""


def warm_up() -> Iterator[str]:
    """Compile the kernels of each of `STEPS`; yields the name of each before it starts."""
    out = np.empty((1, 2), np.float32)
    dequantize(np.zeros((1, 1), np.uint8), np.zeros(16, np.float32), np.ones((1, 1), np.float32), size=2, out=out)
    with TemporaryDirectory(prefix="qdq-warmup-") as folder, Workers(1) as workers:
        path = Path(folder) / "x.safetensors"
        for dtype, compute_dtype in STEPS:
            yield f"{dtype}, {'comparisons' if compute_dtype is None else f'arithmetic {compute_dtype}'}"
            _write(path, dtype)
            checkpoint = open_checkpoint(path)
            if compute_dtype is None:
                _compare(checkpoint, workers)
                continue
            for spec, name in product(_SPECS, _ESTIMATORS):
                _quantize(checkpoint, replace(spec, compute_dtype=compute_dtype, estimator=name), workers)


def _write(path: Path, dtype: str) -> None:
    """Write a safetensors file: ones, a few zeros, and in one tensor a NaN."""
    number = STORAGE[dtype]
    one, nan = {"BF16": (0x3F80, 0x7FC0), "F16": (0x3C00, 0x7E00)}.get(dtype, (1, np.nan))
    header: dict[str, object] = {}
    data = b""
    for name, shape in _SHAPES.items():
        x = np.full(shape, one, number)
        x[0, :2] = 0, nan if name == "not finite" else 0
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    path.write_bytes(header_of(header) + data)


def _quantize(checkpoint: Checkpoint, spec: QuantSpec, workers: Workers) -> None:
    plans, _ = make_plans([checkpoint], Recipe(spec=spec))
    measure_plans(plans, Measuring(), workers)
    measure_plans(plans, Measuring(per_slice=True), workers)
    with OutputTree([checkpoint], checkpoint.path.with_name("y.safetensors"), overwrite=True) as output:
        write_plans(plans, Measuring(), workers, output)
        output.commit()


def _compare(checkpoint: Checkpoint, workers: Workers) -> None:
    plans, _ = make_plans([checkpoint], Recipe(spec=QuantSpec()))
    entries = entries_of(plans)
    compare_entries(entries, entries, {entry.name: entry.name for entry in entries}, workers, histograms=True)
