"""The committed sample data is what its script makes, and has in it what its README says."""

import json
import runpy
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors

SAMPLE_DATA = Path(__file__).parents[2] / "sample_data"
TINY_LLAMA = SAMPLE_DATA / "tiny-llama"
OUTLIERS = [7, 58, 101]


def contents(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> bytes, of the data files alone."""
    others = (".py", ".md", ".pyc", ".ipynb")
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in others)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read(shard: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by the safetensors library."""
    dtypes = {"BF16": ml_dtypes.bfloat16, "I64": np.int64}
    return {
        name: np.frombuffer(tensor["data"], dtypes[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in safetensors.deserialize(shard.read_bytes())
    }


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return {name: array for shard in TINY_LLAMA.glob("*.safetensors") for name, array in read(shard).items()}


def peaks(array: np.ndarray, axis: int) -> np.ndarray:
    """The root mean square of each channel, over that of a channel in the middle."""
    rms = np.sqrt(np.square(array.astype(np.float64)).mean(axis=1 - axis))
    return rms / np.median(rms)


def test_script_makes_the_committed_files_byte_for_byte(tmp_path):
    runpy.run_path(str(SAMPLE_DATA / "make_sample_data.py"))["write_all"](tmp_path)
    made, committed = contents(tmp_path), contents(SAMPLE_DATA)
    assert sorted(made) == sorted(committed)
    assert [name for name in made if made[name] != committed[name]] == []


def test_sample_data_is_small():
    assert sum(map(len, contents(SAMPLE_DATA).values())) < 2_000_000


def test_index_agrees_with_the_shards(tensors):
    index = json.loads((TINY_LLAMA / "model.safetensors.index.json").read_text())
    shards = {path.name: read(path) for path in TINY_LLAMA.glob("*.safetensors")}
    assert index["weight_map"] == {name: shard for shard, found in shards.items() for name in found}
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())


@pytest.mark.parametrize("shard", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
def test_header_is_padded_and_names_the_framework(shard):
    data = (TINY_LLAMA / shard).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length])["__metadata__"] == {"format": "pt"}


def test_shapes_are_those_of_the_config(tensors):
    config = json.loads((TINY_LLAMA / "config.json").read_text())
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    key_value = config["head_dim"] * config["num_key_value_heads"]
    assert tensors["model.embed_tokens.weight"].shape == (config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{number}"
        assert tensors[f"{prefix}.self_attn.k_proj.weight"].shape == (key_value, hidden)
        assert tensors[f"{prefix}.mlp.down_proj.weight"].shape == (hidden, intermediate)


def test_one_channel_is_dead(tensors):
    dead = {
        (name, row) for name, array in tensors.items() if array.ndim == 2 for row in np.flatnonzero(~array.any(axis=1))
    }
    assert dead == {("model.layers.1.mlp.up_proj.weight", 200)}


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("model.layers.0.self_attn.o_proj.weight", 0),
        ("model.layers.1.mlp.down_proj.weight", 0),
        ("model.layers.0.self_attn.q_proj.weight", 1),
        ("model.embed_tokens.weight", 1),
    ],
)
def test_outlier_channels_are_the_three_of_the_hidden_state(tensors, name, axis):
    assert np.flatnonzero(peaks(tensors[name], axis) > 5).tolist() == OUTLIERS


def test_weights_are_heavy_tailed(tensors):
    values = tensors["lm_head.weight"].astype(np.float64)
    assert values.std() == pytest.approx(0.02, rel=0.05)
    assert np.abs(values).max() > 8 * values.std(), "a normal distribution of 65,536 values ends near 4.5"


def test_integer_tensor_is_beside_the_weights(tensors):
    assert tensors["model.position_ids"].tolist() == [list(range(256))]


def test_gradients_fit_the_weights():
    weights, gradients = (np.load(SAMPLE_DATA / name) for name in ("weights.npy", "gradients.npy"))
    assert (weights.dtype, weights.shape) == (gradients.dtype, gradients.shape)
    assert np.flatnonzero(peaks(weights, 0) > 5).tolist() == [11]


def test_archive_has_half_precision_and_integers():
    with np.load(SAMPLE_DATA / "activations.npz") as arrays:
        assert {name: arrays[name].dtype.name for name in arrays} == {"activations": "float16", "token_ids": "int32"}
