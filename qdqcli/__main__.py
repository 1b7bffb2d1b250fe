"""`qdq` and `python -m qdqcli`."""

import os
import sys

TYPE_CHECKING = False  # as in `typing`, whose import takes a fifth of the time in which nobody listens to signals
if TYPE_CHECKING:
    from typing import NoReturn

    from qdqcli.interrupt import Interruption

EXIT_OUTPUT, EXIT_BUG, EXIT_INTERRUPTED = 4, 70, 130
NO_MEMORY = b"error: out of memory; raise the limit (ulimit -d, -v)\n"
"""Said where there is no memory left to make a message."""


def main() -> "NoReturn":
    """Run the command line and end the process with its code."""
    code = EXIT_BUG
    try:
        from qdqcli.cli.signals import listen
        from qdqcli.cli.streams import prepare, settle
        from qdqcli.interrupt import Interruption

        prepare()  # before anything gets the descriptor of a stream that is closed
        interruption = Interruption()
        listen(interruption)  # before the imports that take time
        code = _run(interruption)
        settle()
    except KeyboardInterrupt:  # before anybody listened
        code = EXIT_INTERRUPTED
    except BaseException as error:  # what reports errors could not be imported itself, or a library wants to exit
        code = EXIT_OUTPUT if isinstance(error, (OSError, MemoryError)) else EXIT_BUG
        _report(error)
    finally:
        # Everything is written and closed. Taking LLVM apart in an orderly way takes 0.2 s, a third of a short run.
        os._exit(code)


def _report(error: BaseException) -> None:
    """Say what went wrong where nothing more can be imported: a limit on files or memory, as a rule."""
    try:
        try:
            text = f"error: {type(error).__name__}: {error}; raise the limits on open files and memory (ulimit -n, -v)"
            line = text.encode("ascii", "backslashreplace").replace(b"\n", b" ") + b"\n"
        except MemoryError:
            line = NO_MEMORY
        os.write(2, line)
    except OSError:  # the stream is closed or full
        pass


def _run(interruption: "Interruption") -> int:
    try:
        from qdqcli.cli.main import run

        return run(sys.argv[1:], interruption)
    except Exception as error:  # an import that fails must not exit with 1, the budget's code
        from qdqcli.cli.boundary import report

        return report(error, debug="--debug" in sys.argv)


if __name__ == "__main__":
    main()
