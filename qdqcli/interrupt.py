"""Interruption: a flag set by signals and checked between blocks."""

from dataclasses import dataclass, field
from threading import Lock

from qdqcli.errors import Interrupted


@dataclass(eq=False, kw_only=True)
class Interruption:
    """Interruption flag, clear until `request` is called.

    A signal handler that raises can be swallowed inside a C callback, so signals only set this flag.
    """

    signal_number: int | None = None
    """The signal that requested the stop."""
    _announced: Lock = field(default_factory=Lock)

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
