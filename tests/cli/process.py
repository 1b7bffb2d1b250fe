"""`qdq` as a process of its own, where streams, signals, memory or imports matter."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "qdqcli")
GRACIOUS = "import qdqcli.cli.signals as s; s.GRACE_S = 120; from qdqcli.__main__ import main; main()"
"""`qdq` that has two minutes to end in order after a signal, where a busy machine needs more than its usual 0.7 s."""
CHANGING = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8"}
PATIENCE = 240.0
"""Seconds that anything may take on a busy machine."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what decides about colours, widths and encodings."""
    kept = {k: v for k, v in os.environ.items() if k not in CHANGING}
    return kept | changes


def run_process(
    *arguments: object, env: Mapping[str, str] | None = None, encoding: str = "utf-8", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Call `qdq` and wait."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
        encoding=encoding,
        env=environment() if env is None else env,
        timeout=PATIENCE,
        check=False,
    )


def no_file_beyond(size: int, **changes: str) -> dict[str, Any]:
    """Options of `run_process` with which every write beyond `size` bytes of a file fails, as on a full disk.

    The process keeps no bytecode: Python would give its name to a file of that size, which no later process can load.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return {"preexec_fn": limit, "env": environment(PYTHONDONTWRITEBYTECODE="1", **changes)}


def heed_signals() -> None:
    """Undo what a shell does with the signals of commands in the background, and `nohup`."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start_process(*arguments: object, gracious: bool = True, **options: Any) -> subprocess.Popen[str]:
    """Start `qdq`, which heeds signals."""
    command = (sys.executable, "-c", GRACIOUS) if gracious else COMMAND
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_signals} | options),
        encoding="utf-8",
        env=environment(),
    )


def only_error(err: str) -> str:
    """The error at the end of stderr; before it a slow machine shows progress."""
    last = err.splitlines()[-1]
    assert err.count("error: ") == 1, err
    assert last.startswith("error: "), err
    return last


def bytes_read(pid: int) -> int:
    """Bytes that a process has read so far, from the cache too."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar: "):
            return int(line.removeprefix("rchar: "))
    raise AssertionError("no rchar")


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `happened`, while the process lives."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
