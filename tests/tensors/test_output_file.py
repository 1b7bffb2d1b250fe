"""Writing files whole or not at all, and copying them."""

import os
import stat
import threading
from pathlib import Path

import pytest

from qdqcli.errors import OutputError
from qdqcli.tensors.checkpoint import copy_tensor, open_checkpoint
from qdqcli.tensors.input_file import CHUNK_BYTES, InputFile
from qdqcli.tensors.output_file import OutputFile, copy_file, write_file
from tests.tensors.files import safetensors_bytes, write


@pytest.fixture
def umask_027() -> object:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_027")
def test_output_appears_whole_with_the_mode_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".npy")
    output = OutputFile(path)
    output.resize(6)
    output.write(memoryview(b"def"), 3)
    assert not path.exists()
    output.write(memoryview(b"abc"), 0)
    output.commit()
    output.abort()
    assert path.read_bytes() == b"abcdef"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_output_that_cannot_be_made_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone/y: No such file"):
        OutputFile(tmp_path / "gone" / "y")
    (tmp_path / "folder").mkdir()
    output = OutputFile(tmp_path / "folder", replaces=True)
    with pytest.raises(OutputError, match="folder: Is a directory"):
        output.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_no_space_names_the_path_and_what_to_do() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no always-full device here")
    output = OutputFile.__new__(OutputFile)
    output._blamed = Path("out.npy")
    output._descriptor = os.open(full, os.O_WRONLY)
    with pytest.raises(OutputError, match=r"^out\.npy: No space left on device; free some space"):
        output.write(memoryview(b"x"), 0)
    os.close(output._descriptor)


def test_a_file_is_written_in_pieces_or_not_at_all(tmp_path: Path) -> None:
    piece = bytes(range(256)) * 1000
    write_file(tmp_path / "x", (piece for _ in range(9)))
    assert (tmp_path / "x").read_bytes() == piece * 9
    write_file(tmp_path / "empty", [])
    assert (tmp_path / "empty").read_bytes() == b""
    with pytest.raises(ZeroDivisionError):
        write_file(tmp_path / "x", (bytes(1 // number) for number in (1, 0)))
    assert (tmp_path / "x").read_bytes() == piece * 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "x"]


def test_copy_is_exact_and_can_be_stopped(tmp_path: Path) -> None:
    source = write(tmp_path / "a", os.urandom(CHUNK_BYTES + 17))
    copy_file(InputFile(source), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        copy_file(InputFile(source), tmp_path / "c", stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_threads_write_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", safetensors_bytes({f"t{i}": ("U8", (1000,)) for i in range(8)}))
    (shard,) = open_checkpoint(path).shards
    with shard.open() as reader:
        writer = shard.create(tmp_path / "y.safetensors", reader)
        threads = [threading.Thread(target=copy_tensor, args=(tensor, reader, writer)) for tensor in shard.tensors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.commit()
    assert (tmp_path / "y.safetensors").read_bytes() == path.read_bytes()
