"""Disks that are full, out of inodes, read-only or limited: what is said, what is left, and that a run goes on."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.cli.process import PATIENCE, environment, no_file_beyond, run_process
from tests.cli.test_output import contents
from tests.cli.test_resume import partial_of
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

pytestmark = pytest.mark.faults

SETTINGS = ("--axis", 0, "--format", "json")


@cache
def reason_against_mounts() -> str | None:
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    try:
        done = subprocess.run(probe, capture_output=True, check=False)
    except OSError as error:
        return str(error)
    return "a disk cannot be mounted here (unshare -rm)" if done.returncode else None


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where a test may mount a disk of its own, in a process of its own."""
    if reason := reason_against_mounts():
        pytest.skip(reason)
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Three shards of 400 kB and a side file."""
    folder = tmp_path / "model"
    for i in range(3):
        write_safetensors(folder / f"{i}.safetensors", {f"w{i}": sample((250, 400), seed=i)})
    (folder / "config.json").write_text("{}")
    return folder


def on_disk(disk: Path, options: str, script: str) -> subprocess.CompletedProcess[str]:
    """Shell commands, `qdq` and `$disk` among them, where a tmpfs with these options is mounted at `disk`."""
    command = f'mount -t tmpfs -o {options} tmpfs "$disk" || exit 99; qdq() {{ "$python" -m qdqcli "$@"; }}; {script}'
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(disk=str(disk), python=sys.executable),
        check=False,
    )


RUN = 'qdq run "$model" -o "$disk/out" --axis 0 --format json'
"""In a script."""


@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
def test_a_disk_that_is_too_small_is_refused_before_work(disk: Path, big: Path, share: float) -> None:
    needed = sum(map(len, contents(big).values()))
    done = on_disk(disk, f"size={share * needed:.0f}", f'model={big}; {RUN}; echo "code $?"; ls -A "$disk"')
    assert done.stdout == "code 4\n"
    assert done.stderr.startswith(f"error: {disk}/out: needs {needed} bytes (1.2 MB) but the disk has ")
    assert len(done.stderr.splitlines()) == 1


def test_a_disk_that_runs_full_keeps_what_is_finished(qdq: Qdq, disk: Path, tmp_path: Path) -> None:
    """The files fit by their sizes, but not in whole pages."""
    folder = tmp_path / "model"
    for i in range(40):
        write_safetensors(folder / f"{i:02}.safetensors", {"w": sample((20, 25), seed=i)})
    needed = sum(map(len, contents(folder).values()))
    script = f"""
        model={folder}
        {RUN}; echo "code $?"; ls "$disk"; ls "$disk/out.qdq-partial/result"
        mount -o remount,size=4m "$disk"
        {RUN} --resume > "{tmp_path}/report.json"; echo "code $?"; ls -A "$disk"; cp -r "$disk/out" "{tmp_path}/copy"
    """
    done = on_disk(disk, f"size={needed}", script)
    first, partial, *kept, second, output = done.stdout.splitlines()
    assert (first, partial, second, output) == ("code 4", "out.qdq-partial", "code 0", "out")
    assert 1 < len(kept) < 39
    assert kept == [path.name for path in sorted(folder.iterdir())[: len(kept)]]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {disk}/out.qdq-partial/")
    assert ": No space left on device; free some space" in error
    assert error.endswith(f"{len(kept)} of 40 files are finished, --resume goes on from here")
    whole = qdq("run", folder, "-o", tmp_path / "whole", *SETTINGS)
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")
    assert (tmp_path / "report.json").read_text() == whole.out


def test_a_disk_without_inodes(qdq: Qdq, disk: Path, big: Path, tmp_path: Path, every_fault: bool) -> None:
    assert qdq("run", big, "-o", tmp_path / "whole", *SETTINGS).code == 0
    # Of the disk's folder, the partial folder, lock, journal, the folder of the result, three shards and a side file.
    for inodes in range(1, 9) if every_fault else (2, 5, 8):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        script = f"""
            model={big}
            {RUN}; echo "code $?"; ls -A "$disk"
            mount -o remount,nr_inodes=100 "$disk"
            {RUN} --resume > "{tmp_path}/report.json"; echo "code $?"; cp -r "$disk/out" "{tmp_path}/copy"
        """
        done = on_disk(disk, f"nr_inodes={inodes}", script)
        kept = "out.qdq-partial\n" if inodes > 6 else ""  # a shard is finished
        assert done.stdout == f"code 4\n{kept}code 0\n", inodes
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert error.startswith(f"error: {disk}/out.qdq-partial"), inodes
        assert "No space left on device" in error, inodes
        assert contents(tmp_path / "copy") == contents(tmp_path / "whole"), inodes


def test_a_disk_that_is_read_only(disk: Path, big: Path) -> None:
    """For root too, whom permissions do not stop."""
    done = on_disk(disk, "size=4m", f'model={big}; mount -o remount,ro "$disk"; {RUN}; echo "code $?"')
    assert done.stdout == "code 4\n"
    assert done.stderr.startswith(f"error: {disk}/out.qdq-partial")
    assert "Read-only file system; choose an OUTPUT on a disk that can be written" in done.stderr


def test_a_report_on_a_full_disk(qdq: Qdq, disk: Path, big: Path, tmp_path: Path) -> None:
    """The output is whole by then; the run that resumes writes the report."""
    report = f"""--report "$disk/report.json" -o {tmp_path}/out"""
    script = f"""
        run='qdq run {big} {report} --axis 0 --format none'
        cat /dev/zero > "$disk/zeros" 2> /dev/null
        eval $run; echo "code $?"; ls -A "$disk"
        rm "$disk/zeros"
        eval $run --resume; echo "code $?"; cp "$disk/report.json" {tmp_path}
    """
    done = on_disk(disk, "size=64k", script)
    assert done.stdout == "code 4\nzeros\ncode 0\n"
    assert done.stderr.startswith(f"error: {disk}/report.json: No space left on device")
    whole = qdq("run", big, "-o", tmp_path / "whole", *SETTINGS)
    assert (tmp_path / "report.json").read_text() == whole.out
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("kind", "share"), [("safetensors", 0.9), ("npz", 0.1), ("npz", 0.5), ("npz", 0.9)])
def test_a_limit_on_file_size(qdq: Qdq, tmp_path: Path, kind: str, share: float) -> None:
    """EFBIG: where the file gets its size, or in the middle of it where its size is not known before."""
    source, output = tmp_path / f"in.{kind}", tmp_path / "out"
    if kind == "npz":
        np.savez(source, *[sample((100, 100), seed=i) for i in range(10)])
    else:
        write_safetensors(source, {"w": sample((250, 400))})
    limit = int(share * source.stat().st_size)
    failed = run_process("run", source, "-o", output, *SETTINGS, **no_file_beyond(limit))
    assert failed.returncode == 4
    assert failed.stderr.startswith(f"error: {partial_of(output)}")
    assert failed.stderr.endswith(": File too large; raise the limit on file size (ulimit -f)\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]
    assert qdq("run", source, "-o", output, *SETTINGS).code == 0


def test_a_mount_point_is_found_before_the_work(disk: Path, big: Path) -> None:
    """OUTPUT itself, and a folder in it whose files have the names of the output's."""
    (big / "sub").mkdir()
    (big / "sub" / "more.json").write_text("{}")
    script = f"""
        run='qdq run {big} --overwrite --format none -o'
        $run "$disk"; echo "code $?"; ls -A "$disk" "$disk/.."
        mkdir -p "$disk/out/sub" "$disk/kept"; echo kept > "$disk/kept/more.json"
        mount --bind "$disk/kept" "$disk/out/sub"
        $run "$disk/out"; echo "code $?"; cat "$disk/kept/more.json"; ls -A "$disk"
    """
    done = on_disk(disk, "size=8m", script)
    expected = ["code 2", f"{disk}:", "", f"{disk}/..:", "disk", "model", "code 2", "kept", "kept", "out"]
    assert done.stdout.split("\n")[:-1] == expected
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {disk}: is a mount point, whose name cannot be given")
    assert second.startswith(f"error: {disk}/out/sub: is a mount point, which --overwrite never replaces")
