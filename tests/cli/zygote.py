"""Calls `qdq` many times, each in a process of its own that needs no start: a copy of one that has imported everything.

A call is `[[arguments], stdout, stderr]` on a line of standard input; the answer `[exit code or minus the signal, peak
resident KiB, seconds]` on one of standard output. What hangs is ended by SIGALRM.
"""

import importlib
import json
import os
import signal
import sys
import time

LIMIT_S = 240
HEAVY = (
    "numba",
    "qdqcli.cli.measure",
    "qdqcli.run.pipeline",
    "qdqcli.op.cpu.dispatch",
    "qdqcli.report.text",
    "rich.console",
)


def serve() -> None:
    from qdqcli.cli.main import COMMANDS

    for name in (*HEAVY, *(where.split(":")[0] for where, _ in COMMANDS.values())):
        importlib.import_module(name)
    for line in sys.stdin:
        arguments, out, err = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            call(arguments, out, err)
        _, status, usage = os.wait4(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss, time.monotonic() - began]), flush=True)


def call(arguments: list[str], out: str, err: str) -> None:
    from qdqcli.__main__ import main

    for descriptor, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    signal.alarm(LIMIT_S)
    sys.argv = ["qdq", *arguments]
    main()


if __name__ == "__main__":
    serve()
