"""The generator of checkpoints for measurements makes what a loader accepts, of the size that was asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import deserialize, safe_open

from qdqcli.tensors.checkpoint import open_checkpoint
from tests.benchmarks import make_checkpoint
from tests.benchmarks.make_checkpoint import (
    make_llama,
    make_small_tensors,
    parse_size,
    plan_model,
    temporary_llama,
    temporary_small_tensors,
)


def data_bytes(shard: Path) -> int:
    data = shard.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(("num_bytes", "shards"), [(1_000_000, 1), (3_000_000, 3), (6_000_001, 12)])
def test_index_shards_and_size_agree(tmp_path, num_bytes, shards, dtype):
    make_llama(tmp_path, num_bytes, shards=shards, dtype=dtype)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    found = {name: (file.name, tensor["dtype"]) for file in files for name, tensor in deserialize(file.read_bytes())}
    assert len(files) == shards
    assert {name: (file, dtype) for name, file in index["weight_map"].items()} == found
    size = sum(map(data_bytes, files))
    assert index["metadata"]["total_size"] == size
    assert num_bytes * 0.99 < size <= num_bytes


def test_tool_reads_it_without_a_complaint(tmp_path):
    make_llama(tmp_path, 2_000_000, shards=2)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.notes == ()
    assert len(checkpoint.shards) == 2
    assert [str(file.name) for file in checkpoint.side_files] == ["config.json", "model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("size", "layers", "hidden", "depth"), [("13.5GB", None, 4096, 32), ("2.2GB", None, 2048, 20), ("2GB", 1, 5952, 1)]
)
def test_shapes_are_those_of_a_llama_of_that_size(size, layers, hidden, depth):
    shapes = {tensor.name: tensor.shape for tensor in plan_model(parse_size(size) // 2, layers)}
    assert shapes[f"model.layers.{depth - 1}.mlp.up_proj.weight"] == (11008 * hidden // 4096, hidden)
    assert f"model.layers.{depth}.mlp.up_proj.weight" not in shapes


def test_values_have_the_scale_of_weights_and_differ_between_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(make_checkpoint, "POOL_ELEMENTS", 10_007)  # so that a tensor goes round it
    make_llama(tmp_path, 2_000_000, dtype="F32")
    with safe_open(tmp_path / "model-00001-of-00001.safetensors", "numpy") as file:
        gate, up, query, norm = (
            file.get_tensor(f"model.layers.0.{name}.weight")
            for name in ("mlp.gate_proj", "mlp.up_proj", "self_attn.q_proj", "input_layernorm")
        )
    assert gate.size > 10_007
    assert (gate.std(), query.std()) == (pytest.approx(0.02, rel=0.1), pytest.approx(0.03, rel=0.1))
    assert norm.mean() == pytest.approx(1.0, abs=0.1)
    assert (gate != up).mean() > 0.9
    assert (gate.ravel()[:-10_007] == gate.ravel()[10_007:]).all()


def test_same_seed_makes_the_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_llama(tmp_path / name, 500_000, seed=seed)
    first, again, other = ((tmp_path / name / "model-00001-of-00001.safetensors").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_small_tensors_are_in_one_file(tmp_path):
    make_small_tensors(tmp_path, 300)
    (file,) = tmp_path.iterdir()
    tensors = deserialize(file.read_bytes())
    assert len(tensors) == 300
    assert all(len(tensor["data"]) == 2048 for _, tensor in tensors)


def test_temporary_checkpoints_are_gone_afterwards(tmp_path):
    with temporary_llama(500_000, shards=2, parent=tmp_path) as folder:
        assert len(list(folder.glob("*.safetensors"))) == 2
    with temporary_small_tensors(3, parent=tmp_path) as folder:
        assert len(list(folder.glob("*.safetensors"))) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "num_bytes"), [("2.2GB", 2_200_000_000), ("64MiB", 64 << 20), ("1000", 1000)])
def test_sizes_have_units(text, num_bytes):
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GB", "3 parsecs", "1.2.3GB", "-1KB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_script_runs_by_itself(tmp_path):
    command = [sys.executable, make_checkpoint.__file__, tmp_path / "out", "--size", "1MB", "--shards", "2"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
    assert subprocess.run(command, check=False, cwd=tmp_path, capture_output=True).returncode == 2, "not empty"


def test_too_small_a_model_is_refused():
    with pytest.raises(ValueError, match="too few"):
        plan_model(1000)
