"""The one error boundary: every failure becomes one line on stderr and an exit code that is not 1.

Exit code 1 is the budget's alone. Imports fail here too, so this file imports nothing that an installation may lack.
"""

import errno
import traceback

from qdqcli import __version__
from qdqcli.cli import streams
from qdqcli.errors import QdqError
from qdqcli.escape import escape, escape_name

EXIT_OUTPUT, EXIT_UNAVAILABLE, EXIT_BUG = 4, 5, 70
_NO_MEMORY = "out of memory; lower --max-memory or --threads"
BUG_LIMIT = 500
"""Characters of the message of an error that nobody foresaw; Numba's have thousands."""


def report(error: Exception, *, debug: bool) -> int:
    """Say what went wrong, with `debug` where; the exit code."""
    if debug:
        streams.say("".join(traceback.format_exception(error)).rstrip())
    message, code = _explain(error, debug=debug)
    # One line: what is quoted from the command line was escaped by nobody yet.
    streams.say(f"error: {escape(message)}")
    return code


def _explain(error: Exception, *, debug: bool) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    match error:
        case QdqError():
            return str(error), error.exit_code
        case ImportError():
            what = escape_name(str(error), BUG_LIMIT)
            return f"{what}; a package is missing or does not fit: pip install --upgrade qdqcli", EXIT_UNAVAILABLE
        case MemoryError():
            return _NO_MEMORY, EXIT_OUTPUT
        case SystemError() if "without setting an exception" in str(error):  # Python's own parser, out of memory
            return _NO_MEMORY, EXIT_OUTPUT
        case RuntimeError() if "can't start new thread" in str(error):
            return "the system allows no more threads; lower --threads or raise the limit (ulimit -u)", EXIT_OUTPUT
        case OSError() if error.errno in (errno.EMFILE, errno.ENFILE):
            return "the system allows no more open files; raise the limit (ulimit -n)", EXIT_OUTPUT
        case OSError() if error.errno is None:  # a shared library: llvmlite's does not load where memory is limited
            what = escape_name(str(error), BUG_LIMIT)
            return f"{what}; reinstall qdqcli, or allow more memory (ulimit -v)", EXIT_UNAVAILABLE
        case FileNotFoundError() if error.filename is None:  # by os.getcwd
            return "the current folder no longer exists; change to another one", EXIT_OUTPUT
        case OSError() if error.filename is None:
            return f"standard output: {error.strerror}", EXIT_OUTPUT
    return (
        f"a bug in qdq {__version__}: {type(error).__name__}: {escape_name(str(error), BUG_LIMIT)}; please report it "
        f"with the command line and {'all of this' if debug else 'the output of the same command with --debug'}",
        EXIT_BUG,
    )
