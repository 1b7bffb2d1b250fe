"""State shared by one call of `qdq`: interruption flag, verbosity, and messages on stderr."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import click

from qdqcli.cli.streams import say
from qdqcli.errors import Interrupted, QdqError
from qdqcli.interrupt import Interruption

if TYPE_CHECKING:
    from qdqcli.gate.project import Project


@dataclass(kw_only=True)
class Session:
    """One call of the command line."""

    interruption: Interruption = field(default_factory=Interruption)
    debug: bool = False
    """Show the traceback of an error."""
    arguments: Sequence[str] = ()
    """The command line, without `qdq` and without the secrets of URLs."""
    exit_code: int = 0
    """Exit code of the command: it holds where standard output is closed early, too, e.g. by `head`."""
    quiet: bool = False
    project: "Project | None" = None
    """The project file, where it is used."""
    keeps_going: bool = False
    """Go on with the other inputs where one fails."""
    inputs: list[str] = field(default_factory=list)
    """The inputs so far, as the user finds them."""
    failures: dict[str, QdqError] = field(default_factory=dict)
    """Input -> its failure."""
    began: float = field(default_factory=perf_counter)
    verbose: bool = False

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Work on one input: with `keeps_going`, record its failure instead of raising."""
        try:
            yield
        except QdqError as error:
            self.fail(name, error)

    def fail(self, name: str, error: QdqError) -> None:
        """Record the failure of one input; raise it unless the others are worked on (`keeps_going`)."""
        if not self.keeps_going or isinstance(error, Interrupted):
            raise error
        self.failures[name] = error
        self.warn(f"{name}: failed: {str(error).removeprefix(f'{name}: ')}")

    def conclude(self) -> None:
        """Tell which inputs failed, of which there are some; the exit code is that of the first failure."""
        first, *others = [name for name in self.inputs if name in self.failures]
        names = ", ".join([first, *others])
        say(f"error: {len(self.failures)} of {len(self.inputs)} inputs failed: {names}")
        self.exit_code = self.failures[first].exit_code

    def note(self, *messages: str) -> None:
        """Print notes on stderr, unless quiet."""
        for message in () if self.quiet else messages:
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
