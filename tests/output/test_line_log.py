"""The log: whole lines come back, whatever a kill or the disk did to the end of the file."""

import errno
import os
import resource
from pathlib import Path

import pytest

from qdqcli.errors import OutputError
from qdqcli.output.line_log import LineLog

LINES = ['{"first": 1}', "words \ud7ff and more", ""]


def write_log(path: Path) -> bytes:
    log = LineLog(path)
    assert log.lines == []
    for line in LINES:
        log.append(line)
    log.sync()
    log.close()
    return path.read_bytes()


def read_log(path: Path) -> list[str]:
    log = LineLog(path)
    log.close()
    return log.lines


def test_lines_come_back(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    assert read_log(tmp_path / "log") == LINES


def test_a_failure_to_close_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk reports a late write on closing; what must be on the disk was flushed."""
    log = LineLog(tmp_path / "log")
    log.append("line")
    log.sync()
    close = os.close

    def fail(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "close", fail)
    log.close()
    log.close()
    monkeypatch.undo()
    assert read_log(tmp_path / "log") == ["line"]


def test_cut_anywhere_the_whole_lines_before_the_cut_count(tmp_path: Path) -> None:
    data = write_log(tmp_path / "log")
    for size in range(len(data) + 1):
        (tmp_path / "log").write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        assert read_log(tmp_path / "log") == LINES[:whole], size
        log = LineLog(tmp_path / "log")
        log.append("next")
        log.close()
        assert read_log(tmp_path / "log") == [*LINES[:whole], "next"], size


def test_a_damaged_byte_ends_what_counts(tmp_path: Path) -> None:
    data = write_log(tmp_path / "log")
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x01
        (tmp_path / "log").write_bytes(damaged)
        assert read_log(tmp_path / "log") == LINES[: data[:place].count(b"\n")], place


def test_a_line_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "log")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        log.append("x" * 20)
        with pytest.raises(OutputError, match="log: a line was cut short"):
            log.append("y" * 20)
        with pytest.raises(OutputError, match=f"log: {os.strerror(27)}"):
            log.append("z")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.close()
    assert read_log(tmp_path / "log") == ["x" * 20]
