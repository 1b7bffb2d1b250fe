"""SIGINT and SIGTERM: a prompt end, its own exit code, nothing left."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cli.process import bytes_read, start_process, wait_until
from tests.run.checkpoints import write_sparse

PROMPT = 5.0
"""Seconds; on a machine of its own it takes a tenth of one."""

each_signal = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@each_signal
def test_a_measurement_ends_promptly(tmp_path: Path, number: signal.Signals, code: int) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (64 << 30,))
    process = start_process("stats", source, "--threads", 2)
    try:
        wait_until(lambda: bytes_read(process.pid) > 200 << 20, process)
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < PROMPT
    assert process.returncode == code
    assert out == ""
    assert err.startswith("error: interrupted")
    assert len(err.splitlines()) == 1


@each_signal
def test_a_run_ends_promptly_and_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("less than 6 GiB free: the run would be refused")
    source = write_sparse(tmp_path / "in.safetensors", (1 << 30,))
    output = tmp_path / "out.safetensors"
    process = start_process("run", source, "-o", output, "--threads", 2, "--input-min", -1, "--input-max", 1)
    try:
        wait_until(lambda: bytes_read(process.pid) > 50 << 20, process)
        assert (tmp_path / "out.safetensors.qdq-partial").exists()
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < PROMPT
    assert process.returncode == code
    assert err.startswith("error: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_signal_while_files_are_copied_is_heard(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("less than 6 GiB free: the run would be refused")
    folder = tmp_path / "model"
    folder.mkdir()
    write_sparse(folder / "model.safetensors", (4,))
    with (folder / "side.bin").open("wb") as file:
        file.truncate(4 << 30)
    process = start_process("run", folder, "-o", tmp_path / "out")
    try:
        wait_until(lambda: bytes_read(process.pid) > 100 << 20, process)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < PROMPT
    assert process.returncode == 143
    assert err.count("error: ") == 1
    assert err.endswith("1 of 1 files are finished, --resume goes on from here\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.qdq-partial"]
    shutil.rmtree(tmp_path / "out.qdq-partial")


def test_a_signal_while_the_program_loads_is_heard(tmp_path: Path) -> None:
    """Before the work begins Python and Numba are imported, which takes a good part of a second."""
    source = write_sparse(tmp_path / "in.safetensors", (64 << 30,))
    process = start_process("stats", source)
    try:
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 or process.returncode == -signal.SIGTERM
