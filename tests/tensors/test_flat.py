"""Reading and writing tensors at their offsets in one file."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import copy_tensor, open_checkpoint
from tests.tensors.files import safetensors_bytes, write


def test_a_shard_cut_while_it_is_copied_leaves_no_output(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", safetensors_bytes({"w": ("F32", (20,))}))
    (shard,) = open_checkpoint(path).shards
    opened = ExitStack()
    reader = opened.enter_context(shard.open())
    writer = shard.create(tmp_path / "y.safetensors", reader)
    copy_tensor(shard.tensors[0], reader, writer)
    os.truncate(path, 90)
    with pytest.raises(InputError, match="truncated"):
        copy_tensor(shard.tensors[0], reader, writer)
    with pytest.raises(InputError, match="changed while being read"):
        opened.close()
    writer.abort()
    assert list(tmp_path.iterdir()) == [path]


def test_reads_and_writes_outside_a_tensor_are_bugs(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", safetensors_bytes({"w": ("U8", (4,))}))
    (shard,) = open_checkpoint(path).shards
    with shard.open() as reader:
        writer = shard.create(tmp_path / "y.safetensors", reader)
        with pytest.raises(ValueError, match="bytes 2 to 5"):
            reader.read_into(shard.tensors[0], 2, memoryview(bytearray(3)))
        with pytest.raises(ValueError, match="bytes -1 to 0"):
            writer.write(shard.tensors[0], -1, memoryview(b"x"))
        writer.abort()


def test_a_writer_wants_the_reader_of_its_shard(tmp_path: Path) -> None:
    (shard,) = open_checkpoint(write(tmp_path / "x.safetensors", safetensors_bytes({}))).shards
    with pytest.raises(TypeError):
        shard.create(tmp_path / "y", None)  # type: ignore[arg-type]
