"""Kernels that read and write for themselves: what the system refuses them is told as Python would tell it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qdqcli.errors import InputError, OutputError
from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.tensors.checkpoint import Place, ShardReader, ShardWriter
from qdqcli.tensors.safetensors import open_safetensors
from qdqcli.tensors.tensor import TensorInfo
from tests.run.checkpoints import sample, write_safetensors

CASES = {
    "whole tensor": ("F32", QuantSpec()),
    "axis 0": ("F32", QuantSpec(axis=0)),
    "last axis": ("F32", QuantSpec(axis=1)),
    "16-bit patterns": ("BF16", QuantSpec()),
}
"""One for each kernel that writes."""


class _Elsewhere:
    """A reader or writer whose tensors kernels find at another descriptor."""

    def __init__(self, real: ShardReader | ShardWriter, descriptor: int) -> None:
        self._real, self._descriptor = real, descriptor

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def place(self, tensor: TensorInfo) -> Place | None:
        place = self._real.place(tensor)
        return None if place is None else place._replace(descriptor=self._descriptor)


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_names_the_output(tmp_path: Path, case: str) -> None:
    dtype, spec = CASES[case]
    path = write_safetensors(tmp_path / "x.safetensors", {"x": sample((1024, 1024), dtype)})
    shard = open_safetensors(path, "x.safetensors", None)
    with shard.open() as reader, opened("/dev/full", os.O_WRONLY) as full, Workers(2) as workers:
        writer = shard.create(tmp_path / "y.safetensors", reader)
        job = TensorJob(info=shard.tensors[0], spec=spec, reader=reader, writer=_Elsewhere(writer, full))
        with pytest.raises(OutputError, match=rf"y\.safetensors: {os.strerror(errno.ENOSPC)}"):
            quantize_tensor(job, workers)
        writer.abort()


@pytest.mark.parametrize("case", CASES)
def test_a_failing_disk_names_the_input(tmp_path: Path, case: str) -> None:
    dtype, spec = CASES[case]
    path = write_safetensors(tmp_path / "x.safetensors", {"x": sample((1024, 1024), dtype)})
    shard = open_safetensors(path, "x.safetensors", None)
    with shard.open() as reader, opened(os.devnull, os.O_WRONLY) as unreadable, Workers(2) as workers:
        job = TensorJob(info=shard.tensors[0], spec=spec, reader=_Elsewhere(reader, unreadable))
        with pytest.raises(InputError, match=rf"x\.safetensors: {os.strerror(errno.EBADF)}"):
            quantize_tensor(job, workers)


@pytest.mark.parametrize("case", CASES)
def test_a_file_cut_short_while_it_is_read_is_named(tmp_path: Path, case: str) -> None:
    dtype, spec = CASES[case]
    path = write_safetensors(tmp_path / "x.safetensors", {"x": sample((1024, 1024), dtype)})
    shard = open_safetensors(path, "x.safetensors", None)
    reader = shard.open()
    os.truncate(path, 1_000_000)
    with Workers(2) as workers, pytest.raises(InputError, match=r"x\.safetensors: truncated: ends at byte 1000000"):
        quantize_tensor(TensorJob(info=shard.tensors[0], spec=spec, reader=reader), workers)
    with pytest.raises(InputError, match="changed while being read"):
        reader.close()
