"""Command group; each command is imported when it is called."""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

import click
from click.shell_completion import shell_complete

from qdqcli import __version__
from qdqcli.cli import streams
from qdqcli.cli.boundary import report
from qdqcli.cli.environment import bind, is_set, source_of
from qdqcli.cli.session import Session
from qdqcli.errors import InputError, Interrupted, UsageError
from qdqcli.escape import escape_name
from qdqcli.interrupt import Interruption
from qdqcli.tensors.remote_path import shown_arguments

EXIT_USAGE = 2
GARBAGE_THRESHOLD = 1_000_000
"""GC threshold: allocations between collections. Rows of a report have no cycles: a collection every 700 allocations
takes a quarter of the time of a checkpoint of 20,000 small tensors. Compiling leaves 10 MB behind.
"""
COMPLETION_VARIABLE = "_QDQ_COMPLETE"
"""Variable by which a shell requests completions: click's convention."""

COMMANDS = {
    "run": ("qdqcli.cli.run:run", "Quantize and dequantize checkpoints, write them, report the error."),
    "finish": ("qdqcli.cli.finish:finish", "Commit the output of a run in parts, report, and judge."),
    "stats": ("qdqcli.cli.stats:stats", "Measure the error without writing tensors."),
    "check": ("qdqcli.cli.check:check", "Measure and judge by a budget: exit code 1 when it is exceeded."),
    "compare": ("qdqcli.cli.compare:compare", "Measure what differs between two checkpoints."),
    "decode": ("qdqcli.cli.decode:decode", "Write a packed checkpoint (GPTQ, AWQ, FP8, ...) as BF16, F16 or F32."),
    "plan": ("qdqcli.cli.plan:plan", "Choose bits per tensor under a budget; write a recipe."),
    "sweep": ("qdqcli.cli.sweep:sweep", "Measure many settings on one read of each tensor."),
    "conventions": ("qdqcli.cli.conventions:conventions", "Compare the scale conventions of other libraries."),
    "diagnose": ("qdqcli.cli.diagnose:diagnose", "Say why the worst tensors are bad, and what would help."),
    "inspect": ("qdqcli.cli.inspect:inspect", "List tensors and what would happen to each."),
    "demo": ("qdqcli.cli.demo:demo", "Write a small checkpoint to try the commands on."),
    "init": ("qdqcli.cli.init:init", "Write qdq.toml, for a bare 'qdq check'; print a job for CI."),
    "calibrate": ("qdqcli.cli.calibrate:calibrate", "Estimate ranges and store them for --ranges."),
    "recipe": ("qdqcli.cli.recipe:recipe", "Check recipes, explain them, write and read those of other tools."),
    "render": ("qdqcli.cli.render:render", "Show an earlier JSON report in any format, without measuring again."),
    "grad": ("qdqcli.cli.grad:grad", "Compute the op's gradient for files of gradients."),
    "info": ("qdqcli.cli.info:info", "Show versions, processor, threads and kernel cache."),
    "help": ("qdqcli.cli.manual:manual", "Show the help of a command, or a page of the manual."),
}
"""Name -> location of the command, and its line in `qdq --help`."""
ALIASES = {"quantize": "run"}
"""Names that users of other tools type."""
_WORDS = {
    "--bits": "--num-bits",
    "--nbits": "--num-bits",
    "--wbits": "--num-bits",
    "--q-bits": "--num-bits",
    "--granularity": "--scheme",
    "--observer": "--estimator",
    "--calibration": "--estimator",
    "--ignore": "--exclude",
    "--out": "--output",
    "--out-dir": "--output",
    "--output-dir": "--output",
}
"""Options of other tools -> those that do the same here."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        bind(command, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = (*COMMANDS, *ALIASES)
        if args[0] == "version":
            ctx.fail("there is no command 'version'; 'qdq --version' shows it")
        if args[0] not in known and not ctx.resilient_parsing:
            for nearest in get_close_matches(args[0], known, n=1):
                ctx.fail(f"there is no command '{args[0]}'; the nearest is '{nearest}'")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


cli = LazyGroup(
    "qdq",
    help="""Simulate the quantization of model weights, and measure what is lost.

    Integers: linear, symmetric, no zero point, exactly as TensorFlow's QuantizeAndDequantizeV4. Not simulated: FP8,
    NF4, MX and GGUF types. Reads .npy, .npz, safetensors and GGUF checkpoints.

    How to read an SQNR: a bit is worth 6 dB; int8 per channel gives some 40 dB, plain int4 17 to 20 dB, and below 12 dB
    a tensor is in trouble. The model's own accuracy must still be measured.
    """,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: qdq stats MODEL --scheme int4-g128. 'qdq COMMAND -h' shows examples, 'qdq help' the manual.",
)
click.version_option(__version__, "-V", "--version", prog_name="qdq", message="%(prog)s %(version)s")(cli)


def run(arguments: Sequence[str], interruption: Interruption | None = None) -> int:
    """Run `qdq` with these arguments until done or interrupted; returns the exit code."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    session = Session(interruption=interruption or Interruption(), arguments=arguments)
    if any("://" in argument for argument in arguments):
        session.arguments = shown_arguments(arguments)
    code = 0
    try:
        session.interruption.check()  # signals that arrived during the imports
        code = _invoke(arguments, session)
        sys.stdout.flush()
    except Interrupted as interrupted:
        code = report(interrupted, debug=session.debug) if session.interruption.announce() else interrupted.exit_code
    except BrokenPipeError:  # the reader of standard output closed it early; the verdict still holds
        code = session.exit_code
    except Exception as error:  # the boundary: no traceback reaches a user
        is_stopped = session.interruption.signal_number is not None and isinstance(error, InputError | UsageError)
        if not is_stopped:  # else the user has stopped before a file turned out bad: the signal's code counts
            code = report(_translated(error), debug=session.debug)
    except KeyboardInterrupt:  # from a caller without `qdq`'s signal handlers
        session.interruption.request(signal.SIGINT)
    number = session.interruption.signal_number
    if number is not None and code in (0, 1):  # received too late to stop any work: no signal is swallowed
        if session.interruption.announce():
            streams.say("error: interrupted at the end of the work")
        code = 128 + number
    return code


