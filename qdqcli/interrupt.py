"""Interruption: a flag set by signals and checked between blocks."""

from threading import Lock

from qdqcli.errors import Interrupted


class Interruption:
    """Interruption flag, clear until `request` is called.

    A signal handler that raises can be swallowed inside a C callback, so signals only set this flag.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._announced = Lock()

    def request(self, signal_number: int) -> None:
        """Request that the work stop."""
        self.signal_number = signal_number

    def check(self) -> None:
        """Stop here if requested.

        Raises:
            Interrupted: carries the exit code of the signal.
        """
        if self.signal_number is not None:
            raise Interrupted("interrupted", self.signal_number)

    def announce(self) -> bool:
        """Tell whether the caller should inform the user: True for the first call only."""
        return self._announced.acquire(blocking=False)
