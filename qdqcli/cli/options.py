"""Option groups, and parsers of option values."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Unpack

import click

from qdqcli.cli.call import Call, Decorator, Function
from qdqcli.cli.help import completing
from qdqcli.cli.option_sources import option_sources_of, recipe_options
from qdqcli.cli.session import Session
from qdqcli.op.backend import AUTO, BACKENDS
from qdqcli.op.spec import DEFAULT_ESTIMATOR, WHOLE_TENSOR, ComputeDType, RoundMode
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.recipe.axis import CHANNEL, LAST, NONE, PAIR_PATTERN
from qdqcli.recipe.keys import ERROR, SKIP
from qdqcli.recipe.preset import PRESETS
from qdqcli.recipe.request import OptionSources, Request, Settings, request_from
from qdqcli.recipe.scheme import SCHEMES, is_scheme, settings_of_scheme
from qdqcli.report.formatter import FORMATTERS, REPORT_SUFFIXES
from qdqcli.report.forms import LISTING_FORMATS
from qdqcli.report.ranking import DEFAULT_SORT, SORTS, check_sort
from qdqcli.result.group import BY
from qdqcli.tensors.remote_path import is_url, output_path

# Functions, not classes: `click.ParamType` takes its type argument from click 8.4 on only.


def parse_axis(value: str) -> str | int:
    """Parse `none`, `last`, `channel`, the index of a dimension or those of two neighbours, `0,1`."""
    if value in (NONE, LAST, CHANNEL) or re.fullmatch(PAIR_PATTERN, value):
        return value
    try:
        axis = int(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not none, last, channel, the index of a dimension or a pair such as 0,1"
        ) from None
    if axis < WHOLE_TENSOR:
        raise click.BadParameter(f"{axis} is negative: count dimensions from 0, or give last or none")
    return axis


def parse_bits(value: str) -> int:
    """Parse a number of bits; the error for a scheme names the option that takes it."""
    try:
        return int(value)
    except ValueError:
        hint = f"; --scheme {value} takes it" if is_scheme(value) else ""
        raise click.BadParameter(f"{value!r} is not a number of bits{hint}") from None


def parse_scheme(value: str) -> str:
    """Parse the name of a scheme, in any letter case.

    Raises:
        UsageError: no scheme has that name.
    """
    settings_of_scheme(value.lower())
    return value.lower()


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_MAX_SIZE = 1 << 62


def parse_size(value: str) -> int:
    """Parse a number of bytes with an optional unit, binary (MiB) or decimal (MB)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", value.strip().lower())
    size = inf if match is None else float(match[1]) * _UNITS[match[2]]
    if size > _MAX_SIZE:
        raise click.BadParameter(f"{value!r} is not a size such as 512MiB or 2GB")
    return int(size)


def together(*decorators: Decorator) -> Decorator:
    """Return one decorator for several, the first outermost."""
    return lambda function: apply(function, *decorators)


def apply(function: Function, *decorators: Decorator) -> Function:
    """Return the function with all decorators, the first outermost."""
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


AXIS = click.option(
    "--axis", type=parse_axis, default="none", show_default=True, metavar="none|last|channel|N|N,M",
    help="Use one range for each index along this dimension; none: one for the tensor; 0,1: one for each expert and "
    "row of stacked experts; channel: 0, or 0,1 where three dimensions hold experts.",
)  # fmt: skip
RANGE = together(
    click.option("--input-min", type=float, metavar="X", help="Set the lower end of the range, instead of the data's."),
    click.option("--input-max", type=float, metavar="X", help="Set the upper end; give both or neither."),
)  # fmt: skip
given_ranges_option = click.option(
    "--ranges", "ranges_file", type=click.Path(path_type=Path), metavar="FILE",
    help="Take ranges by tensor: .safetensors with NAME.input_min and NAME.input_max, or JSON {NAME: {input_min, "
    "input_max}}; scalars, or one value per channel or group. FILE#NAME is for the tensor of that file alone.",
)  # fmt: skip
"""Ranges from a file, for commands that quantize."""


