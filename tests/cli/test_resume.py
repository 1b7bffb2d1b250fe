"""`qdq run --resume`: goes on where a run was stopped, to the same bytes and the same report, or says why not."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli import interrupted
from tests.cli.process import PATIENCE, environment, no_file_beyond, run_process, start_process
from tests.cli.test_output import contents
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

SETTINGS = ("--axis", 0, "--min-ndim", 1, "--num-bits", 5, "--per-channel", "--format", "json")
KILLED = -signal.SIGKILL


def stopped(lines: int, number: int, *arguments: object, small: bool = True) -> subprocess.CompletedProcess[str]:
    """`qdq`, stopped by a signal when its journal has so many lines; each tensor is a part of its own if `small`."""
    size = "small" if small else "usual"
    command = [sys.executable, interrupted.__file__, str(lines), str(int(number)), size, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False)


def partial_of(output: Path) -> Path:
    return output.with_name(output.name + ".qdq-partial")


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_goes_on_from_every_line_of_the_journal(
    qdq: Qdq, model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    whole = qdq("run", model, "-o", tmp_path / "whole", *SETTINGS)
    want = contents(tmp_path / "whole")
    for lines in range(1, 40, 1 if number == signal.SIGKILL else 3):
        output = tmp_path / f"out{lines}"
        first = stopped(lines, number, "run", model, "-o", output, *SETTINGS)
        if first.returncode == 0:  # fewer lines than that
            break
        assert first.returncode == (KILLED if number == signal.SIGKILL else 143)
        assert not output.exists() or "at the end of the work" in first.stderr
        again = qdq("run", model, "-o", output, *SETTINGS, "--resume")
        assert (again.code, again.out) == (0, whole.out), (lines, again.err)
        assert contents(output) == want, lines
        assert not partial_of(output).exists()
    assert lines > 6


@pytest.mark.usefixtures("parts")
def test_what_is_finished_is_not_done_again(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    """Marks left in what is finished are still there afterwards; `--verify` is for finding such things."""
    output = tmp_path / "out"
    stopped(6, signal.SIGKILL, "run", model, "-o", output, *SETTINGS)
    assert not output.exists()
    marked = []
    for path in partial_of(output).rglob("*"):
        if path.suffix in (".safetensors", ".tmp"):
            status, data = path.stat(), bytearray(path.read_bytes())
            header = 8 + int.from_bytes(data[:8], "little")
            data[header] ^= 0xFF
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            marked.append((path.suffix, data[header], header))
    assert sorted(suffix for suffix, _, _ in marked) == [".safetensors", ".tmp"]
    assert qdq("run", model, "-o", output, *SETTINGS, "--resume").code == 0
    shards = [path.read_bytes() for path in sorted(output.glob("*.safetensors"))]
    for (_, byte, header), data in zip(sorted(marked), shards, strict=True):
        assert data[header] == byte


def test_a_finished_file_that_was_changed_is_made_again(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    qdq("run", model, "-o", tmp_path / "whole", *SETTINGS)
    stopped(8, signal.SIGKILL, "run", model, "-o", output, *SETTINGS)
    (finished,) = partial_of(output).rglob("*.safetensors")
    finished.write_bytes(finished.read_bytes()[:-1])
    assert qdq("run", model, "-o", output, *SETTINGS, "--resume").code == 0
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_part_that_is_gone_is_made_again(qdq: Qdq, tiny: Path, tmp_path: Path, damage: str) -> None:
    output = tmp_path / "out.safetensors"
    whole = qdq("run", tiny, "-o", tmp_path / "whole.safetensors", *SETTINGS)
    assert stopped(4, signal.SIGKILL, "run", tiny, "-o", output, *SETTINGS).returncode == KILLED
    (unfinished,) = partial_of(output).glob(".qdq-*.tmp")
    if damage == "missing":
        unfinished.unlink()
    else:
        os.truncate(unfinished, 100)
    again = qdq("run", tiny, "-o", output, *SETTINGS, "--resume")
    assert (again.code, again.out) == (0, whole.out)
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_run_that_was_never_begun_is_begun(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    assert qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--resume").code == 0
    assert (tmp_path / "out.safetensors").exists()


def test_a_run_that_is_done_is_done(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    """A job that a scheduler starts once more finds its output and reports as before."""
    first = qdq("run", model, "-o", tmp_path / "out", *SETTINGS)
    before = (tmp_path / "out").stat().st_ino
    again = qdq("run", model, "-o", tmp_path / "out", *SETTINGS, "--resume")
    assert (again.code, again.out) == (0, first.out)
    assert (tmp_path / "out").stat().st_ino == before


def test_an_output_of_something_else_is_not_taken_for_done(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    qdq("run", model, "-o", tmp_path / "out", *SETTINGS)
    before = contents(tmp_path / "out")
    again = qdq("run", model, "-o", tmp_path / "out", *SETTINGS, "--num-bits", 4, "--resume")
    assert again.code == 2
    assert "was made with other settings: num_bits was 5 and is 4" in again.error
    (tmp_path / "out" / "qdq.json").unlink()
    del before["qdq.json"]
    unknown = qdq("run", model, "-o", tmp_path / "out", *SETTINGS, "--num-bits", 4, "--resume")
    assert "OUTPUT exists and is not what this run gives" in unknown.error
    assert contents(tmp_path / "out") == before
    assert not partial_of(tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["bits", "selection", "file", "touched", "side file", "new file"])
def test_another_input_or_setting_is_refused_and_named(qdq: Qdq, model: Path, tmp_path: Path, change: str) -> None:
    output = tmp_path / "out"
    assert stopped(4, signal.SIGKILL, "run", model, "-o", output, *SETTINGS).returncode == KILLED
    before = contents(partial_of(output))
    shard = model / "model-00002-of-00002.safetensors"
    extra: list[object] = []
    match change:
        case "bits":
            extra, said = ["--num-bits", 6], "num_bits was 5 and is 6"
        case "selection":
            extra, said = ["--exclude", "embed"], "exclude was [] and is ['embed']"
        case "file":
            status = shard.stat()
            data = shard.read_bytes().replace(b'"format": "pt"', b'"format": "np"')
            shard.write_bytes(data)
            os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
            said = f"input file '{shard.name}' has changed"
        case "touched":
            os.utime(shard)
            said = f"input file '{shard.name}' has changed"
        case "side file":
            (model / "config.json").write_text("{}")
            said = "input file 'config.json' has changed"
        case _:
            (model / "more.txt").write_text("words")
            said = "input file 'more.txt' is new"
    again = qdq("run", model, "-o", output, *SETTINGS, *extra, "--resume")
    assert again.code == 2
    assert said in again.error
    assert contents(partial_of(output)) == before
    shutil.rmtree(partial_of(output))


def test_ranges_that_were_changed_are_refused(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    ranges, output = tmp_path / "ranges.json", tmp_path / "out.safetensors"
    arguments = ("run", tiny, "-o", output, "--include", "embed", "--ranges", ranges)
    ranges.write_text(json.dumps({"embed": {"input_min": -1, "input_max": 1}}))
    assert stopped(2, signal.SIGKILL, *arguments).returncode == KILLED
    ranges.write_text(json.dumps({"embed": {"input_min": -1, "input_max": 2}}))
    again = qdq(*arguments, "--resume")
    assert again.code == 2
    assert "the ranges of --ranges are others" in again.error
    shutil.rmtree(partial_of(output))


@pytest.mark.parametrize("number", [6, 12])
def test_a_run_goes_on_where_the_disk_has_no_locks(
    qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Lustre without `flock`, some NFS: also where the run before ended with an error, and not only where it died."""
    output = tmp_path / "out"
    monkeypatch.setattr(fcntl, "flock", lambda *_: fail(errno.ENOSYS))
    fsync, calls = os.fsync, []

    def sync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == number:
            fail(errno.EIO)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    first = qdq("run", model, "-o", output, *SETTINGS)
    assert first.code == 4
    assert "--resume goes on from here" in first.error
    assert qdq("run", model, "-o", output, *SETTINGS, "--resume").code == 0
    assert not partial_of(output).exists()
    qdq("run", model, "-o", tmp_path / "whole", *SETTINGS)
    assert contents(output) == contents(tmp_path / "whole")


