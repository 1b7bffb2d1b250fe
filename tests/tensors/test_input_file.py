"""Reading files while others change them."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.input_file import InputFile, read_file, read_pipe
from tests.tensors.files import rewrite, safetensors_bytes, write


def test_a_read_past_the_end_is_an_input_error(tmp_path: Path) -> None:
    with InputFile(write(tmp_path / "x", b"0123")) as file:
        file.read_into(memoryview(bytearray(2)), 2)
        with pytest.raises(InputError, match="x: truncated: ends at byte 4, 6 expected"):
            file.read_into(memoryview(bytearray(3)), 3)


@pytest.mark.parametrize("change", ["truncate", "grow", "touch"])
def test_a_change_while_reading_is_noticed(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "x", b"0123")
    file = InputFile(path)
    if change == "touch":
        os.utime(path, ns=(0, 0))
    else:
        os.truncate(path, 2 if change == "truncate" else 9)
    with pytest.raises(InputError, match="changed while being read"):
        file.close()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_loses_its_name_while_reading_keeps_its_bytes_and_is_noticed(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "x", b"old")
    file = InputFile(path)
    status = path.stat()
    if how == "removed":
        path.unlink()
    else:  # by one of the same size and time
        new = write(tmp_path / "y", b"new")
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        new.rename(path)
    assert file.read(0, 9) == b"old"
    with pytest.raises(InputError, match=f"x: was {how} while being read"):
        file.close()


def test_a_file_replaced_after_its_header_was_read_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", safetensors_bytes({"w": ("F32", (2,))}))
    (shard,) = open_checkpoint(path).shards
    write(tmp_path / "y", safetensors_bytes({"v": ("F32", (2,))})).rename(path)
    with pytest.raises(InputError, match="changed after it was first looked at"), shard.open():
        pass


def test_a_small_file_is_read_whole_and_anything_else_is_refused(tmp_path: Path) -> None:
    assert read_file(write(tmp_path / "x", b"0123"), 4) == b"0123"
    with pytest.raises(InputError, match="x: has 4 bytes; at most 3 are read"):
        read_file(tmp_path / "x", 3)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="regular file"):
            read_file(path, 4)


@pytest.mark.parametrize("flags", [None, os.O_RDWR])
def test_a_pipe_whose_writer_is_missing_or_silent_is_given_up(tmp_path: Path, flags: int | None) -> None:
    pipe = tmp_path / "r.toml"
    os.mkfifo(pipe)
    with (
        nullcontext() if flags is None else os.fdopen(os.open(pipe, flags)),
        pytest.raises(InputError, match=r"r.toml: nothing came through this pipe for 0.01 s; give a file"),
    ):
        read_pipe(pipe, 9, patience_s=0.01)


def test_a_read_only_input_is_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", safetensors_bytes({"w": ("U8", (4,))}))
    path.chmod(0o444)
    (shard,) = open_checkpoint(path).shards
    assert rewrite(shard, tmp_path / "y.safetensors").stat().st_mode & 0o200
