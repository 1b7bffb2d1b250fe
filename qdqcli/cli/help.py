"""Help of a command: examples first, options in groups; `-h` shows the common ones, `--help` all."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from qdqcli.cli.environment import PREFIX, name_variable, take
from qdqcli.cli.session import Session
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError

GROUPS = {
    "Goal": ("avg_bits", "target_size", "max_loss", "min_sqnr", "summary"),
    "Choice": (
        *("candidates", "objective", "importance", "tie", "min_bits", "max_bits", "count", "backend"),
        *("frontier", "explain"),
    ),
    "Diagnosis": ("worst", "diagnoses_all", "max_bits_added", "write_recipe"),
    "Output": (
        *("output", "dtype", "overwrite", "resume", "keeps_going", "verify", "provenance", "dry_run", "part"),
        "break_lock",
    ),
    "Quantization": (
        *("scheme", "schemes", "num_bits", "bits", "group_size", "group_sizes", "axis", "axes"),
        *("signed_input", "unsigned_input", "narrow_range", "round_mode"),
        *("ragged_groups", "indivisible", "compute_dtype", "recipe", "preset", "presets"),
    ),
    "Which tensors": (
        *("include", "exclude", "min_ndim", "allow_unmatched", "allow_packed", "from_packed", "follow_links"),
        *("renamings", "void_dtype"),
    ),
    "Ranges": ("estimator", "estimators", "percentile", "input_min", "input_max", "ranges_file"),
    "Budget": (
        *("budget", "baseline", "report_in", "today", "exit_zero", "write_budget", "write_baseline"),
        *("headroom", "ratchet"),
    ),
    "Report": (
        *("format_name", "reports", "sort", "list_sort", "top", "by", "rows_by", "pareto", "lists_all", "data"),
        *("per_channel", "histograms", "scale_bits", "schema"),
    ),
    "Resources": ("threads", "max_memory", "device", "dask"),
}
"""Title -> parameters, in display order. Parameters without a group come last."""
EVERYDAY = (
    *("avg_bits", "target_size", "min_sqnr", "candidates", "min_bits", "group_size"),
    *("output", "dtype", "scheme", "recipe", "preset", "presets", "include", "exclude", "estimator"),
    *("budget", "write_budget"),
    *(
        "renamings",
        "data",
        "format_name",
        "reports",
        "list_sort",
        "top",
        "by",
        "schemes",
        "bits",
        "group_sizes",
        "axes",
    ),
    *("estimators", "rows_by", "pareto"),
    *("worst", "diagnoses_all", "max_bits_added", "write_recipe"),
)
"""Parameters that `-h` shows."""


def completing(names: Callable[[], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return the completion, in a shell, of a parameter that takes one of `names`."""
    return lambda _context, _parameter, start: [name for name in names() if name.startswith(start)]


class Command(click.Command):
    """A command with grouped help, and a short form of it."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.append(_SHORT_HELP)  # click leaves to --help the names that no option has

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            name_variable(error, ctx)
            raise
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click's parser knows none
            raise

    def invoke(self, ctx: click.Context) -> object:
        if any(name.startswith(PREFIX) for name in os.environ):
            take(ctx.ensure_object(Session), ctx)
        return super().invoke(ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_epilog(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, options in self.grouped(ctx):
            rows = [row for option in options if (row := option.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=30)

    def short_help_page(self, ctx: click.Context) -> str:
        """Return the short help: description, examples, the common options in a line each."""
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.help or "").strip().partition("\n\n")[0])
        self.format_epilog(ctx, formatter)
        options = [o for _, grouped in self.grouped(ctx) for o in grouped if o.name in EVERYDAY]
        rows = [(row[0], _first_sentence(o)) for o in options if (row := o.get_help_record(ctx)) is not None]
        if rows:
            with formatter.section("Options of every day"):
                formatter.write_dl(rows, col_max=30)
        formatter.write_paragraph()
        formatter.write_text(f"All options: {ctx.command_path} --help")
        return formatter.getvalue()

    def grouped(self, ctx: click.Context) -> Iterator[tuple[str, Sequence[click.Option]]]:
        """Yield title and options of each group that has any."""
        left = {param.name: param for param in self.get_params(ctx) if isinstance(param, click.Option)}
        for title, names in GROUPS.items():
            found = [left.pop(name) for name in names if name in left]
            if found:
                yield title, found
        yield "Other", list(left.values())


def _first_sentence(option: click.Option) -> str:
    """Return the first sentence of the option's help, up to a colon, bracket or semicolon."""
    text = (option.help or "").partition(". ")[0].partition(": ")[0].partition(" (")[0].partition("; ")[0]
    return text.rstrip(".") + "."


def _show_short(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing and isinstance(ctx.command, Command):
        write(ctx.command.short_help_page(ctx).rstrip() + "\n")
        ctx.exit()


_SHORT_HELP = click.Option(
    ["-h", "short_help"], is_flag=True, expose_value=False, is_eager=True, callback=_show_short,
    help="Show the options of every day.",
)  # fmt: skip
