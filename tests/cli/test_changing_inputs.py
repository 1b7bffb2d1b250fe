"""Inputs that are cut, extended, replaced, touched or removed while they are read: exit code 3 from every command."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.process import bytes_read, start_process, wait_until
from tests.run.checkpoints import sample, write_safetensors, write_sparse

BEGUN = 64 << 20
"""Bytes that were read when the file changes."""


def cut(path: Path) -> None:
    os.truncate(path, 1 << 20)


def extended(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def replaced(path: Path) -> None:
    """By one of the same size, name and time: only the file itself is another."""
    status = path.stat()
    other = path.with_name("other")
    shutil.copyfile(path, other, follow_symlinks=False) if status.st_size < 1 << 20 else sparse_copy(path, other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def sparse_copy(path: Path, other: Path) -> None:
    with path.open("rb") as file:
        other.write_bytes(file.read(4096))
    os.truncate(other, path.stat().st_size)


def touched(path: Path) -> None:
    os.utime(path)


def removed(path: Path) -> None:
    path.unlink()


CHANGES = (cut, extended, replaced, touched, removed)


@pytest.mark.faults
@pytest.mark.parametrize("change", [cut, replaced])
@pytest.mark.parametrize(
    "arguments", [("stats", "W"), ("stats", "W", "--axis", 0), ("compare", "W", "OTHER"), ("compare", "OTHER", "W")]
)
def test_a_large_tensor_that_changes_is_noticed(
    tmp_path: Path, arguments: tuple[object, ...], change: Callable[[Path], None]
) -> None:
    source = write_sparse(tmp_path / "w.safetensors", (1 << 9, 1 << 20), "F32")
    other = write_sparse(tmp_path / "other.safetensors", (1 << 9, 1 << 20), "F32")
    places = {"W": source, "OTHER": other}
    expect_noticed(source, change, *(places.get(str(a), a) for a in arguments))


@pytest.mark.parametrize("change", CHANGES)
def test_a_large_tensor_that_changes_while_it_is_written_anew_is_noticed(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    if shutil.disk_usage(tmp_path).free < 4 << 30:
        pytest.skip("less than 4 GiB free: the run would be refused")
    source = write_sparse(tmp_path / "w.safetensors", (1 << 8, 1 << 20), "F32")
    output = tmp_path / "out.safetensors"
    expect_noticed(source, change, "run", source, "-o", output)
    assert not output.exists()
    shutil.rmtree(tmp_path / "out.safetensors.qdq-partial", ignore_errors=True)  # what was flushed, for --resume


@pytest.mark.parametrize("change", [cut, removed])
def test_a_shard_that_changes_before_its_turn_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Its header was read before the first shard's data."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_sparse(folder / "a.safetensors", (1 << 9, 1 << 20), "F32")
    last = write_safetensors(folder / "b.safetensors", {"b": sample((512, 1024))})
    expect_noticed(last, change, "stats", folder)


def expect_noticed(changing: Path, change: Callable[[Path], None], *arguments: object) -> None:
    process = start_process(*arguments)
    try:
        wait_until(lambda: bytes_read(process.pid) > BEGUN, process)
        change(changing)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 3, err
    *progress, error = err.splitlines()
    assert error.startswith(f"error: {changing}: ")
    assert [line for line in progress if not line.startswith(("measuring ", "writing "))] == []
