"""Files beside OUTPUT: they replace only what they may, keep links and modes, and sweep only what is dead."""

import errno
import fcntl
import os
import stat
import time
from pathlib import Path

import pytest

from qdqcli.errors import OutputError, UsageError
from qdqcli.tensors import output_file, rename, temporary
from qdqcli.tensors.input_file import CHUNK_BYTES
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.output_file import OutputFile, write_file
from qdqcli.tensors.rename import exchange, rename_new
from qdqcli.tensors.temporary import STALE_S, sweep_temporaries
from tests.tensors.files import write


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def without_renameat2(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(rename, "_libc_renameat2", lambda: None)
    for name in missing:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "not on this disk")

        monkeypatch.setattr(os, name, refuse)


WAYS: dict[str, tuple[str, ...] | None] = {"renameat2": None, "hard link": (), "look first": ("link",)}


@pytest.fixture(params=WAYS)
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if (missing := WAYS[request.param]) is not None:
        without_renameat2(monkeypatch, *missing)


@pytest.mark.usefixtures("_each_way")
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_new_name_replaces_nothing(tmp_path: Path, kind: str) -> None:
    old, new = tmp_path / "old", write(tmp_path / "new", b"new")
    if kind == "file":
        old.write_bytes(b"old")
    elif kind == "folder":
        old.mkdir()
        new.unlink()
        new.mkdir()
    else:
        old.symlink_to("nowhere")
    before = old.lstat()
    with pytest.raises(FileExistsError):
        rename_new(new, old)
    assert (old.lstat().st_ino, old.lstat().st_mode) == (before.st_ino, before.st_mode)
    rename_new(new, tmp_path / "free")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "old"]


def test_names_are_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = write(tmp_path / "a" / "x", b"").parent, write(tmp_path / "b" / "y", b"").parent
    assert exchange(one, other)
    assert [path.name for path in one.iterdir()] == ["y"]
    without_renameat2(monkeypatch)
    assert not exchange(one, other)
    assert [path.name for path in one.iterdir()] == ["y"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "x")
    write(tmp_path / "x", b"theirs")
    with pytest.raises(UsageError, match="x: exists: another process made it meanwhile"):
        output.commit()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"theirs")]


def test_a_report_goes_through_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    real = write(tmp_path / "real" / "r.json", b"old")
    real.chmod(0o600)
    (tmp_path / "r.json").symlink_to("real/r.json")
    write_file(tmp_path / "r.json", [b"n", b"ew"])
    assert (tmp_path / "r.json").is_symlink()
    assert (real.read_bytes(), mode_of(real)) == (b"new", 0o600)
    (tmp_path / "new.json").symlink_to("real/new.json")
    write_file(tmp_path / "new.json", [b"new"])
    assert (tmp_path / "real" / "new.json").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new.json", "new.json", "r.json", "r.json", "real"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of another user")
def test_nothing_goes_through_a_link_that_another_user_planted(tmp_path: Path) -> None:
    """In /tmp, from where it may lead into a home; the user's own and the folder's owner's may stand."""
    shared, victim = tmp_path / "shared", write(tmp_path / "home" / "profile", b"mine")
    shared.mkdir()
    shared.chmod(0o1777)
    chain, planted = shared / "r.json", shared / "next"
    chain.symlink_to("next")
    planted.symlink_to(victim)
    os.chown(planted, 1, 1, follow_symlinks=False)
    for path in (chain, planted):
        with pytest.raises(OutputError, match=r"shared/next: is a link that another user \(1\) made in a folder where"):
            write_file(path, [b"theirs"])
    assert victim.read_bytes() == b"mine"
    for mode, owner in ((0o755, 0), (0o1777, 1)):
        shared.chmod(mode)
        os.chown(shared, owner, owner)
        write_file(chain, [b"ours"])
        assert victim.read_bytes() == b"ours"


def test_a_report_that_cannot_be_replaced_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single file that a container mounts: a rename to its name fails with EBUSY."""
    path = write(tmp_path / "r.json", b"a longer text")
    before = path.stat().st_ino
    monkeypatch.setattr(output_file, "mount_points", lambda found: [found])
    write_file(path, [b"new"])
    assert (path.read_bytes(), path.stat().st_ino) == (b"new", before)


def test_pieces_are_written_one_behind_the_other(tmp_path: Path) -> None:
    pieces = [bytes([i]) * size for i, size in enumerate((1, CHUNK_BYTES, 0, 3 * CHUNK_BYTES, 7))]
    write_file(tmp_path / "x", iter(pieces))
    assert (tmp_path / "x").read_bytes() == b"".join(pieces)
    write_file(tmp_path / "empty", [])
    assert (tmp_path / "empty").read_bytes() == b""


def test_mount_points_are_known() -> None:
    assert Path("/proc") in mount_points(Path("/proc"))
    assert Path("/proc") in mount_points(Path("/"))
    assert mount_points(Path(__file__)) == []


def temporary_of(path: Path, name: str) -> Path:
    return write(path.with_name(f".qdq-{temporary._hashed_name(path)}-{name}.tmp"), b"")


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    left = temporary_of(path, f"{temporary._machine()}00000000")
    other = temporary_of(tmp_path / "other.json", f"{temporary._machine()}00000000")
    sweep_temporaries(path)
    assert list(tmp_path.iterdir()) == [other]
    assert not left.exists()
    other.unlink()


def test_a_folder_that_cannot_be_listed_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "scandir", fail)
    write_file(tmp_path / "r.json", [b"report"])
    assert (tmp_path / "r.json").read_bytes() == b"report"


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    """Whatever its process number means here: that of another container means nothing."""
    path = tmp_path / "r.json"
    output = OutputFile(path, replaces=True)
    write_file(path, [b"theirs"])
    output.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("name", ["f" * 20 + "00000000", "-1", "0", "x", "unknown00000000"])
def test_a_strange_or_distant_temporary_stays_until_it_is_old(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.json"
    left = temporary_of(path, name)
    sweep_temporaries(path)
    assert left.exists()
    os.utime(left, (0, time.time() - STALE_S - 60))
    sweep_temporaries(path)
    assert not left.exists()


def test_a_temporary_that_was_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, swept = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not swept:
            (left,) = tmp_path.iterdir()
            left.unlink()
            swept.append(left)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_file(tmp_path / "r.json", [b"whole"])
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert len(swept) == 1
