"""Each system call failing once: never an exit code 0 with a damaged output, and the message names the file."""

from itertools import cycle
from pathlib import Path

import pytest

from tests.cli import strace
from tests.cli.test_killed import KINDS, Case, files, make_case
from tests.conftest import Qdq

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("needs_strace", "parts")]

WRITE_ERRORS = ("ENOSPC", "EIO", "EFBIG", "EDQUOT")
ERRORS = {
    "mkdir": ("ENOSPC", "EROFS", "EACCES"),  # ENOSPC: also where no inode is left
    "openat": ("ENOSPC", "EROFS", "EACCES", "EDQUOT"),
    "ftruncate": ("EFBIG", "EIO"),
    "write": WRITE_ERRORS,
    "pwrite64": WRITE_ERRORS,
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
    "renameat2": ("EIO", "ENOSPC", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "unlinkat": ("EIO", "EROFS"),
    "rmdir": ("EIO",),
}
HARMLESS = {"unlink out.qdq-partial/lock", "rmdir out.qdq-partial"}
"""All is done by then: what stays is an empty partial folder, which the next run takes over."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_fails_is_told(qdq: Qdq, tmp_path: Path, varied: Path, kind: str, every_fault: bool) -> None:
    case = make_case(qdq, kind, tmp_path, varied)
    points = [call for call in strace.calls(tmp_path, strace.WRITING, *case.arguments) if call.name in ERRORS]
    if not every_fault:
        points = strace.distinct(points)[KINDS.index(kind) :: 6]
    turns = {name: cycle(errors) for name, errors in ERRORS.items()}
    for point in points:
        for error in ERRORS[point.name] if every_fault else [next(turns[point.name])]:
            for _ in range(3):  # calls are counted from the process's start: at times another one is hit, of an import
                case.prepare()
                failed = strace.inject(point, f"error={error}", *case.arguments)
                if failed.returncode:
                    break
            check_failure(case, f"{point} {error}", failed.returncode, failed.stderr, harmless=point.label in HARMLESS)
            again = qdq(*case.arguments, "--resume")
            assert again.code == 0, (point, error, again.err)
            case.assert_new()


def check_failure(case: Case, what: str, code: int, err: str, *, harmless: bool) -> None:
    case.assert_old_new_or_nothing()
    if harmless and code == 0:
        assert files(case.output) == case.new, what
        return
    assert code == 4, (what, code, err)
    lines = err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True], (what, err)
    # The name of OUTPUT and of the report is flushed with the folder that they are in.
    named = (case.output, case.report, f"{case.output.parent}: ")
    assert any(str(path) in lines[0] for path in named), (what, err)


@pytest.mark.parametrize(("command", "error"), [("run", "EIO"), ("stats", "ESTALE")])
def test_a_read_that_fails_is_told(
    qdq: Qdq, tmp_path: Path, varied: Path, command: str, error: str, every_fault: bool
) -> None:
    case = make_case(qdq, "folder", tmp_path, varied)
    arguments = case.arguments if command == "run" else ("stats", case.source, "--format", "none")
    points = [c for c in strace.calls(tmp_path, strace.READING, *arguments) if c.path.startswith("model/")]
    assert len(points) > (15 if command == "run" else 8), points
    if not every_fault:
        points = strace.distinct(points)[command == "stats" :: 3]
    case.prepare()
    for point in points:
        failed = strace.inject(point, f"error={error}", *arguments)
        assert failed.returncode == 3, (point, failed.stderr)
        assert failed.stderr.startswith(f"error: {tmp_path / point.path}: "), (point, failed.stderr)
        assert len(failed.stderr.splitlines()) == 1, (point, failed.stderr)
        assert not case.output.exists()
        if command == "run":
            assert qdq(*case.arguments, "--resume").code == 0, point
            case.assert_new()
            case.prepare()


@pytest.mark.parametrize("name", ["1.safetensors", "config.json"])
def test_an_output_that_cannot_be_read_back_is_not_verified(
    qdq: Qdq, tmp_path: Path, varied: Path, name: str, every_fault: bool
) -> None:
    case = make_case(qdq, "folder", tmp_path, varied)
    written = case.output.with_name("out.qdq-partial") / "result" / name
    for number in range(1, 9 if every_fault else 3):
        case.prepare()
        read = strace.Call(name="preadv2", number=number, path=str(written))
        failed = strace.inject(read, "error=EIO", *case.arguments, "--verify", path=written)
        if failed.returncode == 0:  # fewer reads than that
            break
        assert failed.returncode == 4, (number, failed.stderr)
        assert failed.stderr.startswith(f"error: {written}: verification failed: it cannot be read back"), failed.stderr
        assert not case.output.exists()
        assert qdq(*case.arguments, "--resume").code == 0
        case.assert_new()
    assert number > 1


@pytest.mark.parametrize("call", ["preadv2", "pwrite64"])
def test_a_call_that_is_interrupted_is_made_again(
    qdq: Qdq, tmp_path: Path, varied: Path, call: str, every_fault: bool
) -> None:
    """A signal may end a read or a write on a network file system before its first byte."""
    case = make_case(qdq, "folder", tmp_path, varied)
    points = strace.distinct(strace.calls(tmp_path, call, *case.arguments))
    assert points, call
    for point in points if every_fault else points[-1:]:
        case.prepare()
        done = strace.inject(point, "error=EINTR", *case.arguments)
        assert (done.returncode, "error" in done.stderr) == (0, False), point
        case.assert_new()
