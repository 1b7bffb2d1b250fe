"""Error boundary: every failure becomes one line on stderr and an exit code other than 1.

Exit code 1 is reserved for the budget. Imports fail here too, so this file imports only what every installation has.
"""

import errno
import re
import traceback

from qdqcli import __version__
from qdqcli.cli import streams
from qdqcli.errors import QdqError
from qdqcli.escape import escape, escape_name

EXIT_OUTPUT, EXIT_UNAVAILABLE, EXIT_BUG = 4, 5, 70
_NO_MEMORY = "out of memory; lower --max-memory or --threads"
_REFUSED = (errno.ENAMETOOLONG, errno.EACCES)
"""Errors of a path that the user gave, of all that the system may have against one."""
BUG_LIMIT = 500
"""Maximum characters of an unexpected error's message; Numba's have thousands."""


def report(error: Exception, *, debug: bool) -> int:
    """Print the error, with `debug` its traceback; returns the exit code."""
    if debug:
        streams.say("".join(traceback.format_exception(error)).rstrip())
    message, code = _explain(error, debug=debug)
    # One line, escaped: quotes from the command line are not escaped yet.
    streams.say(f"error: {escape(message)}")
    return code


def _explain(error: Exception, *, debug: bool) -> tuple[str, int]:
    """Return the message for the user and the exit code."""
    match error:
        case QdqError():
            return str(error), error.exit_code
        case ImportError():
            what = escape_name(str(error), BUG_LIMIT)
            return f"{what}; a package is missing or does not fit: pip install --upgrade qdqcli", EXIT_UNAVAILABLE
        case MemoryError():
            return _NO_MEMORY, EXIT_OUTPUT
        case SystemError() if re.search("without (setting an exception|exception set)", str(error)):
            # Python's own parser and loader of bytecode, out of memory
            return _NO_MEMORY, EXIT_OUTPUT
        case RuntimeError() if "can't start new thread" in str(error):
            return "the system allows no more threads; lower --threads or raise the limit (ulimit -u)", EXIT_OUTPUT
        case OSError() if error.errno in (errno.EMFILE, errno.ENFILE):
            return "the system allows no more open files; raise the limit (ulimit -n)", EXIT_OUTPUT
        case OSError() if error.errno is None:  # a shared library: llvmlite's fails to load under a memory limit
            what = escape_name(str(error), BUG_LIMIT)
            return f"{what}; reinstall qdqcli, or allow more memory (ulimit -v)", EXIT_UNAVAILABLE
        case FileNotFoundError() if error.filename is None:  # by os.getcwd
            return "the current folder no longer exists; change to another one", EXIT_OUTPUT
        case OSError() if error.filename is not None and error.errno in _REFUSED:  # when looking whether it exists
            return f"{escape_name(str(error.filename))}: {error.strerror}", EXIT_OUTPUT
        case OSError() if error.filename is None:
            return f"standard output: {error.strerror}", EXIT_OUTPUT
    return (
        f"a bug in qdq {__version__}: {type(error).__name__}: {escape_name(str(error), BUG_LIMIT)}; please report it "
        f"with the command line and {'all of this' if debug else 'the output of the same command with --debug'}",
        EXIT_BUG,
    )