class OutputPath(click.Path):
    """The path of an OUTPUT, on a disk or in a store."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        return output_path(value) if isinstance(value, str) and is_url(value) else super().convert(value, param, ctx)


def output_options(layout: str) -> Decorator:
    """Return a decorator that adds OUTPUT, in the layout named by `layout`."""
    return together(
        click.option("-o", "--output", type=OutputPath(path_type=Path), required=True, metavar="OUTPUT",
                     help=f"File or folder to write, in {layout}; or its URL: s3://, gs://, az://."),
        click.option("--overwrite", is_flag=True,
                     help="Replace OUTPUT, once the new one is whole (in a store, at once); never a folder that holds "
                     "anything but an output."),
        click.option("--break-lock", is_flag=True,
                     help="Go on where a run that has ended left its lock, on a disk that cannot tell (no flock)."),
    )  # fmt: skip


gradient_options = together(AXIS, RANGE)
"""The attributes that the op's gradient depends on."""
granularity_options = together(
    click.option("--scheme", "-s", type=parse_scheme, metavar="SCHEME",
                 shell_complete=completing(lambda: SCHEMES),
                 help="Bits and granularity by one name: [u]intN, [u]intN-tensor, [u]intN-channel (--axis "
                 "channel) or [u]intN-gM (groups of M), e.g. int4-g128. Options below override it."),
    click.option("--num-bits", "-b", type=parse_bits, default=8, show_default=True, metavar="N",
                 help="Use codes of N bits: 1 to 61, or 62 unsigned."),
    click.option("--signed-input/--unsigned-input", default=True, show_default="signed",
                 help="Use codes with or without a sign."),
    click.option("--narrow-range/--no-narrow-range", default=False, show_default="no",
                 help="Leave out the lowest signed code: -127..127."),
    click.option("--round-mode", type=click.Choice([mode.value for mode in RoundMode], case_sensitive=False),
                 default="HALF_TO_EVEN", show_default=True, metavar="MODE",
                 help="Round ties HALF_TO_EVEN or HALF_UP."),
    AXIS,
    click.option("--group-size", "-g", type=int, metavar="N",
                 help="Use one range for each N neighbours along the last axis; not together with --axis."),
    click.option("--ragged-groups", is_flag=True, help="Let the last group of a row be shorter."),
    click.option("--indivisible", type=click.Choice([ERROR, SKIP, CHANNEL]), default=ERROR, show_default=True,
                 help="Choose what becomes of a tensor whose last dimension --group-size does not divide: it stays "
                 "in float, or has one range per channel."),
)  # fmt: skip
"""Codes, and the granularity of ranges."""
estimator_options = together(
    click.option("--estimator", type=click.Choice(list(ESTIMATORS)), default=DEFAULT_ESTIMATOR, show_default=True,
                 help="Choose a range that is not given: minmax is the op itself; percentile leaves out the same "
                 "share of the smallest and the largest elements; mse takes the best of 100 shrinking ranges."),
    click.option("--percentile", type=float, metavar="P", show_default="99.99",
                 help="With --estimator percentile: let P % of the elements be at or below the upper end."),
)  # fmt: skip
"""How ranges are estimated."""
arithmetic_option = click.option(
    "--compute-dtype", type=click.Choice([name.value for name in ComputeDType]), default="float32", show_default=True,
    help="Compute BF16 and F16 tensors in float32 and round once, or native: each operation in the tensor's own dtype, "
    "as TensorFlow does.",
)  # fmt: skip
"""The arithmetic of 16-bit tensors."""
op_options = together(granularity_options, RANGE, estimator_options, arithmetic_option)
"""The attributes of the op, under its own names."""
estimating_options = together(granularity_options, estimator_options, arithmetic_option)
"""The attributes of the op for commands that only estimate ranges."""

