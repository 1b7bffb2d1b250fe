"""All errors that `qdq` reports, each with its exit code.

Library code raises the narrowest class; only `cli/main.py` catches. A message says what was found, where, what was
expected and what to do next. Exit code 1 is deliberately absent: it means that a budget was exceeded.
"""


class QdqError(Exception):
    """Base of all errors with a message for the user."""

    exit_code = 70

    def advise(self, what: str) -> None:
        """Append further advice to the message."""
        self.args = (f"{self}; {what}",)


class UsageError(QdqError):
    """The request cannot be carried out as given: options, selection, an existing output."""

    exit_code = 2


class SpecError(UsageError, ValueError):
    """An attribute of the op has a value that the op does not allow."""


class DTypeError(UsageError, TypeError):
    """A tensor's dtype is not supported by the op."""


class InputError(QdqError):
    """An input is missing, unreadable or malformed."""

    exit_code = 3


class OutputError(QdqError):
    """An output could not be written: no space, no permission, an I/O error."""

    exit_code = 4


class UnavailableError(QdqError):
    """A requested back end or extra is not installed or does not work here."""

    exit_code = 5


class Interrupted(QdqError):  # noqa: N818  # not an error
    """The run was stopped by a signal; the exit code is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
