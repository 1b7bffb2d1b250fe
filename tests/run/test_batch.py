"""Small tensors that follow one another: one call measures them as well as one call each."""

from pathlib import Path

import numpy as np
import pytest

from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
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


@pytest.mark.parametrize("left_out", [None, "skipped", "not finite"])
def test_a_batch_writes_the_tensors_that_it_measures_and_nothing_between(tmp_path: Path, left_out: str | None) -> None:
    tensors = {str(i): np.linspace(-1, i + 1, 96, dtype=np.float32).reshape(2, 48) for i in range(5)}
    if left_out == "not finite":
        tensors["2"][1, 7] = np.nan
    (shard,) = open_checkpoint(write_safetensors(tmp_path / "in.safetensors", tensors)).shards
    spec, skip = QuantSpec(num_bits=3), Skip(reason="")
    tasks = [(info, skip if left_out == "skipped" and info.name == "2" else spec) for info in shard.tensors]
    with Workers(1) as workers, shard.open() as reader:
        together = shard.create(tmp_path / "together.safetensors", reader)
        found = measure_batch(tasks, reader, together, workers)
        assert [each is None for each in found] == [left_out is not None and info.name == "2" for info, _ in tasks]
        together.commit()
        alone = shard.create(tmp_path / "alone.safetensors", reader)
        for (info, _), measured in zip(tasks, found, strict=True):
            if measured is not None:
                quantize_tensor(TensorJob(info=info, spec=spec, reader=reader, writer=alone), workers)
        alone.commit()
    assert (tmp_path / "together.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