NAMES = together(
    click.option("--include", multiple=True, metavar="PATTERN",
                 help="Quantize only tensors whose whole name matches: a glob, or re:REGEX; FILE#PATTERN only in "
                 "the files, or folders, that the glob FILE matches. Repeatable."),
    click.option("--exclude", multiple=True, metavar="PATTERN",
                 help="Leave matching tensors as they are; wins over --include. Repeatable."),
)  # fmt: skip
follow_links_option = click.option(
    "--follow-links", is_flag=True, help="Follow links that lead out of the folder of a checkpoint; each is noted."
)
reading_options = together(
    follow_links_option,
    click.option("--dtype", "void_dtype", type=click.Choice(["bf16"], case_sensitive=False),
                 callback=lambda _context, _parameter, name: name and name.upper(),
                 help="Read .npy elements of the unnamed 2-byte kind (|V2), and 16-bit integers, as this."),
)  # fmt: skip
"""How inputs are read, for commands that select no tensors."""
READING = together(
    click.option("--allow-unmatched", is_flag=True, help="Only warn of a pattern that matches nothing."),
    reading_options,
)
selection_options = together(
    NAMES,
    click.option("--min-ndim", type=click.IntRange(min=0), metavar="N",
                 show_default="2; 0 for .npy and for inputs without a matrix",
                 help="Leave tensors with fewer dimensions as they are: biases and norms; 0: none."),
    READING,
)  # fmt: skip
"""The selection of tensors to quantize."""
compared_options = together(
    NAMES,
    click.option("--min-ndim", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="Leave out tensors with fewer dimensions."),
    READING,
)  # fmt: skip
"""The selection of tensors to compare: all by default."""


def destination_options(formats: Sequence[str] = tuple(FORMATTERS)) -> Decorator:
    """Return a decorator that adds the destination of a report that has these formats."""
    names = [*formats, "none"]
    suffixes = [suffix for suffix, name in REPORT_SUFFIXES.items() if name in formats]
    return together(
        click.option("--format", "format_name", type=click.Choice(names), default="table",
                     show_default=True, metavar="FORMAT",
                     help=f"Choose what standard output gets: {', '.join(names)}."),
        click.option("--report", "reports", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
                     help=f"Write the report to FILE ({' '.join(suffixes)}) too; {{name}} in it: one for each input. "
                     "Repeatable."),
    )  # fmt: skip


TOP = click.option("--top", type=click.IntRange(min=0), metavar="N", show_default="20 on a terminal, all elsewhere",
                   help="Show the first N tensors; 0: all.")  # fmt: skip
presentation_options = together(
    destination_options(),
    click.option("--sort", type=check_sort, default=DEFAULT_SORT, show_default=True, metavar="METRIC",
                 shell_complete=completing(lambda: SORTS),
                 help="Show the worst tensor by this metric first; share: the one that holds most of the squared "
                 "error; size: the largest; name: in alphabetical order."),
    TOP,
)  # fmt: skip
"""Presentation and destination of a report."""
by_option = click.option(
    "--by", type=click.Choice(BY),
    help="Show one row for each kind of tensor, layer or input instead of each tensor (table, markdown and csv).",
)  # fmt: skip
histograms_option = click.option(
    "--histograms", is_flag=True, show_default="where .html is written",
    help="Count values and errors in bins for the HTML report; reads the data once more.",
)  # fmt: skip
scale_bits_option = click.option(
    "--scale-bits", type=click.IntRange(min=0), default=16, show_default=True, metavar="N",
    help="Count N bits for the scale of each range in bits_per_weight.",
)  # fmt: skip
report_options = together(
    presentation_options,
    by_option,
    click.option("--per-channel", is_flag=True,
                 help="Report each channel or group too (json, jsonl and html); of a few tensors the table shows the "
                 "worst ten."),
    histograms_option,
    scale_bits_option,
)  # fmt: skip
"""Presentation, destination and content of a report."""
listing_options = together(
    destination_options(LISTING_FORMATS),
    click.option("--sort", "list_sort", type=click.Choice(["order", "name", "size", "packed"]), default="order",
                 show_default=True, help="Sort by name, or the largest first; order: as in the checkpoint. Tensors "
                 "that stay as they are come last."),
    TOP,
    by_option,
    click.option("--all", "lists_all", is_flag=True, help="List tensors that --include leaves out, too."),
    scale_bits_option,
)  # fmt: skip
"""The report of commands that do not quantize."""


