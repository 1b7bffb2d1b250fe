"""`qdq recipe`: check, explain and print recipes and presets."""

import json

import click

from qdqcli.cli import options as opt
from qdqcli.cli import streams
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import for_terminal
from qdqcli.cli.dialects import export, import_
from qdqcli.cli.help import Command, completing
from qdqcli.cli.measure import listing_of, open_inputs, plan_inputs
from qdqcli.cli.options import with_recipe
from qdqcli.cli.streams import write, write_all
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.findings import RuleFinding
from qdqcli.recipe.keys import json_schema
from qdqcli.recipe.plan import context_of
from qdqcli.recipe.preset import PRESETS, preset, preset_text
from qdqcli.report import escape
from qdqcli.report.explanation import render_json, render_table
from qdqcli.report.number import counted
from qdqcli.report.options import ReportOptions
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import recognise_inputs

FORMAT = click.option("--format", "format_name", type=click.Choice(["table", "json"]), default="table",
                      show_default=True, help="Choose what standard output gets.")  # fmt: skip


class RecipeGroup(click.Group):
    """A group whose commands have grouped help."""

    command_class = Command


@click.group(
    cls=RecipeGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    epilog="""\b
Examples:
  qdq recipe show
  qdq recipe show linear-only
  qdq recipe lint recipe.toml MODEL_FOLDER
  qdq recipe explain recipe.toml MODEL_FOLDER 'layer.*'
  qdq recipe export linear-only MODEL_FOLDER --scheme int4-g128 --to llm-compressor
  qdq recipe import PACKED_FOLDER MODEL_FOLDER
  qdq recipe schema""",
)
@click.pass_context
def recipe(ctx: click.Context) -> None:
    """Check a recipe, say which rule decides over a tensor, write it for another tool, or read another tool's.

    A recipe is a TOML or JSON file: [defaults] for all tensors, then [[rules]] in order, each with a pattern on names
    (match) and settings under the options' names, or a reason to skip. --recipe FILE takes it.
    """
    if ctx.invoked_subcommand is None:
        streams.say(ctx.get_help())
        ctx.exit(UsageError.exit_code)


subject_options = opt.together(
    FORMAT, opt.op_options, opt.given_ranges_option, opt.selection_options, opt.verbosity_options
)
"""All options that decide on tensors, as in the measuring commands."""
RECIPE_SUFFIXES = (".toml", ".json")
RECIPE = click.argument("recipe_name", metavar="RECIPE", type=click.Path())


@recipe.command(short_help="Find what is wrong with recipes.")
@click.argument("names", metavar="RECIPE... [MODEL...]", nargs=-1, required=True, type=click.Path(readable=False))
@subject_options
@pass_call()
def lint(call: Call, /, names: tuple[str, ...]) -> None:
    """Find all that is wrong with RECIPE, a .toml or .json file or a preset's name.

    With MODEL, checked against its tensors: rules that match nothing, that decide nothing, that contradict one another,
    settings that tensors cannot take. Exit code 2 where something is found.
    """
    recipes = [name for name in names if name.lower().endswith(RECIPE_SUFFIXES) or name in PRESETS] or [names[0]]
    format_name = call.report.format_name
    checkpoints = open_inputs(call, [name for name in names if name not in recipes])
    found, failures = [], []
    for name in recipes:
        try:
            findings, checked = _lint(with_recipe(call, name), checkpoints)
        except UsageError as error:
            failures.append(error)
            continue
        found.append({"recipe": name, "findings": [finding.to_json() for finding in findings]})
        if format_name == "table":
            write("".join(f"{escape.terminal(str(finding))}\n" for finding in findings))
            if not findings:
                write(f"{escape.terminal(name)}: nothing wrong with {checked}\n")
        if findings:
            failures.append(UsageError(f"{escape_name(name)}: {counted(len(findings), 'problem')}"))
    if format_name == "json" and found:
        write(escape.json_text(found[0] if len(recipes) == 1 else found, indent=2) + "\n")
    if failures:
        raise failures[0] if len(failures) == 1 else UsageError("; ".join(map(str, failures)))


def _lint(call: Call, checkpoints: list[Checkpoint]) -> tuple[list[RuleFinding], str]:
    """Return what is wrong with a recipe, and what was checked, in words.

    Raises:
        UsageError: the recipe is malformed, or tensors cannot take a setting.
    """
    request = opt.request_of(call)
    recipe = request.recipe
    tensors = [tensor for checkpoint in checkpoints for tensor in checkpoint.tensors]
    context = context_of(checkpoints, recognise_inputs(checkpoints))
    findings = recipe.findings(tensors, context) if checkpoints else recipe.findings_without_tensors()
    if call.reading.allow_unmatched:
        for finding in findings:
            if finding.is_unmatched:
                call.session.note(str(finding))
        findings = [finding for finding in findings if not finding.is_unmatched]
    if not findings and checkpoints:
        plan_inputs(call, checkpoints, request)  # refuses settings that tensors cannot take
    checked = counted(len(recipe.rules), "rule")
    checked += f", checked against {counted(len(tensors), 'tensor')}" if checkpoints else ""
    return list(findings), checked


@recipe.command(short_help="Say which rule decides what of each tensor.")
@RECIPE
@click.argument("model", metavar="MODEL", type=click.Path(readable=False))
@click.argument("name", metavar="[NAME]", required=False)
@subject_options
@pass_call()
def explain(call: Call, /, recipe_name: str, model: str, name: str | None) -> None:
    """Say which rule of RECIPE, a file or a preset's name, decides what of each tensor of MODEL.

    NAME, a tensor's name or a pattern, shows every setting and what it overrides. Reads headers only. Options of the op
    and of the selection have the effect that they have in run.
    """
    call = with_recipe(call, recipe_name)
    request = opt.request_of(call)
    plans = plan_inputs(call, open_inputs(call, [model]), request)
    listing = listing_of("recipe explain", plans, request)
    if name is not None:
        listing = listing.matching(name)
    if call.report.format_name == "json":
        write_all(render_json(listing))
    else:
        write_all(render_table(listing, for_terminal(ReportOptions()), is_detailed=name is not None))


@recipe.command(short_help="List presets, or print one to copy and change.")
@click.argument("name", metavar="[NAME]", required=False, shell_complete=completing(lambda: PRESETS))
def show(name: str | None) -> None:
    """Print the preset NAME as a recipe to copy and change; without NAME, list them."""
    if name is None:
        width = max(map(len, PRESETS))
        write("".join(f"{preset_name:<{width}}  {preset(preset_name).description}\n" for preset_name in PRESETS))
        return
    write(preset_text(name))


@recipe.command(short_help="Print the JSON schema of recipes.")
def schema() -> None:
    """Print the JSON schema of recipes, for editors and other programs."""
    write(json.dumps(json_schema(), indent=2) + "\n")


recipe.add_command(export)
recipe.add_command(import_)
