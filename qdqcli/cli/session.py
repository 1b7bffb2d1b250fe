"""State shared by one call of `qdq`: interruption flag, verbosity, and messages on stderr."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import click

from qdqcli.cli.streams import say
from qdqcli.interrupt import Interruption


@dataclass(kw_only=True)
class Session:
    """One call of the command line."""

    interruption: Interruption = field(default_factory=Interruption)
    debug: bool = False
    """Show the traceback of an error."""
    arguments: Sequence[str] = ()
    """The command line, without `qdq`."""
    exit_code: int = 0
    """Exit code of the command so far: it holds where standard output is closed early, e.g. by `head`."""
    quiet: bool = False
    began: float = field(default_factory=perf_counter)
    verbose: bool = False

    def note(self, message: str) -> None:
        """Print a note on stderr, unless quiet."""
        if not self.quiet:
            say(f"note: {message}")

    def warn(self, message: str) -> None:
        """Print a warning on stderr, unless quiet."""
        if not self.quiet:
            say(f"warning: {message}")

    def tell(self, message: str) -> None:
        """Print progress on stderr, unless quiet."""
        if not self.quiet:
            say(message)

    def detail(self, message: str) -> None:
        """Print a detail on stderr, if verbose."""
        if self.verbose:
            say(message)


pass_session = click.make_pass_decorator(Session)
