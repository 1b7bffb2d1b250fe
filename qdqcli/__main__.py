"""`qdq` and `python -m qdqcli`."""

import os
import sys

TYPE_CHECKING = False  # as in `typing`, whose import takes a fifth of the time in which nobody listens to signals
if TYPE_CHECKING:
    from typing import NoReturn

    from qdqcli.interrupt import Interruption

EXIT_INTERRUPTED = 130


def main() -> "NoReturn":
    """Run the command line and end the process with its code."""
    try:
        from qdqcli.cli.signals import listen
        from qdqcli.cli.streams import prepare
        from qdqcli.interrupt import Interruption

        prepare()  # before anything gets the descriptor of a stream that is closed
        interruption = Interruption()
        listen(interruption)  # before the imports that take time
        code = _run(interruption)
    except KeyboardInterrupt:  # before anybody listened
        code = EXIT_INTERRUPTED
    # Everything is written and closed. Taking LLVM apart in an orderly way takes 0.2 s, a third of a short run.
    os._exit(code)


def _run(interruption: "Interruption") -> int:
    try:
        from qdqcli.cli.main import run

        return run(sys.argv[1:], interruption)
    except Exception as error:  # an import that fails must not exit with 1, the budget's code
        from qdqcli.cli.boundary import report

        return report(error, debug="--debug" in sys.argv)


if __name__ == "__main__":
    main()
