"""SIGINT, SIGTERM and SIGHUP: a prompt end, its own exit code, nothing left."""

import fcntl
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from qdqcli.cli.main import run
from qdqcli.errors import InputError
from qdqcli.interrupt import Interruption
from tests.cli.process import PATIENCE, bytes_read, only_error, start_process, wait_until
from tests.run.checkpoints import sample, write_safetensors, write_sparse
from tests.tensors.files import raw_safetensors, write

PIPE_BYTES = 1 << 16
"""What a pipe holds on Linux."""
BUFFER_BYTES = 1 << 13
"""What Python writes at a time, more than which a full pipe has no room for."""

each_signal = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
every_signal = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


def stopped_by(number: signal.Signals, process: subprocess.Popen[str]) -> tuple[str, str]:
    """What the process has written to stdout and stderr once the signal has ended it."""
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE)


@every_signal
def test_a_measurement_ends_promptly(tmp_path: Path, number: signal.Signals) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (64 << 30,))
    process = start_process("stats", source, "--threads", 2)
    try:
        wait_until(lambda: bytes_read(process.pid) > 200 << 20, process)
        out, err = stopped_by(number, process)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert out == ""
    assert only_error(err).startswith("error: interrupted")


@every_signal
def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    """As under `nohup`, and in the background of a script."""
    source = write_sparse(tmp_path / "in.safetensors", (8 << 20,))
    process = start_process(
        "stats", source, "--format", "none", preexec_fn=lambda: signal.signal(number, signal.SIG_IGN)
    )
    try:
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.05)
        assert (process.returncode, process.communicate()[1]) == (0, "")
    finally:
        process.kill()


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
        _, err = stopped_by(number, process)
    finally:
        process.kill()
    assert process.returncode == code
    assert only_error(err).startswith("error: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


@each_signal
def test_a_signal_while_a_header_is_parsed_is_heard(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Of 400,000 tensors: parsing it takes seconds."""
    record = '"%07x":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":[[[[[]]]]]}'
    header = "{" + ",".join(record % i for i in range(400_000)) + "}"
    source = write(tmp_path / "in.safetensors", raw_safetensors(header))
    process = start_process("inspect", source, gracious=False)
    try:
        wait_until(lambda: bytes_read(process.pid) > len(header) // 2, process)
        out, err = stopped_by(number, process)
    finally:
        process.kill()
    assert (process.returncode, out) == (code, "")
    assert only_error(err).startswith("error: interrupted")


@each_signal
def test_a_signal_before_a_file_turns_out_bad_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    interruption = Interruption()

    def refuse(*_: object, **__: object) -> None:
        interruption.request(number)
        raise InputError("in.safetensors: is damaged")

    monkeypatch.setattr("qdqcli.cli.inspect.opened", refuse)
    assert run(["inspect", str(tmp_path)], interruption) == code
    assert capsys.readouterr().err.startswith("error: interrupted")


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
        _, err = stopped_by(signal.SIGTERM, process)
    finally:
        process.kill()
    assert process.returncode == 143
    assert only_error(err).endswith("1 of 1 files are finished, --resume goes on from here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.qdq-partial"]
    shutil.rmtree(tmp_path / "out.qdq-partial")


@each_signal
def test_a_signal_while_a_large_tensor_is_copied_is_heard(tmp_path: Path, number: signal.Signals, code: int) -> None:
    if shutil.disk_usage(tmp_path).free < 6 << 30:
        pytest.skip("less than 6 GiB free: the run would be refused")
    source = write_sparse(tmp_path / "in.safetensors", (1 << 29,), names=("kept", "w"))
    process = start_process("run", source, "-o", tmp_path / "out.safetensors", "--exclude", "kept")
    try:
        wait_until(lambda: bytes_read(process.pid) > 100 << 20, process)
        _, err = stopped_by(number, process)
    finally:
        process.kill()
    assert process.returncode == code
    assert only_error(err) == f"error: interrupted; {tmp_path / 'out.safetensors'} was not written"
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


@each_signal
def test_what_does_not_stop_is_made_to(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Standard output is a pipe that is full: writing to it waits until somebody reads, which nobody does."""
    process = start_blocked(tmp_path)
    process.send_signal(number)
    process.wait(PATIENCE)
    assert (process.returncode, process.communicate()[1]) == (code, "error: interrupted\n")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = start_blocked(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    # the code of the second signal: the first alone would give 130, after GRACE_S
    assert (process.returncode, process.communicate()[1]) == (143, "error: interrupted\n")


def test_signals_are_listened_to_before_anything_slow_is_imported() -> None:
    script = (
        "import sys; sys.argv = ['qdq', '--version']\n"
        "from qdqcli.cli import signals\n"
        "signals.listen = lambda _: print('click' in sys.modules)\n"
        "from qdqcli.__main__ import main; main()"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.startswith("False\nqdq ")


def test_a_signal_that_nothing_was_left_to_stop_for_is_not_swallowed(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the last line of the table is written."""
    interruption = Interruption()
    monkeypatch.setattr("qdqcli.cli.deliver.write_all", lambda _: interruption.request(signal.SIGTERM))
    assert run(["stats", str(tiny)], interruption) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted at the end of the work"


def start_blocked(folder: Path) -> subprocess.Popen[str]:
    """`qdq`, in the middle of writing to a pipe that is full."""
    source = write_safetensors(folder / "in.safetensors", {f"w{i}": sample((4,), seed=i) for i in range(3000)})
    process = start_process("inspect", source, "--format", "jsonl", gracious=False)
    wait_until(lambda: bytes_waiting(process) > PIPE_BYTES - BUFFER_BYTES, process)
    time.sleep(0.2)  # the next write, which waits
    return process


def bytes_waiting(process: subprocess.Popen[str]) -> int:
    """Bytes in the pipe of standard output that nobody has read yet."""
    assert process.stdout is not None
    return int.from_bytes(fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)), sys.byteorder)


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether the process handles SIGTERM, which Python does not by itself."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


@each_signal
def test_a_signal_at_any_time_is_heard(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Python and Numba are imported, headers read, tensors measured: about half a second in all."""
    source = write_sparse(tmp_path / "in.safetensors", (1 << 26,))
    for i in range(number == signal.SIGTERM, 8, 2):
        heard_at_any_time(source, number, code, 0.06 * i)


def heard_at_any_time(source: Path, number: signal.Signals, code: int, delay: float) -> None:
    output = source.with_name("out.safetensors")
    process = start_process("run", source, "-o", output, gracious=False)
    try:
        wait_until(lambda: listens(process), process)
        time.sleep(delay)
        _, err = stopped_by(number, process)
    finally:
        process.kill()
    assert process.returncode == code, (delay, err)
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert not said or (len(said) == 1 and said[0].startswith("error: interrupted")), (delay, err)
    assert "Traceback" not in err
    if output.exists():
        assert output.stat().st_size == source.stat().st_size
        output.unlink()
    shutil.rmtree(output.with_name("out.safetensors.qdq-partial"), ignore_errors=True)  # of one that was made to stop


@pytest.mark.faults
@each_signal
def test_no_signal_of_many_is_swallowed(tmp_path: Path, number: signal.Signals, code: int, every_fault: bool) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    delays = random.Random(seed)
    source = write_sparse(tmp_path / "in.safetensors", (1 << 26,))
    for _ in range(200 if every_fault else 30):
        heard_at_any_time(source, number, code, delays.uniform(0, 0.45))
