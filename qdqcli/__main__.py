"""`qdq` and `python -m qdqcli`."""

import os
import sys

EXIT_UNAVAILABLE = 5


def main() -> None:
    """Run the command line and exit with its code; an import that fails must not exit with 1, the budget's code."""
    try:
        from qdqcli.cli.main import run
    except ImportError as error:
        print(f"error: {error}; the installation lacks a package: pip install qdqcli", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_UNAVAILABLE)
    code = run(sys.argv[1:])
    if "numba" in sys.modules:
        # Everything is written, flushed and closed. Taking LLVM apart in an orderly way takes 0.2 s, a third of a short
        # run.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