def _invoke(arguments: Sequence[str], session: Session) -> int:
    """Do the work of `cli.main` without its error handling, which exits with 1 on a closed pipe."""
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        return _complete(instruction)
    try:
        with cli.make_context("qdq", list(arguments), obj=session) as ctx:
            cli.invoke(ctx)
        if ctx.invoked_subcommand is None:
            streams.say(ctx.get_help())
            return EXIT_USAGE
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    if session.failures:
        session.conclude()
    return session.exit_code


def _complete(instruction: str) -> int:
    """Print the completions that a shell requests through its variables."""
    try:
        failed = shell_complete(cli, {}, "qdq", COMPLETION_VARIABLE, instruction)
    except (KeyError, ValueError) as error:
        failed = 1
        cause: Exception | None = error
    else:
        cause = None
    if failed:
        raise UsageError(
            f"{COMPLETION_VARIABLE} is '{escape_name(instruction)}', for shells that ask for completions, but there is "
            "no question that can be answered; unset it"
        ) from cause
    return 0


def _translated(error: Exception) -> Exception:
    """Return the error as one of ours: click's would exit with 1 or 2 and print two lines."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = {name for parameter in error.ctx.command.params for name in parameter.opts}
        same = _WORDS.get(error.option_name)
        if same in known:
            error = click.UsageError(f"No such option '{error.option_name}'. Did you mean '{same}'?", error.ctx)
    if isinstance(error, click.BadParameter) and error.param is not None and error.ctx is not None:
        in_environment = is_set(error.param, error.ctx)
        names = [error.param.human_readable_name] if isinstance(error.param, click.Argument) else error.param.opts
        error.param_hint = source_of(error.param) if in_environment else " / ".join(map(repr, names))
    if isinstance(error, click.UsageError):
        command = f"{error.ctx.command_path} --help" if error.ctx is not None else "qdq --help"
        message = error.format_message().rstrip(".")
        if isinstance(error, click.MissingParameter):  # click lists choices in lines
            message = " ".join(message.split())
        return _chained(UsageError(f"{message}; see '{command}'"), error)
    if isinstance(error, click.ClickException):
        return _chained(UsageError(error.format_message()), error)
    return error


def _chained(error: UsageError, cause: Exception) -> UsageError:
    error.__cause__ = cause
    return error
