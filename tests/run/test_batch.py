"""Small tensors that follow one another: one call measures them as well as one call each."""

from pathlib import Path

import numpy as np
import pytest

from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.run.batch import measure_batch
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.run.checkpoints import write_safetensors

SPECS = {"one range": QuantSpec(num_bits=5), "axis 0": QuantSpec(axis=0), "groups": QuantSpec(group_size=32)}


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_measures_each_as_it_is_measured_alone(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    shapes = [(n,) for n in range(1, 40)] + [(3, 5), (4, 1), (1, 4), (2, 2, 2), (5, 64), (7, 32)]
    if name == "groups":
        shapes = [shape for shape in shapes if shape[-1] % 32 == 0]
    tensors = {f"{i:02}": (rng.standard_normal(shape) * 0.02).astype(np.float32) for i, shape in enumerate(shapes)}
    tensors["zeros"] = np.zeros((2, 64), np.float32)
    path = write_safetensors(tmp_path / "small.safetensors", tensors)
    spec = SPECS[name]
    (shard,) = open_checkpoint(path).shards
    with Workers(2) as workers, shard.open() as reader:
        found = measure_batch([(info, spec) for info in shard.tensors], reader, None, workers)
        for info, measured in zip(shard.tensors, found, strict=True):
            alone = quantize_tensor(TensorJob(info=info, spec=spec, reader=reader), workers)
            assert measured == alone, info.name
