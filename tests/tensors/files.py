"""Small checkpoints by hand, and the path of all their bytes through a reader and a writer."""

import io
import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from qdqcli.tensors.checkpoint import Checkpoint, Shard, copy_tensor
from qdqcli.tensors.tensor import DTYPES


def raw_safetensors(header: str | bytes, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def safetensors_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Bytes 0, 1, 2, ... as data, so that every place of the file is told from its neighbours."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + int(np.prod(shape, dtype=int)) * DTYPES[dtype].bits // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return raw_safetensors(json.dumps(header), bytes(i % 251 for i in range(end)))


def npy_bytes(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version, allow_pickle=False)
    return buffer.getvalue()


def npy_with_header(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def zip_bytes(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (1999, 12, 31, 23, 59, 58))
            info.compress_type = method
            info.external_attr = 0o640 << 16
            archive.writestr(info, data)
        archive.comment = comment
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def model_folder(folder: Path) -> Path:
    """Two shards, an index, and side files, one of them in a sub-folder."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    write(folder / first, safetensors_bytes({"a": ("F32", (4, 8)), "b": ("BF16", (8,))}, {"format": "pt"}))
    write(folder / second, safetensors_bytes({"c": ("F16", (3,)), "d": ("I64", (2,))}))
    weight_map = {"a": first, "b": first, "c": second, "d": second}
    write(folder / "model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())
    write(folder / "config.json", b"{}\n")
    write(folder / "1_Pooling" / "config.json", b'{"mean": true}')
    return folder


def read_shard(shard: Shard, piece: int = 7) -> dict[str, bytes]:
    """All tensors, read in small pieces from the last to the first."""
    contents = {}
    with shard.open() as reader:
        for tensor in shard.tensors:
            data = bytearray(tensor.nbytes)
            for start in reversed(range(0, tensor.nbytes, piece)):
                reader.read_into(tensor, start, memoryview(data)[start : start + piece])
            contents[tensor.name] = bytes(data)
    return contents


def read_all(checkpoint: Checkpoint) -> None:
    for shard in checkpoint.shards:
        read_shard(shard, piece=1 << 20)


def rewrite(shard: Shard, path: Path) -> Path:
    """Write the shard again: every other tensor copied, the rest written in pieces from the last to the first."""
    contents = read_shard(shard)
    with shard.open() as reader:
        writer = shard.create(path, reader)
        for i, tensor in enumerate(shard.tensors):
            if i % 2:
                copy_tensor(tensor, reader, writer)
                continue
            for start in reversed(range(0, tensor.nbytes, 5)):
                writer.write(tensor, start, memoryview(contents[tensor.name])[start : start + 5])
        writer.commit()
    return path
