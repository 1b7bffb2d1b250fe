"""Work of `qdq run`: measure, write, read back, and commit the output with its provenance."""

from collections.abc import Sequence
from dataclasses import replace

from qdqcli.cli.measure import reported, working
from qdqcli.cli.options import Options
from qdqcli.cli.session import Session
from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan, settings_of
from qdqcli.recipe.request import Request
from qdqcli.result.result import Row, RunResult, summary_to_json
from qdqcli.run.digest import VerificationError, digest_output
from qdqcli.run.fingerprint import fingerprint_of
from qdqcli.run.journal import Journal
from qdqcli.run.pipeline import Measuring, result_of, run_plans
from qdqcli.run.provenance import Provenance
from qdqcli.run.verify import verification_of, verify_output
from qdqcli.tensors.storage import write_file


def produce(
    session: Session,
    plans: Sequence[Plan],
    request: Request,
    options: Options,
    output: OutputTree,
    *,
    verify: bool,
    provenance: bool,
) -> RunResult:
    """Execute the plans and commit the output; until then it has a journal.

    With `verify` it is committed only after it has been read back. A folder always has a provenance file, a single file
    only with `provenance`.
    """
    provenance |= output.is_folder
    passes = 1 + verify + 2 * provenance
    with working(session, plans, request, options, passes, "quantizing") as (measuring, workers, progress):
        made = Provenance(
            command="run",
            plans=plans,
            inputs=list({id(plan.checkpoint): plan.checkpoint for plan in plans}.values()),
            settings=settings_of(plans, request.settings),
            ranges=measuring.ranges,
        )
        if output.may_be_finished() and made.recognises(output, workers):
            output.accept()
            session.note(f"{show_path(output.output)}: is finished already, nothing is written")
            if not (verify or options["reports"] or options["format_name"] != "none"):
                return result_of("run", plans, request.settings, [])
        rows, journal = _written(plans, request, options, output, measuring, workers)
        if verify:
            progress.begin("verifying")
        num_opened = _verify(plans, rows, measuring, workers, output, journal, options) if verify else 0
        result = reported("run", plans, request, options, rows, measuring, workers)
        result = replace(result, notes=[*result.notes, *output.notes])
        if verify or provenance:
            progress.begin("hashing")
            digests = digest_output(output.result, output.names(), workers, measuring.on_bytes)
            if verify:
                result = replace(result, verification=verification_of(output, digests, num_opened))
            text = made.text(output, digests, summary_to_json(result), workers, measuring.on_bytes)
        if output.is_folder and not output.is_committed:
            output.write_marker(text)
        if not output.is_committed:
            output.commit()
        if provenance and not output.is_folder:
            write_file(output.provenance_path, [text.encode()])
        return result


def _written(
    plans: Sequence[Plan],
    request: Request,
    options: Options,
    output: OutputTree,
    measuring: Measuring,
    workers: Workers,
) -> tuple[list[Row], Journal | None]:
    """Return the rows, and the journal of an output that was not finished before."""
    if output.is_committed:
        return run_plans(plans, measuring, workers), None
    settings = {**settings_of(plans, request.settings), "per_channel": options["per_channel"]}
    for name in ("ranges", "ranges_digest", "recipe", "rules"):  # files may be renamed: only their content counts
        settings.pop(name, None)
    journal = Journal(output, plans, fingerprint_of(plans, settings, measuring.ranges), options["scale_bits"])
    return run_plans(plans, measuring, workers, output, journal), journal


def _verify(
    plans: Sequence[Plan],
    rows: Sequence[Row],
    measuring: Measuring,
    workers: Workers,
    output: OutputTree,
    journal: Journal | None,
    options: Options,
) -> int:
    """Read the output back, see `verify_output`; files that differ are made again by a resumed run."""
    try:
        void_dtype = options["void_dtype"]
        return verify_output(plans, rows, measuring, workers, output, void_dtype=void_dtype and void_dtype.upper())
    except VerificationError as error:
        if error.plan is not None and journal is not None and not output.is_committed:
            journal.add_damaged(error.plan)
            error.advise("--resume makes the file again")
        raise
