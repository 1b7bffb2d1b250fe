"""The lock of a partial folder: with `flock`, without it, and what another user or machine may have left."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qdqcli.errors import OutputError, UsageError
from qdqcli.output import lock as lock_module
from qdqcli.output.lock import FolderLock
from tests.tensors.files import write


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture(params=["flock", "no flock"])
def _both(request: pytest.FixtureRequest) -> None:
    if request.param == "no flock":
        request.getfixturevalue("no_flock")


@pytest.mark.usefixtures("_both")
def test_lock_keeps_a_second_process_out_until_released(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "work")
    with pytest.raises(UsageError, match="another run is writing"):
        FolderLock(tmp_path / "work")
    lock.release()
    FolderLock(tmp_path / "work").remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "link", "foreign"])
@pytest.mark.usefixtures("_both")
def test_lock_leaves_what_is_not_its_own_alone(tmp_path: Path, kind: str) -> None:
    work = tmp_path / "work"
    if kind == "file":
        work.write_bytes(b"")
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        work.symlink_to("elsewhere")
    else:
        write(work / "thesis.txt", b"")
    with pytest.raises(UsageError, match="in the way"):
        FolderLock(work)
    assert not (tmp_path / "elsewhere" / "lock").exists()
    assert not (tmp_path / "work" / "lock").exists()


@pytest.mark.usefixtures("_both")
def test_a_lock_that_was_released_is_free_though_the_folder_holds_something(tmp_path: Path) -> None:
    for _ in range(3):
        lock = FolderLock(tmp_path / "work")
        (tmp_path / "work" / "journal").touch()
        lock.release()
    lock = FolderLock(tmp_path / "work")
    (tmp_path / "work" / "journal").unlink()
    lock.remove()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def left_behind(folder: Path, *, killed: bool = True) -> Iterator[None]:
    """Another process, without `flock`, holds the lock of the folder; or held it, and was killed."""
    script = (
        "import fcntl, os, sys, time; from pathlib import Path; from qdqcli.output.lock import FolderLock\n"
        "def refuse(*_): raise OSError(38, 'no')\n"
        "fcntl.flock = refuse\n"
        "FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    if killed:
        process.kill()
        process.wait()
    yield
    process.kill()
    process.communicate()


@pytest.mark.usefixtures("_both")
def test_the_lock_of_a_dead_process_of_this_machine_is_passed_over(tmp_path: Path) -> None:
    with left_behind(tmp_path / "work"):
        assert (tmp_path / "work" / "lock.1").read_text()
        FolderLock(tmp_path / "work").remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_both")
@pytest.mark.parametrize("break_lock", [False, True])
def test_the_lock_of_a_living_process_is_never_broken(tmp_path: Path, break_lock: bool) -> None:
    held = "another run is writing here"
    with left_behind(tmp_path / "work", killed=False), pytest.raises(UsageError, match=held):
        FolderLock(tmp_path / "work", break_lock=break_lock)
    FolderLock(tmp_path / "work").remove()


@pytest.mark.usefixtures("no_flock")
def test_a_number_that_another_process_has_now_is_no_sign_of_life(tmp_path: Path) -> None:
    holder = lock_module.Holder.this()
    write(tmp_path / "work" / "lock", b"")
    write(tmp_path / "work" / "lock.1", str(holder._replace(started="1")).encode())
    FolderLock(tmp_path / "work").remove()


DISTANT = {
    "another machine": {"host": "elsewhere"},
    "another boot": {"space": "0 pid:[1]"},
    "nothing": None,
    "no JSON": "words",
    "another form": {"pid": "x"},
}


@pytest.mark.usefixtures("_both")
@pytest.mark.parametrize("what", DISTANT)
def test_the_lock_of_another_machine_is_only_broken_on_demand(tmp_path: Path, what: str) -> None:
    """Also one of which nothing is known: its process may be about to write it."""
    changes = DISTANT[what]
    text = "" if changes is None else changes
    if isinstance(changes, dict):
        text = json.dumps(lock_module.Holder.this()._asdict() | changes)
    write(tmp_path / "work" / "lock", b"")
    write(tmp_path / "work" / "lock.7", text.encode())
    with pytest.raises(UsageError, match=r"may be writing here, and this disk has no locks to tell; .*--break-lock"):
        FolderLock(tmp_path / "work")
    assert (tmp_path / "work" / "lock.7").read_text() == text
    lock = FolderLock(tmp_path / "work", break_lock=True)
    with pytest.raises(UsageError, match="another run is writing here"):
        FolderLock(tmp_path / "work")
    lock.remove()
    assert list(tmp_path.iterdir()) == []


def test_who_has_no_locks_stays_out_of_a_folder_of_one_who_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine mounts the disk with locks, another without; and the folder has a claim that was given back."""
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", lambda *_: Path("/none").stat())
        first = FolderLock(tmp_path / "work")
        (tmp_path / "work" / "journal").touch()
        first.release()
    second = FolderLock(tmp_path / "work")
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", lambda *_: Path("/none").stat())
        with pytest.raises(UsageError, match="another run may be writing here"):
            FolderLock(tmp_path / "work")
    (tmp_path / "work" / "journal").unlink()
    second.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_a_claim_that_comes_late_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and claiming, others took the lock, ended, and began once more."""
    with left_behind(tmp_path / "work"):
        read, calls = FolderLock._claims, []

        def late(lock: FolderLock) -> dict[int, str]:
            calls.append(read(lock))
            if len(calls) == 2:
                (tmp_path / "work" / "lock.1").write_text(str(lock_module.Holder.this()))
                return read(lock)
            return calls[-1]

        monkeypatch.setattr(FolderLock, "_claims", late)
        with pytest.raises(UsageError, match="another run is writing here"):
            FolderLock(tmp_path / "work")
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["lock", "lock.1"]


def test_the_folder_is_open_to_its_user_alone(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "work")
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700
    lock.release()
    (tmp_path / "work").chmod(0o755)
    lock = FolderLock(tmp_path / "work")
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o700
    lock.remove()


@pytest.mark.parametrize(("mode", "owner"), [(0o777, None), (0o720, None), (0o700, 65534), (0o777, 65534)])
def test_a_folder_that_another_user_may_change_is_refused(tmp_path: Path, mode: int, owner: int | None) -> None:
    work = write(tmp_path / "work" / "lock", b"").parent
    (work / "result").symlink_to(tmp_path / "elsewhere")
    work.chmod(mode)
    if owner is not None:
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(work, owner, owner)
    with pytest.raises(UsageError, match="belongs to another user" if owner else "may be written by other users"):
        FolderLock(work)
    assert sorted(path.name for path in work.iterdir()) == ["lock", "result"]
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_disk_that_knows_no_owners_and_modes_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfat, CIFS: every folder looks the same, also one that was made just now."""
    work = write(tmp_path / "work" / "lock", b"").parent
    work.chmod(0o777)
    make = lock_module.tempfile.TemporaryDirectory

    def make_open(**options: object) -> object:
        made = make(**options)
        Path(made.name).chmod(0o777)
        return made

    monkeypatch.setattr(lock_module.tempfile, "TemporaryDirectory", make_open)
    FolderLock(work).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_a_claim_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OutputError, match="lock: No space left"):
            FolderLock(tmp_path / "work")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lock"]
