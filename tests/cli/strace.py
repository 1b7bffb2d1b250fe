"""`qdq` under strace: which calls it makes to write, and what becomes of it where one of them kills it or fails."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cli import interrupted
from tests.cli.process import PATIENCE, environment

WRITING = "mkdir,openat,flock,ftruncate,write,pwrite64,fsync,rename,renameat2,unlink,unlinkat,rmdir"
"""Everything by which a run changes what is on the disk."""
READING = "read,pread64,preadv,preadv2"
_CALL = re.compile(r"(\w+)\((.*) = (-?\d+)")
_CHANCE = re.compile(r"[0-9a-f]{8,}|\d+")
"""What differs from run to run in a temporary's name, and from shard to shard in theirs."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A system call that a run makes."""

    name: str
    number: int
    """Among the calls of this name in its thread, from 1 on, as strace counts."""
    path: str
    """Of its file, relative to the folder that is watched."""
    size: str = ""
    """Bytes that are read or written at a place of the file, by which one tensor is told from another."""

    @property
    def label(self) -> str:
        """The same for calls that do the same to another shard."""
        return f"{self.name} {_CHANCE.sub('#', self.path)} {self.size}".rstrip()


@cache
def reason_against() -> str | None:
    """Why strace cannot be used here; None where it can."""
    if shutil.which("strace") is None:
        return "there is no strace (Debian: apt-get install strace)"
    probe = ["strace", "-f", "-o", os.devnull, "-e", "trace=getppid", "-e", "inject=getppid:error=EPERM", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "strace may not trace here (ptrace)"
    return None


def calls(folder: Path, names: str, *arguments: object) -> list[Call]:
    """The calls on files below `folder` that a run makes, of those names, thread by thread."""
    traces = folder / "traces"
    traces.mkdir()
    done = _run(["-ff", "-y", "-o", str(traces / "trace"), "-e", f"trace={names}"], arguments)
    assert done.returncode == 0, done.stderr
    found = [call for trace in sorted(traces.iterdir()) for call in _parse(trace.read_text().splitlines(), folder)]
    shutil.rmtree(traces)
    return found


def inject(call: Call, what: str, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A run to which `what` (`error=EIO`, `signal=KILL`) happens at that call, the calls on `path` alone counting."""
    only = [] if path is None else ["-P", str(path)]
    rule = ["-e", f"trace={call.name}", "-e", f"inject={call.name}:{what}:when={call.number}"]
    fast = [] if "signal" in what else ["--seccomp-bpf"]  # strace 6.1 sends no signal with it
    return _run(["-f", *fast, "-o", os.devnull, *only, *rule], arguments)


def distinct(found: Iterable[Call]) -> list[Call]:
    """The first call of each label."""
    first: dict[str, Call] = {}
    for call in found:
        first.setdefault(call.label, call)
    return list(first.values())


def _run(options: Sequence[str], arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """One thread computes, so that a call is the same one every time; each tensor is a part of its own."""
    command = [sys.executable, interrupted.__file__, "0", "0", "small", *map(str, arguments), "--threads", "1"]
    return subprocess.run(
        ["strace", *options, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        check=False,
    )


def _parse(lines: Iterable[str], folder: Path) -> Iterator[Call]:
    """What strace wrote of one thread; calls that fail anyway, as to make a folder that is there, are left out."""
    numbers: dict[str, int] = {}
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        name, rest, result = match.groups()
        number = numbers[name] = numbers.get(name, 0) + 1
        paths = re.findall(rf'[<"]({re.escape(str(folder))}(?:/[^">]*)?)[">]', rest)
        if paths and result != "-1" and (name != "openat" or "O_CREAT" in rest):
            path = " -> ".join(str(Path(path).relative_to(folder)) for path in dict.fromkeys(paths[:2]))
            yield Call(name=name, number=number, path=path, size=result if name.endswith(("64", "v", "v2")) else "")
