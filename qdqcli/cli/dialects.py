"""`qdq recipe export` and `qdq recipe import`: recipes of other tools."""

from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import say_written, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.gate_files import check_replaceable, is_recipe
from qdqcli.cli.help import Command
from qdqcli.cli.measure import open_inputs, plan_inputs
from qdqcli.cli.options import with_recipe
from qdqcli.cli.project import model_of_project
from qdqcli.cli.streams import write
from qdqcli.dialects.dialect import DIALECTS, dialect
from qdqcli.errors import UsageError
from qdqcli.escape import show_command, show_path
from qdqcli.recipe.file import parse_recipe
from qdqcli.recipe.toml_text import plans_of
from qdqcli.tensors.packed.recognise import recognise_inputs

MODEL = click.argument("model", metavar="[MODEL]", required=False, type=click.Path(readable=False))


_output = opt.together(
    click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", show_default="standard output",
                 help="File to write."),
    click.option("--overwrite", is_flag=True, help="Replace FILE if it exists."),
)  # fmt: skip
"""The file to write."""


@click.command(
    cls=Command,
    short_help="Write a recipe for another tool.",
    epilog="""\b
Examples:
  qdq recipe export plan.toml MODEL_FOLDER --to llm-compressor -o recipe.yaml
  qdq recipe export linear-only MODEL_FOLDER --scheme int4-g128 --to mlx""",
)
@click.argument("recipe_name", metavar="RECIPE", type=click.Path())
@MODEL
@click.option("--to", "target", required=True, type=click.Choice(list(DIALECTS)), help="The tool that reads the file.")
@_output
@opt.op_options
@opt.selection_options
@opt.verbosity_options
@pass_call()
def export(
    call: Call, /, recipe_name: str, model: str | None, target: str, output: Path | None, overwrite: bool
) -> None:
    """Write RECIPE, a file or a preset's name, for another tool, so that each weight of MODEL becomes the same there.

    The file has few patterns that match no other weight, and is read back by the tool's own rules before it is written.
    What the tool cannot be told is refused with the tensor and the reason. MODEL is that of qdq.toml unless given.
    Reads headers only.
    """
    from qdqcli.dialects.export import exported

    session, call = call.session, with_recipe(call, recipe_name)
    files = Files.of(call, output=output)
    if output is not None:
        check_replaceable(output, lambda _path: None, is_allowed=overwrite)
    request = opt.request_of(call)
    checkpoints = open_inputs(call, [model_of_project(session) if model is None else model])
    files.check(checkpoints)
    plans = plan_inputs(call, checkpoints, request)
    own = dialect(target)
    text, words, warnings = exported(own, plans)
    _deliver(call, output, text, replaces=overwrite)
    for warning in warnings:
        session.warn(warning)
    session.note(words)
    session.note(f"use: {own.usage}")


@click.command(
    "import",
    cls=Command,
    short_help="Read another tool's recipe, or a quantized model's.",
    epilog="""\b
Examples:
  qdq recipe import PACKED_FOLDER MODEL_FOLDER -o imported.toml
  qdq stats MODEL_FOLDER --recipe imported.toml""",
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@MODEL
@_output
@opt.reading_options
@opt.verbosity_options
@pass_call()
def import_(call: Call, /, file: Path, model: str | None, output: Path | None, overwrite: bool) -> None:
    """Read FILE, the recipe of another tool or the config.json of a quantized model, as a recipe of qdq.

    Takes quantization_config (compressed-tensors, GPTQ, AWQ, auto-round, torchao, ModelOpt), the quantization of MLX,
    YAML of llm-compressor and ModelOpt, and tensor-type files of llama.cpp. With MODEL the patterns become those of its
    tensors, and entries that match none are named. What the op does not have (zero points, float formats, codebooks) is
    named on stderr and in a comment.
    """
    from qdqcli.dialects.imported import fitted, in_words, recipe_text
    from qdqcli.dialects.reading import read_foreign
    from qdqcli.dialects.weight import weights_of

    session = call.session
    files = Files.of(call, output=output, foreign=file)
    if output is not None:
        check_replaceable(output, is_recipe, is_allowed=overwrite)
    checkpoints = open_inputs(call, [model]) if model is not None else []
    files.check(checkpoints)
    tensors = [tensor for checkpoint in checkpoints for tensor in checkpoint.tensors if tensor.dtype.is_floating]
    imported = read_foreign(file, [tensor.name for tensor in tensors])
    if tensors:
        imported, warnings = fitted(imported, tensors)
        for warning in warnings:
            session.warn(warning)
    text = recipe_text(imported, [f"Imported from {show_path(file)} ({imported.title}) by qdq recipe import."])
    parse_recipe(text, show_path(file))
    for note in dict.fromkeys([*imported.notes, *(rule.comment for rule in imported.rules if rule.comment)]):
        session.warn(note)
    words = ""
    if tensors:
        try:
            plans = plans_of(text, checkpoints, recognise_inputs(checkpoints))
            words = in_words([weight.format for weight in weights_of(plans) if weight.is_matrix])
        except UsageError as error:
            session.warn(f"does not fit the model yet: {error}")
    _deliver(call, output, text, replaces=overwrite)
    if words:
        session.note(words)
    if output is not None:
        session.note(f"next: {show_command(['qdq', 'stats', model or 'MODEL', '--recipe', str(output)])}")


def _deliver(call: Call, output: Path | None, text: str, *, replaces: bool) -> None:
    """Write the text to the file, or to standard output."""
    if output is None:
        write(text)
        return
    write_report(output, [text], replaces=replaces)
    say_written(call, show_path(output))
