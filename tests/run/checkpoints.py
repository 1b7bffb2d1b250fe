"""Tiny checkpoints, written and read without the package: any dtype, any order of the data, any metadata."""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": BF16,
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """The data in the order of `tensors`, the header's entries in the reverse order, so that the two can be told."""
    entries, end = [], 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        entries.append((name, {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}))
    header = ({"__metadata__": dict(metadata)} if metadata is not None else {}) | dict(reversed(entries))
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))
    return path


def write_sparse(path: Path, shape: tuple[int, ...], dtype: str = "F32", names: Sequence[str] = ("w",)) -> Path:
    """Tensors of zeros, each of that shape, that take no room on the disk."""
    nbytes = int(np.prod(shape, dtype=object)) * DTYPES[dtype].itemsize
    entry = {"dtype": dtype, "shape": list(shape)}
    header = {name: entry | {"data_offsets": [i * nbytes, (i + 1) * nbytes]} for i, name in enumerate(names)}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + len(names) * nbytes)
    return path


def header_of(path: Path) -> bytes:
    """The header's bytes, its length included."""
    with path.open("rb") as file:
        prefix = file.read(8)
        return prefix + file.read(struct.unpack("<Q", prefix)[0])


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors in the order of the header."""
    header = header_of(path)
    data = path.read_bytes()[len(header) :]
    tensors = {}
    for name, entry in json.loads(header[8:]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def sample(shape: tuple[int, ...], dtype: np.dtype[Any] | str = "F32", seed: int = 0) -> np.ndarray:
    """Numbers around zero with a few far from it, as weights are."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal(shape) * np.exp2(rng.integers(-3, 3, shape))
    return np.asarray(numbers, DTYPES[dtype] if isinstance(dtype, str) else dtype)


def pipeline(folder: Path, *, renamed: bool = False, **changed: np.ndarray) -> Path:
    """A diffusers pipeline: one name in several files; `changed` has arrays by the component's name."""
    for seed, component in enumerate(("text_encoder", "text_encoder_2", "unet")):
        array = changed.get(component, sample((8, 16), "F32", seed))
        name = "model-00001-of-00001" if renamed else "model"
        write_safetensors(folder / component / f"{name}.safetensors", {"w": array, f"{component}.own": sample((4, 4))})
    return folder
