"""Interruption: the flag that a signal sets and that work looks at between blocks."""

from threading import Lock

from qdqcli.errors import Interrupted


class Interruption:
    """Not interrupted until `request` was called.

    A signal handler that raises can be swallowed inside a C callback, so signals only set this flag.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._announced = Lock()

    def request(self, signal_number: int) -> None:
        """Ask the work to stop."""
        self.signal_number = signal_number

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            Interrupted: owns the exit code of the signal.
        """
        if self.signal_number is not None:
            raise Interrupted("interrupted; nothing was left under the output's name", self.signal_number)

    def announce(self) -> bool:
        """Whether the caller is the one that tells the user; everyone after the first is not."""
        return self._announced.acquire(blocking=False)
