"""A run that is killed at any point: OUTPUT is old, new or not there, and a run that resumes makes up for it."""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli import strace
from tests.cli.process import run_process, start_process
from tests.cli.test_output import contents
from tests.cli.test_resume import partial_of
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

pytestmark = pytest.mark.faults

SETTINGS = ("--axis", 0, "--min-ndim", 1, "--num-bits", 5, "--format", "none")
KINDS = ("folder", "overwrite", "file")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run, and what there is before and after it."""

    source: Path
    output: Path
    report: Path
    arguments: tuple[object, ...]
    old: dict[str, bytes] | None
    """OUTPUT before the run; None where there is none."""
    new: dict[str, bytes]
    """OUTPUT afterwards."""
    new_report: bytes

    def prepare(self) -> None:
        """Everything as it is before the run."""
        shutil.rmtree(partial_of(self.output), ignore_errors=True)
        self.report.unlink(missing_ok=True)
        if self.output.is_dir():
            shutil.rmtree(self.output)
        self.output.unlink(missing_ok=True)
        for name, data in (self.old or {}).items():
            self.output.mkdir(exist_ok=True)
            (self.output / name).write_bytes(data)

    def assert_old_new_or_nothing(self) -> None:
        if self.output.exists():
            assert files(self.output) in (self.old, self.new)
        elif self.old is not None:  # out of the way, for the moment between two renames
            assert files(partial_of(self.output) / "replaced") == self.old
        if self.report.exists():
            assert self.report.read_bytes() == self.new_report

    def assert_new(self) -> None:
        assert files(self.output) == self.new
        assert self.report.read_bytes() == self.new_report
        assert not partial_of(self.output).exists()


def files(path: Path) -> dict[str, bytes]:
    """The content of a file, or of each file below a folder."""
    return contents(path) if path.is_dir() else {".": path.read_bytes()}


def make_case(qdq: Qdq, kind: str, tmp_path: Path, folder: Path) -> Case:
    source = folder / "1.safetensors" if kind == "file" else folder
    output, report = tmp_path / "out", tmp_path / "report.json"
    arguments = ("run", source, "-o", output, *SETTINGS, "--report", report)
    arguments += ("--overwrite",) if kind == "overwrite" else ()
    assert qdq(*arguments).code == 0
    case = Case(
        source=source,
        output=output,
        report=report,
        arguments=arguments,
        old={"config.json": b"old"} if kind == "overwrite" else None,
        new=files(output),
        new_report=report.read_bytes(),
    )
    case.prepare()
    return case


@pytest.mark.usefixtures("needs_strace", "parts")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_any_call_that_writes_is_resumed(
    qdq: Qdq, tmp_path: Path, varied: Path, kind: str, every_fault: bool
) -> None:
    case = make_case(qdq, kind, tmp_path, varied)
    points = strace.calls(tmp_path, strace.WRITING, *case.arguments)
    case.assert_new()
    assert len(points) > 40, points
    if not every_fault:
        points = strace.distinct(points)[KINDS.index(kind) :: 5]
    before = files(case.source)
    for point in points:
        case.prepare()
        killed = strace.inject(point, "signal=KILL", *case.arguments)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
        case.assert_old_new_or_nothing()
        again = qdq(*case.arguments, "--resume")
        assert again.code == 0, (point, again.err)
        case.assert_new()
    assert files(case.source) == before


@pytest.mark.usefixtures("needs_strace")
def test_what_a_killed_calibration_left_is_swept(qdq: Qdq, tmp_path: Path, tiny: Path) -> None:
    ranges = tmp_path / "ranges.safetensors"
    arguments = ("calibrate", tiny, "-o", ranges)
    (naming,) = strace.calls(tmp_path, "renameat2", *arguments)
    ranges.unlink()
    assert strace.inject(naming, "signal=KILL", *arguments).returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir() if path != tiny] == [".tmp"]
    assert qdq(*arguments).code == 0
    assert sorted(tmp_path.iterdir()) == sorted([tiny, ranges])


def test_a_run_killed_at_any_time_is_resumed(qdq: Qdq, tmp_path: Path, every_fault: bool) -> None:
    """What lies between system calls; the process group is killed, so that no thread or child goes on."""
    folder = tmp_path / "model"
    matrix = sample((500, 500))
    for i in range(20):  # so many that the work takes as long as Python's start
        write_safetensors(folder / f"{i:02}.safetensors", {"w": matrix + i})
    case = make_case(qdq, "folder", tmp_path, folder)
    began = time.monotonic()
    assert run_process(*case.arguments).returncode == 0
    elapsed = time.monotonic() - began
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    codes = []
    for trial in range(50 if every_fault else 6):
        case.prepare()
        for resume in ([], ["--resume"]) if rng.random() < 0.3 else ([],):
            process = start_process(*case.arguments, *resume, start_new_session=True)
            time.sleep(rng.uniform(0.4, 1) * elapsed)  # the first part of a run is Python's own start
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            codes.append(process.returncode)
            case.assert_old_new_or_nothing()
        again = qdq(*case.arguments, "--resume")
        assert again.code == 0, (seed, trial, again.err)
        case.assert_new()
    assert -signal.SIGKILL in codes, codes