def test_the_lock_of_another_machine_is_broken_on_demand(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    partial_of(output).mkdir(0o700)
    (partial_of(output) / "lock").touch()
    holder = {"host": "node7", "space": "x", "pid": 4711, "started": "1", "since": "2026-11-29 12:00+00:00"}
    (partial_of(output) / "lock.1").write_text(json.dumps(holder))
    refused = qdq("run", tiny, "-o", output, *SETTINGS, "--resume")
    assert refused.code == 2
    assert "process 4711 of node7, since 2026-11-29 12:00+00:00, may be writing here" in refused.error
    assert qdq("run", tiny, "-o", output, *SETTINGS, "--resume", "--break-lock").code == 0


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_without_resume_a_run_begins_anew(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stopped(4, signal.SIGKILL, "run", model, "-o", output, *SETTINGS)
    outcome = qdq("run", model, "-o", output, "--num-bits", 3)
    assert outcome.code == 0
    assert re.search(r"/out: an interrupted run was discarded \(\d+ B of output\); --resume would", outcome.err)
    assert "discarded" not in qdq("run", model, "-o", tmp_path / "whole", "--num-bits", 3).err
    assert contents(output) == contents(tmp_path / "whole")


def test_a_limit_on_file_size_stops_a_run_that_goes_on_without_it(qdq: Qdq, tmp_path: Path) -> None:
    """EFBIG in the second file: the first is kept, and so is the report of it."""
    folder, output = tmp_path / "model", tmp_path / "out"
    write_safetensors(folder / "a.safetensors", {"a": sample((100, 100))})
    write_safetensors(folder / "b.safetensors", {"b": sample((500, 500))})
    first = run_process("run", folder, "-o", output, **no_file_beyond(200_000))
    assert first.returncode == 4
    assert first.stderr.startswith(f"error: {partial_of(output)}/result/b.safetensors: {os.strerror(27)}")
    assert "1 of 2 files are finished, --resume goes on from here" in first.stderr
    assert not output.exists()
    again = qdq("run", folder, "-o", output, "--format", "json", "--resume")
    whole = qdq("run", folder, "-o", tmp_path / "whole", "--format", "json")
    assert (again.code, again.out) == (0, whole.out)
    assert contents(output) == contents(tmp_path / "whole")


def test_a_report_that_cannot_be_written_is_made_up_for(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "out.safetensors", tmp_path / "report.json"
    first = run_process("run", tiny, "-o", output, "--report", report, "--format", "none", **no_file_beyond(6000))
    assert first.returncode == 4
    assert first.stderr.startswith(f"error: {report}: ")
    assert output.exists()
    assert not report.exists()
    assert qdq("run", tiny, "-o", output, "--report", report, "--format", "none", "--resume").code == 0
    whole = qdq("run", tiny, "-o", tmp_path / "whole.safetensors", "--format", "json")
    assert json.loads(report.read_text()) == whole.report
    assert not partial_of(output).exists()


def test_of_two_runs_at_once_one_wins(tmp_path: Path) -> None:
    source, output = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    write_safetensors(source, {"w": np.arange(4 << 20, dtype=np.float32).reshape(64, -1)})
    for resume in ([], ["--resume"]):
        processes = [start_process("run", source, "-o", output, "--format", "none", *resume) for _ in range(4)]
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        codes = [process.returncode for process in processes]
        assert set(codes) <= {0, 2}, errors
        if not resume:  # with it, one that comes late finds all done
            assert codes.count(0) == 1, errors
        for code, error in zip(codes, errors, strict=True):
            words = ("wrote ", "finished") if code == 0 else ("another run is writing here", "exists")
            assert any(word in error for word in words) or (code == 0 and not error), errors
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out.safetensors"]
        output.unlink()


def test_a_run_that_stops_another_time_goes_on_again(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    whole = qdq("run", model, "-o", tmp_path / "whole", *SETTINGS)
    for _ in range(20):
        if stopped(1, signal.SIGKILL, "run", model, "-o", output, *SETTINGS, "--resume").returncode == 0:
            break
    else:
        raise AssertionError("it makes no progress")
    assert contents(output) == contents(tmp_path / "whole")
    again = qdq("run", model, "-o", output, *SETTINGS, "--resume")
    assert again.out == whole.out
