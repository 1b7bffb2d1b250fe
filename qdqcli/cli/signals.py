"""SIGINT, SIGTERM and SIGHUP: from the first line of the program on, work is asked to stop, and made to if it does not.

A handler that raises can be swallowed inside a C callback, and one that Python runs between two of its own
instructions may wait for seconds while something compiles. So the C part of Python's handler writes the signal's number
into a pipe, and a thread that does nothing else reads it there.
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
"""How long the work may take to stop in an orderly way; what has its name by then is whole, as after a kill."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = b"\x1b[?25h"
"""What the progress bar would send to the terminal at its end."""


def listen(interruption: Interruption) -> None:
    """From now on the first signal is a request to `interruption`, and a second one ends the process at once.

    A signal that whoever started the process ignores stays ignored, as `nohup` and background jobs expect.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        interruption.request(number)  # for the case that there is no watcher

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    with suppress(RuntimeError):  # no more threads: then signals are heard between Python's instructions
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
        if number in SIGNALS:  # other handlers, of a library say, write to the pipe too
            return number


def _end(number: int, interruption: Interruption) -> NoReturn:
    """End the process, with the line that the main thread did not come to say."""
    with suppress(OSError):
        if "rich.progress" in sys.modules and os.isatty(2):
            os.write(2, SHOW_CURSOR)
        if interruption.announce():
            os.write(2, b"error: interrupted\n")
    os._exit(128 + number)
