"""The group of commands, each imported when it is called, and the one error boundary.

Exit code 1 is the budget's alone: whatever else goes wrong ends here, as one line on stderr and a code of its own.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import FrameType

import click
from click.shell_completion import shell_complete

from qdqcli import __version__
from qdqcli.cli import streams
from qdqcli.cli.session import Session
from qdqcli.errors import QdqError
from qdqcli.tensors.message import escape, escape_name

EXIT_USAGE, EXIT_OUTPUT, EXIT_UNAVAILABLE, EXIT_BUG = 2, 4, 5, 70
BUG_LIMIT = 500
"""Characters of the message of an error that nobody foresaw; Numba's have thousands."""
GARBAGE_THRESHOLD = 100_000
"""Objects that are made between two searches for cycles. Rows of a report have none: looking for them after every 700
takes a seventh of the time of a checkpoint of 20,000 small tensors."""
COMPLETION_VARIABLE = "_QDQ_COMPLETE"
"""How a shell asks for completions: click's convention."""

COMMANDS = {
    "run": ("qdqcli.cli.run:run", "Quantize and dequantize checkpoints, write them, report the error."),
    "stats": ("qdqcli.cli.stats:stats", "Measure the error without writing tensors."),
    "check": ("qdqcli.cli.check:check", "Measure and judge by a budget: exit code 1 when it is exceeded."),
    "compare": ("qdqcli.cli.compare:compare", "Measure what differs between two checkpoints."),
    "inspect": ("qdqcli.cli.inspect:inspect", "List tensors and what would happen to each."),
    "calibrate": ("qdqcli.cli.calibrate:calibrate", "Estimate ranges and store them for --ranges."),
    "recipe": ("qdqcli.cli.recipe:recipe", "Check recipes, explain them, print presets and the schema."),
    "render": ("qdqcli.cli.render:render", "Show an earlier JSON report in any format, without measuring again."),
    "grad": ("qdqcli.cli.grad:grad", "Compute the op's gradient for files of gradients."),
    "info": ("qdqcli.cli.info:info", "Show versions, processor, threads and kernel cache."),
}
"""Name -> where the command is, and its line in `qdq --help`."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        nearest = get_close_matches(args[0], COMMANDS, n=1)
        if nearest and args[0] not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"there is no command '{args[0]}'; the nearest is '{nearest[0]}'")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: qdq stats MODEL --axis 0 --min-ndim 2. Each command's --help has examples.",
)
@click.version_option(__version__, prog_name="qdq", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Simulate the quantization of model weights.

    Reads tensors from .npy, .npz and safetensors checkpoints, quantizes and dequantizes each exactly as TensorFlow's
    QuantizeAndDequantizeV4 does, and reports what was lost.
    """
    if ctx.invoked_subcommand is None:
        streams.say(ctx.get_help())
        ctx.exit(EXIT_USAGE)


def run(arguments: Sequence[str]) -> int:
    """Run `qdq` with these arguments; the exit code."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    session = Session()
    _handle_signals(session)
    streams.prepare()
    try:
        code = _invoke(arguments, session)
        sys.stdout.flush()
    except Exception as error:  # the boundary: no traceback reaches a user
        code = _report(error, session)
    except KeyboardInterrupt:
        code = _say("interrupted", 130)
    streams.settle()
    return code


def _invoke(arguments: Sequence[str], session: Session) -> int:
    """What `cli.main` does, less its handling of errors, which exits with 1 where a pipe was closed."""
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        return EXIT_USAGE if shell_complete(cli, {}, "qdq", COMPLETION_VARIABLE, instruction) else 0
    try:
        with cli.make_context("qdq", list(arguments), obj=session) as ctx:
            code = cli.invoke(ctx)
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    return code if isinstance(code, int) else 0


def _report(error: Exception, session: Session) -> int:
    if session.debug:
        import traceback

        streams.say("".join(traceback.format_exception(error)).rstrip())
    match error:
        case BrokenPipeError():  # the reader of stdout has seen enough
            return 0
        case QdqError():
            return _say(str(error), error.exit_code)
        case click.UsageError():
            command = f"{error.ctx.command_path} --help" if error.ctx is not None else "qdq --help"
            return _say(f"{error.format_message().rstrip('.')}; see '{command}'", EXIT_USAGE)
        case click.ClickException():
            return _say(error.format_message(), EXIT_USAGE)
        case ImportError():
            return _say(f"{error}; the installation lacks a package: pip install qdqcli", EXIT_UNAVAILABLE)
        case MemoryError():
            return _say("out of memory; lower --max-memory or --threads", EXIT_OUTPUT)
        case OSError() if error.filename is None:
            return _say(f"standard output: {error.strerror}", EXIT_OUTPUT)
    return _say(
        f"a bug in qdq {__version__}: {type(error).__name__}: {escape_name(str(error), BUG_LIMIT)}; please report it "
        "with the command line and the output of the same command with --debug",
        EXIT_BUG,
    )


def _say(message: str, code: int) -> int:
    """One line: what click quotes from the command line was escaped by nobody yet."""
    streams.say(f"error: {escape(message)}")
    return code


def _handle_signals(session: Session) -> None:
    """The first signal asks the work to stop, which it does between blocks; a second one ends the process."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if session.interruption.signal_number is not None:
            os._exit(128 + number)
        session.interruption.request(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
