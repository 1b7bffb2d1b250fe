"""Interruption: the flag that a signal handler sets and that work looks at between blocks."""

from qdqcli.errors import Interrupted


class Interruption:
    """Not interrupted until `request` was called.

    A signal handler that raises can be swallowed inside a C callback, so handlers only set this flag.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

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
