"""Golden packed checkpoints: their folders, and what they decode to."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize

from qdqcli.tensors.checkpoint import Checkpoint, open_checkpoint
from qdqcli.tensors.packed.inputs import decode_inputs
from tests.tensors.files import raw_safetensors

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = sorted(path for path in GOLDEN.iterdir() if path.is_dir())
NUMPY: Mapping[str, type[Any]] = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


def decoded(path: Path) -> Checkpoint:
    """The decoded view of a checkpoint, all of whose packed weights are in formats that are decoded."""
    (view,), (rest,) = decode_inputs([open_checkpoint(path)])
    assert not rest.weights
    return view


def arrays(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """The floating-point tensors by name."""
    found = {}
    for shard in checkpoint.shards:
        with shard.open() as reader:
            for info in shard.tensors:
                if info.dtype.is_floating:
                    array = np.empty(info.shape, NUMPY[info.dtype.name])
                    reader.read_into(info, 0, array.reshape(-1).view(np.uint8).data)
                    found[info.name] = array
    return found


def origin(folder: Path) -> Any:
    """The library, its version, and how it was used."""
    return json.loads((folder / "origin.json").read_text())


Stored = tuple[str, tuple[int, ...], bytes]
"""Dtype, shape and data of a tensor."""
Change = Callable[[dict[str, Stored]], object]


def load(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, whatever their dtypes."""
    found = deserialize(path.read_bytes())
    dtypes = {info.name: info.dtype.name for shard in open_checkpoint(path).shards for info in shard.tensors}
    return {name: (dtypes[name], tuple(each["shape"]), bytes(each["data"])) for name, each in found}


def save(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> None:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    path.write_bytes(raw_safetensors(json.dumps(header), b"".join(data for _, _, data in tensors.values())))


def changed(folder: Path, to: Path, change: Change, config: Callable[[Any], object] = lambda _: None) -> Path:
    """A copy of a golden checkpoint with other tensors, or another configuration."""
    shutil.copytree(folder / "packed", to)
    tensors = load(to / "model.safetensors")
    change(tensors)
    save(to / "model.safetensors", tensors)
    if (to / "config.json").exists():
        data = json.loads((to / "config.json").read_text())
        config(data)
        (to / "config.json").write_text(json.dumps(data))
    return to


def array_of(stored: Stored, dtype: str) -> NDArray[Any]:
    """A writable array of NumPy's dtype over a copy of the data, in the tensor's shape if the sizes agree."""
    return np.frombuffer(stored[2], dtype).copy().reshape(stored[1])
