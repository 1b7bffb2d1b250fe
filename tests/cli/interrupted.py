"""Calls `qdq` and sends it a signal when its journal has got so many lines: LINES SIGNAL small|usual ARGUMENTS..."""

import os
import sys

from qdqcli.cli.main import run
from qdqcli.cli.signals import listen
from qdqcli.interrupt import Interruption
from qdqcli.output.line_log import LineLog
from qdqcli.run import pipeline, shard_output


def main(lines: int, number: int, size: str, arguments: list[str]) -> int:
    if size == "small":  # each tensor is a part of its own
        shard_output.PART_BYTES = pipeline.BATCH_BYTES = 1
    append = LineLog.append
    written = 0

    def counted(log: LineLog, line: str) -> None:
        nonlocal written
        append(log, line)
        written += 1
        if written == lines:
            os.kill(os.getpid(), number)

    LineLog.append = counted  # type: ignore[method-assign]
    interruption = Interruption()
    listen(interruption)
    return run(arguments, interruption)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