def _keep(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Keep a flag in the session."""
    if value:
        setattr(ctx.ensure_object(Session), parameter.name or "", True)


keep_going_option = click.option(
    "--keep-going", "keeps_going", is_flag=True, expose_value=False, callback=_keep,
    help="Go on with the other inputs where one fails; the exit code is that of the first failure.",
)  # fmt: skip
work_options = together(
    click.option("--threads", type=click.IntRange(min=1), metavar="N", show_default="all cores",
                 show_envvar=True, help="Use N threads."),
    click.option("--max-memory", type=parse_size, default="256MiB", show_default=True, metavar="SIZE",
                 show_envvar=True, help="Use this much memory for buffers, on top of about 300 MB for the "
                 "program."),
)  # fmt: skip
"""Threads and memory."""
dask_option = click.option(
    "--dask", metavar="ADDRESS|local",
    help="Work on a Dask cluster: the address of its scheduler (tcp://HOST:PORT, tls://HOST:PORT), its scheduler file "
    "(.json), or local: processes on this machine. Each task uses --threads, 1 by default.",
)  # fmt: skip
"""The cluster, for commands that work shard by shard."""
device_option = click.option(
    "--device", type=click.Choice([*BACKENDS, AUTO]), default="cpu", show_default=True, show_envvar=True,
    help="Compute on the CPU or a CUDA device, with the same results; auto: CUDA where it works. Ranges by --estimator "
    "percentile and mse are chosen on the CPU.",
)  # fmt: skip
"""The device of the op, for commands that quantize."""
verbosity_options = together(
    click.option("-q", "--quiet", is_flag=True, expose_value=False, is_eager=True, callback=_keep,
                 help="No notes and no progress bar on stderr."),
    click.option("-v", "--verbose", is_flag=True, expose_value=False, is_eager=True, callback=_keep,
                 help="Say more on stderr: threads, time, speed."),
    click.option("--debug", is_flag=True, expose_value=False, is_eager=True, callback=_keep,
                 help="Show the traceback of an error."),
)  # fmt: skip
packed_option = click.option(
    "--allow-packed", is_flag=True,
    help="Measure what is left in float where weights are already quantized (FP8, GPTQ, AWQ, ...).",
)  # fmt: skip
"""For commands that refuse already quantized weights."""
from_packed_option = click.option(
    "--from-packed", is_flag=True,
    help="Decode weights that are already quantized, and take what they decode to for the weights.",
)  # fmt: skip
"""For commands that only read."""
machine_options = together(work_options, device_option, dask_option, verbosity_options)
"""The options of commands that compute: threads, memory, device, cluster, and verbosity."""
measuring_options = together(
    *(op_options, given_ranges_option, recipe_options, selection_options, packed_option, report_options),
    machine_options,
)
"""All options of a command that quantizes and reports."""


def study_options(formats: Sequence[str]) -> Decorator:
    """Return a decorator that adds the options of commands that report on several settings, in these formats."""
    return together(destination_options(formats), scale_bits_option, machine_options)


def request_of(call: Call, **changes: Unpack[Settings]) -> Request:
    """Return the recipe that the options describe, with some settings changed.

    Raises:
        UsageError: options contradict one another, or the op does not take a value.
    """
    options: Settings = {**call.settings, **changes}
    project = call.session.project
    sources = OptionSources(options=options)
    if options.get("recipe") or options.get("presets") or options.get("scheme") or (project and project.settings):
        sources = option_sources_of(options, call.session)
    if sources.options["axis"] == WHOLE_TENSOR:
        call.session.note("--axis -1 is the op's word for one range per tensor; the last axis is --axis last")
    request = request_from(sources)
    if not call.reading.from_packed:
        return request
    return replace(request, settings={**request.settings, "from_packed": True})


def with_recipe(call: Call, name: str) -> Call:
    """Return the call with the recipe of that name: a file, or else a preset."""
    is_preset = name in PRESETS and not Path(name).exists()
    named: Settings = {"presets": (name,)} if is_preset else {"recipe": Path(name)}
    return replace(call, settings={**call.settings, **named})
