"""`qdq compare`: error statistics between two existing checkpoints."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver_pieces, say_written
from qdqcli.cli.files import Files
from qdqcli.cli.gate import Gate, Judging, judging_options
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import cluster_of, open_inputs, workers_of
from qdqcli.cli.option_sources import given_parameters, is_given
from qdqcli.cli.progress import progress
from qdqcli.cli.session import Session
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.gate.settings import comparable, differences, shown
from qdqcli.op.spec import QuantSpec
from qdqcli.output.files import NamedFile
from qdqcli.recipe.axis import NONE
from qdqcli.recipe.pairing import entries_of, labels
from qdqcli.recipe.patterns import listed
from qdqcli.recipe.plan import Plan, decoded_inputs, inputs_of, make_plans, notes_of
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.rename import Renaming, new_names, suggestion
from qdqcli.recipe.request import Settings
from qdqcli.report.changes import CHANGES, Changes
from qdqcli.report.number import counted
from qdqcli.result.read import read_report
from qdqcli.result.result import RunResult, with_shares
from qdqcli.tensors.packed.recognise import Packed


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq compare MODEL_FOLDER MODEL_FOLDER
  qdq compare MODEL_FOLDER model.safetensors --min-ndim 2 --budget budget.toml
  qdq compare MODEL_FOLDER model.safetensors --map 'layer.*=layer.*' --report difference.json
  qdq compare MODEL_FOLDER model-Q4_K_M.gguf
  qdq compare before.json after.json""",
)
@click.argument("reference", metavar="REFERENCE", type=click.Path(readable=False))
@click.argument("candidate", metavar="CANDIDATE", type=click.Path(readable=False))
@click.option("--map", "renamings", multiple=True, metavar="OLD=NEW",
              help="Take tensor OLD of REFERENCE for NEW of CANDIDATE: globs, whose wildcards NEW repeats in order, or "
              "re:REGEX=TEMPLATE. The first that matches counts. Repeatable.")  # fmt: skip
@judging_options
@opt.compared_options
@opt.presentation_options
@opt.by_option
@opt.histograms_option
@opt.work_options
@opt.dask_option
@opt.verbosity_options
@pass_call(asked=Judging)
def compare(call: Call, /, reference: str, candidate: str, renamings: tuple[str, ...], asked: Judging) -> None:
    """Measure what differs between two checkpoints, tensor by tensor.

    Errors are those of CANDIDATE against REFERENCE. Names must be equal, or made so with --map; files, shards and
    dtypes may differ. Where several files have a tensor of one name, their files or folders must have the same paths. A
    budget does not let pass what cannot be measured: missing tensors, other shapes.

    Two JSON reports are shown side by side: the SQNR of each tensor before and after, the largest loss first.

    Weights that are quantized already (compressed-tensors, FP8, GGUF, ...) are decoded, on either side: their rows say
    format, bits, group and the SQNR that plain rounding would give; see 'qdq help packed'.
    """
    are_reports = [Path(side).suffix.lower() == ".json" for side in (reference, candidate)]
    if any(are_reports):
        if not all(are_reports):
            raise UsageError("give two checkpoints, or two JSON reports")
        _compare_reports(call, Path(reference), Path(candidate))
        say_written(call)
        return
    files = Files.of(call, asked)
    gate = Gate.of(asked, call)
    gate.add_files(files)
    settings = cast(Settings, {**call.settings, **_selection_of(gate, call.session)})
    call = replace(call, settings=settings)
    selection = Recipe(
        spec=QuantSpec(), include=settings["include"], exclude=settings["exclude"], min_ndim=settings["min_ndim"]
    )
    ours = _plans(call, reference, selection)
    theirs = _plans(call, candidate, Recipe(spec=QuantSpec()))
    files.check([plan.checkpoint for plan in (*ours[:1], *theirs[:1])])
    gate.conclude(gate.judge(_measured(call, ours, theirs, renamings), call.session), call)


