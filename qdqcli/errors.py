"""Every error that `qdq` reports: what went wrong, and the exit code that it owns.

Library code raises the narrowest class; `cli/main.py` alone catches. The message says what was found, where, what was
expected and what to do next. Exit code 1 is missing on purpose: it belongs to a budget that was exceeded.
"""


class QdqError(Exception):
    """Base of all errors with a message for the user."""

    exit_code = 70

    def advise(self, what: str) -> None:
        """Add to the message what else can be done."""
        self.args = (f"{self}; {what}",)


class UsageError(QdqError):
    """The request cannot be carried out as it was made: options, selection, an output that exists."""

    exit_code = 2


class SpecError(UsageError, ValueError):
    """An attribute of the op has a value that the op does not allow."""


class DTypeError(UsageError, TypeError):
    """A tensor's dtype is not one that the op takes."""


class InputError(QdqError):
    """An input is missing, unreadable or malformed."""

    exit_code = 3


class OutputError(QdqError):
    """An output could not be written: no space, no permission, an I/O error."""

    exit_code = 4


class UnavailableError(QdqError):
    """A back end or an extra that was asked for is not installed or does not work here."""

    exit_code = 5


class Interrupted(QdqError):  # noqa: N818  # not an error of anybody
    """The run was stopped by a signal; 128 plus the signal's number is the exit code."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
