"""SIGINT, SIGTERM and SIGHUP: ask the work to stop, then force it; active from the first line of the program on.

A handler that raises can be swallowed inside a C callback, and one that Python runs between two of its own
instructions may wait for seconds while something compiles. So the C part of Python's handler writes the signal's number
into a pipe, and a dedicated thread reads it there.
"""

import os
import signal
import sys
from contextlib import suppress
from select import select
from threading import Thread
from types import FrameType
from typing import NoReturn

from qdqcli.interrupt import Interruption

GRACE_S = 0.7
"""Grace period for an orderly stop; files that have their final names by then are whole, as after a kill."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = b"\x1b[?25h"
"""Escape sequence that the progress bar would send at its end."""


def listen(interruption: Interruption) -> None:
    """Install handlers: the first signal is a request to `interruption`, a second one ends the process at once.

    A signal that the parent process ignores stays ignored, as `nohup` and background jobs expect.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        interruption.request(number)  # in case there is no watcher
        received.append(number)
        if len(received) > 1:  # the watcher cannot run while a regular expression is matched, this can
            _end(number, interruption)

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    with suppress(RuntimeError):  # no more threads: signals are then handled between Python's instructions
        Thread(target=_watch, args=(read_end, interruption), name="qdq-signals", daemon=True).start()


def _watch(read_end: int, interruption: Interruption) -> None:
    number = _next_signal(read_end)
    interruption.request(number)
    if select([read_end], [], [], GRACE_S)[0]:
        number = _next_signal(read_end)
    _end(number, interruption)


def _next_signal(read_end: int) -> int:
    while True:
        (number,) = os.read(read_end, 1)
        if number in SIGNALS:  # other handlers, e.g. of a library, write to the pipe too
            return number


def _end(number: int, interruption: Interruption) -> NoReturn:
    """End the process, with the message that the main thread could not print."""
    with suppress(OSError):
        if "rich.progress" in sys.modules and os.isatty(2):
            os.write(2, SHOW_CURSOR)
        if interruption.announce():
            os.write(2, b"error: interrupted\n")
    os._exit(128 + number)