def _compare_reports(call: Call, before: Path, after: Path) -> None:
    """Show two JSON reports side by side.

    Raises:
        UsageError: an option that only checkpoints take.
        InputError: a file is not a report.
    """
    for parameter in given_parameters():
        if parameter.expose_value and parameter.name not in _OF_REPORTS:
            judging = "'qdq check --report-in AFTER --baseline BEFORE' judges a report"
            raise UsageError(f"{parameter.opts[0]} is for checkpoints; {judging}")
    report = call.report
    CHANGES.check(report.formats)
    files = Files.of(call)
    files.reads.extend(NamedFile(path, "a report to compare") for path in (before, after))
    files.check()
    old, new = read_report(before), read_report(after)
    settings = list(differences(comparable(old.settings), comparable(new.settings)))
    changes = Changes.of(old, new, (show_path(before), show_path(after)), settings)
    deliver_pieces(partial(CHANGES.render, changes), report)


_OF_REPORTS = ("reference", "candidate", "format_name", "reports", "top")
"""Parameters that apply to a comparison of two reports."""


def _selection_of(gate: Gate, session: Session) -> dict[str, object]:
    """Return the selection that the budget was made with, for the options that the command line leaves out."""
    values = {} if gate.budget is None or gate.budget.settings is None else gate.budget.settings.values
    found = {
        key: values[key]
        for key in ("min_ndim", "include", "exclude")
        if values.get(key, NONE) not in (NONE, []) and not is_given(key)
    }
    if found:
        source = gate.budget.source if gate.budget is not None else ""
        words = ", ".join(f"{key} = {shown(value)}" for key, value in found.items())
        session.note(f"{source}: the selection is that of its [settings]: {words}")
    return found


def _plans(call: Call, path: str, recipe: Recipe) -> list[Plan]:
    checkpoints = open_inputs(call, [path])
    if len(checkpoints) != 1:
        raise UsageError(f"{path}: {len(checkpoints)} inputs; compare takes one on each side")
    views = decoded_inputs(checkpoints)
    plans, warnings = make_plans(views, recipe, [Packed()], allow_unmatched=call.reading.allow_unmatched)
    call.session.note(*warnings)
    return plans


def _measured(call: Call, ours: list[Plan], theirs: list[Plan], renamings: Sequence[str]) -> RunResult:
    session, settings = call.session, call.settings
    entries, others = entries_of(ours), entries_of(theirs)
    names, warnings = new_names(
        list(dict.fromkeys(entry.name for entry in entries)),
        list(map(Renaming.parse, renamings)),
        allow_unmatched=call.reading.allow_unmatched,
    )
    session.note(*warnings)
    prepare_libraries()
    # Imported late: NumPy and Numba take longer than everything before, which may have found an error.
    from qdqcli.run.compare import compare_entries

    histograms = call.report.has_histograms
    total = sum(entry.tensor.nbytes for entry in entries)
    with (
        cluster_of(call) as distribution,
        progress(session, ours, "comparing", total_bytes=total) as advance,
        workers_of(call) as workers,
    ):
        rows = compare_entries(
            entries, others, names, workers, advance, histograms=histograms, distribution=distribution
        )
    run = RunResult(
        command="compare",
        inputs=[*inputs_of(ours), *inputs_of(theirs)],
        settings={
            "include": list(settings["include"]),
            "exclude": list(settings["exclude"]),
            "min_ndim": settings["min_ndim"],
            "map": list(renamings),
        },
        rows=with_shares(rows),
        notes=notes_of([*ours, *theirs]),
    )
    failed = labels(run, [row for row in run.skipped if row.is_failure])
    renamed, there = set(names.values()), {entry.name for entry in others}
    offer = suggestion(renamed - there, there - renamed)
    hint = "" if offer is None else f"; try --map '{escape_name(offer)}'"
    if not any(run.quantized):
        raise UsageError(f"{' and '.join(inputs_of([*ours, *theirs]))}: nothing was measured: {_why(run)}{hint}")
    if failed:
        what = f"{counted(len(failed), 'tensor')} could not be compared: {listed(failed)}"
        session.note(f"{what}; the report says why{hint}")
    return run


def _why(run: RunResult) -> str:
    """Return why nothing could be measured: the reasons of failures, else of skips, with each advice once."""
    skipped = list(run.skipped)
    reasons = Counter(row.reason.partition("; ")[::2] for row in skipped if row.is_failure) or Counter(
        (row.reason, "") for row in skipped
    )
    advice = dict.fromkeys(advice for _, advice in reasons if advice)
    found = [f"{counted(count, 'tensor')}: {why}" for (why, _), count in reasons.items()]
    return "; ".join([*found, *advice]) or "there are no tensors"
