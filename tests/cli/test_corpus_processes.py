"""Every file of the corpus, in a process of its own: signals, hangs and memory are seen, and what is left behind.

`test_corpus.py` goes the same way in this process, for the exit codes alone; this takes a minute, with
`--every-fault` two.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from qdqcli.report.formatter import REPORT_SUFFIXES
from tests.cli import zygote
from tests.cli.process import environment
from tests.cli.test_corpus import CORPUS, SEEN_IN_HEADERS_ONLY, cases_of, problems_of
from tests.cli.test_memory import ALLOWED
from tests.report.harmless import harm

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not beside the project"),
]

Case = dict[str, Any]
COMMANDS = ["run", "stats", "inspect"]
NO_DATA_S = 3.0
"""Seconds that refusing a file may take, on a busy machine."""
CANARY = "qdq_canary"
"""A file that appears where code from a file of the corpus was run."""


class Zygote:
    """`zygote.py` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, zygote.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment(PYTHONPATH=str(Path(zygote.__file__).parents[2])),
        )

    def call(self, *arguments: object) -> tuple[int, int, float, str]:
        """Exit code, bytes of memory, seconds, and what was said on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = self.folder / "stdout", self.folder / "stderr"
        job = [[os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments], str(out), str(err)]
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code, kibibytes, seconds = json.loads(self._process.stdout.readline())
        return code, kibibytes * 1024, seconds, err.read_text("utf-8", "replace")

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, str(CORPUS), str(folder)], check=True, capture_output=True)
    is_root = os.geteuid() == 0
    return folder, [case for case in cases_of(folder) if not is_root or "non_root" not in (case.get("requires") or ())]


@pytest.fixture(scope="module")
def zygotes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleQueue[Zygote]]:
    queue: SimpleQueue[Zygote] = SimpleQueue()
    started = [Zygote(tmp_path_factory.mktemp(f"zygote{i}")) for i in range(2)]
    for each in started:
        queue.put(each)
    yield queue
    for each in started:
        each.close()


def fingerprint(path: Path) -> list[tuple[object, ...]]:
    """What a case holds: names, kinds, modes, times, and the bytes of its files."""
    found = []
    for entry in sorted(path.rglob("*")):
        status = entry.lstat()
        content = entry.read_bytes() if stat.S_ISREG(status.st_mode) and os.access(entry, os.R_OK) else b""
        found.append((str(entry), status.st_mode, status.st_mtime_ns, status.st_size, content))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_no_bad_file_hurts(
    corpus: tuple[Path, list[Case]], zygotes: SimpleQueue[Zygote], command: str, every_fault: bool
) -> None:
    folder, cases = corpus
    if not every_fault:  # each case by run or by stats
        cases = cases[COMMANDS.index(command) % 2 :: 2]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: problems(case, folder, zygotes, command), cases))
    assert [problem for problems_ in found for problem in problems_] == []


def problems(case: Case, folder: Path, zygotes: SimpleQueue[Zygote], command: str) -> list[str]:
    if command == "inspect" and case["id"] in SEEN_IN_HEADERS_ONLY:
        return []
    source = folder / case["input"]
    before = fingerprint(folder / "cases" / case["id"])
    zygote_ = zygotes.get()
    place = zygote_.folder / "place"
    place.mkdir()
    try:
        more: list[object] = ["-o", place / f"out{source.suffix}"] if command == "run" else []
        is_long = "seconds" in case.get("limits", {})  # 20,000 tensors, of which a page has too many histograms
        reports = [place / f"r{suffix}" for suffix in REPORT_SUFFIXES] if command == "stats" and not is_long else []
        for report in reports:
            more += ["--report", report]
        code, memory, seconds, err = zygote_.call(command, source, *more, "--format", "none")
        found = problems_of(case, code, err)
        if memory > max(ALLOWED, case.get("limits", {}).get("rss_mb", 0) * 10**6):
            found.append(f"took {memory / 1e6:.0f} MB")
        if case["expect"] == "error":
            left = [path.name for path in place.iterdir()]
            found += [f"left {left}"] if left else []
            found += [f"took {seconds:.1f} s"] if seconds > NO_DATA_S else []
        elif reports and code == 0:
            found += [
                f"{report.name}: {what}"
                for report, format_name in zip(reports, REPORT_SUFFIXES.values(), strict=True)
                for what in harm(format_name, report.read_text("utf-8"))
            ]
        if not err.replace("\n", "").isprintable():
            found.append(f"control characters on stderr: {err!r}")
        if (zygote_.folder / CANARY).exists():
            found.append("code from the file was run")
    finally:
        shutil.rmtree(place)
        zygotes.put(zygote_)
    if fingerprint(folder / "cases" / case["id"]) != before:
        found.append("the input was changed")
    return [f"{case['id']}: {what}" for what in found]
