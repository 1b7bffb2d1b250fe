"""Progress on stderr: phases, files, compiling, a line now and then, and the last line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qdqcli.cli import progress as module
from qdqcli.cli.progress import Progress, counting, duration
from qdqcli.cli.session import Session
from tests.conftest import Qdq


class Shown:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.descriptions: list[str] = []

    def show(self, describe: Callable[[], str], done_bytes: int, *, is_new: bool) -> None:
        del done_bytes, is_new
        self.descriptions.append(describe())


def test_phases_files_and_compiling() -> None:
    shown = Shown()
    progress = Progress(600, [("a.safetensors", 100), ("empty", 0), ("b" * 99, 200)], "quantizing", shown)
    progress(50)
    progress.compiling(1)
    progress.compiling(1)
    progress.compiling(-1)
    progress.compiling(-1)
    progress(50)
    progress(200)
    progress.begin("verifying")
    progress(150)
    long = "b" * 29 + "..."
    assert shown.descriptions == [
        "quantizing 1/3 a.safetensors",
        *["compiling kernels (once)"] * 3,
        "quantizing 1/3 a.safetensors",
        f"quantizing 3/3 {long}",
        f"quantizing 3/3 {long}",
        "verifying 1/3 a.safetensors",
        f"verifying 3/3 {long}",
    ]


def test_without_files_the_phase_alone_is_shown() -> None:
    shown = Shown()
    Progress(10, [], "comparing", shown)(5)
    assert shown.descriptions == ["comparing"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (22.4, "22 s"), (192, "3 min 12 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_gets_a_line_now_and_then(qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    err = qdq("run", model, "-o", tmp_path / "out", "--verify").err
    assert re.search(r"^quantizing 2/2 model-00002-of-00002\.saf\S*: [\d.]+ \w+ of [\d.]+ \w+, [\d.]+ \w+/s", err, re.M)
    assert re.search(r"^verifying 1/2 ", err, re.M)
    assert qdq("run", model, "-o", tmp_path / "quiet", "--quiet").err == ""


def test_the_last_line_says_what_was_written(qdq: Qdq, model: Path, tiny: Path, tmp_path: Path) -> None:
    out, report, page = tmp_path / "out", tmp_path / "r.json", tmp_path / "r.md"
    lines = qdq("run", model, "-o", out, "--report", report).err.splitlines()
    assert re.fullmatch(rf"wrote {re.escape(str(out))} \(6 files, [\d.]+ kB\) and {re.escape(str(report))} in [\d.]+ s",
                        lines[-1])  # fmt: skip
    again = qdq("run", model, "-o", out, "--resume", "--format", "none").err
    assert "wrote" not in again
    one = qdq("run", tiny, "-o", tmp_path / "one.safetensors").err
    assert re.search(r"^wrote \S*one\.safetensors \([\d.]+ kB\) in ", one, re.M)
    stats = qdq("stats", tiny, "--report", tmp_path / "s.json", "--report", page).err
    assert re.fullmatch(r"wrote \S*s\.json and \S*r\.md in [\d.]+ s\n", stats)
    assert qdq("stats", tiny).err == ""
    check = qdq("check", tiny, "--write-budget", tmp_path / "b.toml", "--report", tmp_path / "c.json").err
    assert re.search(r"^wrote \S*b\.toml and \S*c\.json in [\d.]+ s$", check, re.M)


def test_steps_are_counted_in_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    session = Session()
    monkeypatch.setattr(session, "tell", told.append)
    with counting(session, 3) as begin:
        begin("compiling for F32")
        monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
        begin("compiling for F64")
    assert told == ["compiling for F64: 2 of 3"]
