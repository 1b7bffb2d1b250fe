"""Steps shared by the measuring commands: open the inputs, decide, measure with a progress bar."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Unpack

from qdqcli.cli.batch import none_left, run_each_input
from qdqcli.cli.call import Call, ReportRequest
from qdqcli.cli.files import Files
from qdqcli.cli.hub import advice_on
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.options import request_of
from qdqcli.cli.progress import Progress, Silent, progress
from qdqcli.cli.session import Session
from qdqcli.errors import InputError, QdqError, UnavailableError
from qdqcli.escape import escape, show_path
from qdqcli.measure.layout import layout_of
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.listing import Listing
from qdqcli.recipe.plan import Plan, check_selection, check_unpacked, decoded_inputs, make_plans, packed_in_words
from qdqcli.recipe.request import Request, Settings
from qdqcli.report.number import counted
from qdqcli.tensors.checkpoint import Checkpoint, expand_input, open_checkpoint
from qdqcli.tensors.note import Note
from qdqcli.tensors.packed.recognise import Packed, key_of, may_hold_codes, recognise_inputs

if TYPE_CHECKING:
    from qdqcli.measure.workers import Workers
    from qdqcli.result.result import RunResult
    from qdqcli.run.distribute import Distribution
    from qdqcli.run.pipeline import Measuring

CHANNEL_BYTES = 300
"""Approximate bytes of a channel's or group's metrics in a JSON report."""
LARGE_BYTES = 100_000_000
"""Size in bytes from which a report is announced."""


def opened(call: Call, files: Files, **changes: Unpack[Settings]) -> tuple[Request, list[Checkpoint]]:
    """Return what the options ask for, some settings changed, and the inputs, which no written file may be.

    Raises:
        UsageError: see `request_of` and `Files.check`.
        InputError: a file is missing, unreadable or malformed.
    """
    request = request_of(call, **changes)
    checkpoints = open_inputs(call)
    if files.writes:
        files.check(checkpoints)
    return request, checkpoints


def open_inputs(call: Call, inputs: Sequence[str] | None = None) -> list[Checkpoint]:
    """Read the headers of all inputs, those of the call unless given, each once; prints notes on them."""
    session, reading = call.session, call.reading
    checkpoints: list[Checkpoint] = []
    known: set[str] = set()
    for argument in call.inputs if inputs is None else inputs:
        try:
            paths = expand_input(argument)
        except QdqError as error:
            session.inputs.append(escape(argument))
            _fail(argument, error, session)
            continue
        for path in paths:
            shown, real = show_path(path), os.path.realpath(path)
            if real in known:
                session.note(f"{shown}: given before; it counts once")
                continue
            known.add(real)
            session.inputs.append(shown)
            try:
                checkpoint = open_checkpoint(path, void_dtype=reading.void_dtype, follow_links=reading.follow_links)
            except QdqError as error:
                _fail(str(path), error, session)
            else:
                checkpoints.append(checkpoint)
    if not checkpoints and session.failures:
        raise none_left(session)
    for checkpoint in checkpoints:
        if checkpoint.notes:
            say_notes(checkpoint.notes, session)
    return decoded_inputs(checkpoints) if reading.from_packed else checkpoints


def _fail(argument: str, error: QdqError, session: Session) -> None:
    """Record or raise the failure of an input, with advice if it may be the id of a model."""
    if isinstance(error, (InputError, UnavailableError)) and not os.path.lexists(argument):
        advice = advice_on(argument)
        if advice is not None:
            error.advise(advice)
    session.fail(escape(argument), error)


def say_notes(notes: Sequence[Note], session: Session) -> None:
    """Print notes on files to stderr."""
    for note in notes:
        say = session.warn if note.is_warning else session.note
        say(f"{note.file}: {note.text()}")


BARE_SHARE = 0.5
"""Share of an input's elements from which on integer matrices look like weights of an unknown format."""


def packed_inputs(call: Call, checkpoints: Sequence[Checkpoint]) -> list[Packed]:
    """Find weights that are quantized already, for each input; notes say that they are left as they are.

    Raises:
        InputError: there are some, and the command measures without --allow-packed.
    """
    if not may_hold_codes(checkpoints):
        return [Packed() for _ in checkpoints]
    packed = recognise_inputs(checkpoints)
    for checkpoint, own in zip(checkpoints, packed, strict=True):
        if own.weights:
            if call.reading.allow_packed is False and not call.session.keeps_going:
                check_unpacked(checkpoint, own)
            call.session.note(f"{packed_in_words(checkpoint, own)}; they are left as they are")
        _warn_of_bare_codes(checkpoint, own, call.session)
    return packed


def _warn_of_bare_codes(checkpoint: Checkpoint, packed: Packed, session: Session) -> None:
    """Warn of what may be codes of no known format: FP8 without scales; integer matrices that are most of an input."""
    left = [t for t in checkpoint.tensors if not t.dtype.is_floating and key_of(t) not in packed.reasons]
    if not left:
        return
    total = sum(t.num_elements for t in checkpoint.tensors)
    cast = [t for t in left if t.dtype.is_packed]
    integers = [t for t in left if t.dtype.is_integer and len(t.shape) > 1]
    for tensors, words in ((cast, "already quantized and not measured"), (integers, "not measured; are they codes?")):
        share = sum(t.num_elements for t in tensors) / max(total, 1)
        if tensors and (tensors is cast or share > BARE_SHARE):
            dtypes = ", ".join(sorted({t.dtype.name for t in tensors}))
            count = counted(len(tensors), "tensor")
            session.warn(f"{show_path(checkpoint.path)}: {count} of {dtypes}, {share:.1%} of the elements: {words}")


def plan_inputs(call: Call, checkpoints: Sequence[Checkpoint], request: Request) -> list[Plan]:
    """Decide on every tensor, from the headers alone; prints warnings.

    Raises:
        InputError: weights are quantized already, and the command measures without --allow-packed.
        UsageError: the selection or the settings do not fit the checkpoints.
    """
    session = call.session
    packed = packed_inputs(call, checkpoints)
    if session.keeps_going:
        pairs = [pair for pair in zip(checkpoints, packed, strict=True) if _is_plannable(call, *pair, request)]
        if not pairs and session.failures:
            raise none_left(session)
        checkpoints, packed = [checkpoint for checkpoint, _ in pairs], [own for _, own in pairs]
    plans, warnings = make_plans(checkpoints, request.recipe, packed, allow_unmatched=call.reading.allow_unmatched)
    session.note(*warnings)
    return plans


def _is_plannable(call: Call, checkpoint: Checkpoint, packed: Packed, request: Request) -> bool:
    """Tell whether the settings fit an input of many; records why not."""
    name = show_path(checkpoint.path)
    with call.session.attempt(name):
        if call.reading.allow_packed is False:
            check_unpacked(checkpoint, packed)
        # A pattern need not match in each input: the plan of all inputs tells whether it matches in one.
        plans, _ = make_plans([checkpoint], request.recipe, [packed], allow_unmatched=True)
        check_selection(plans)
    return name not in call.session.failures


def measure(
    call: Call, command: str, plans: Sequence[Plan], request: Request, distribution: "Distribution | None" = None
) -> "RunResult":
    """Measure the plans and write no output; opens the cluster of --dask, unless it is given."""
    with ExitStack() as opened:
        if call.resources.dask is not None and distribution is None:
            distribution = opened.enter_context(cluster_of(call))
        measuring, workers, _ = opened.enter_context(working(call, plans, request))
        from qdqcli.run.execute import Job, measure_plans, result_of_job

        job = Job(command=command, plans=plans, request=request, measuring=measuring,
                  has_histograms=call.report.has_histograms)  # fmt: skip
        return result_of_job(job, measure_plans(plans, measuring, workers, distribution), workers)


def measure_each(call: Call, command: str, plans: Sequence[Plan], request: Request) -> "RunResult":
    """Measure the plans of each input by themselves, for --keep-going."""
    with cluster_of(call) as distribution:
        return run_each_input(call.session, plans, lambda own: measure(call, command, own, request, distribution))


@contextmanager
def cluster_of(call: Call) -> "Iterator[Distribution | None]":
    """Yield the cluster of --dask for all the work of a command; None without the option.

    Raises:
        UnavailableError: see `Dask`.
    """
    resources, reading = call.resources, call.reading
    if resources.dask is None:
        yield None
        return
    prepare_libraries()
    # Imported late: distributed takes longer than all the rest.
    from qdqcli.run.cluster import cluster_at, risk_of
    from qdqcli.run.shard import Opening, WorkerResources

    risk = risk_of(resources.dask)
    if risk is not None:
        call.session.warn(risk)
    of_worker = WorkerResources(
        threads=resources.threads or 1, max_memory=resources.max_memory, device=resources.device
    )
    opening = Opening(void_dtype=reading.void_dtype, follow_links=reading.follow_links)
    with cluster_at(resources.dask, of_worker, opening, call.session.interruption) as distribution:
        yield distribution


@contextmanager
def working(
    call: Call, plans: Sequence[Plan], request: Request, passes: int = 1, phase: str = "measuring"
) -> "Iterator[tuple[Measuring, Workers, Progress | Silent]]":
    """Yield measuring settings, workers and a progress bar for `passes` over the data; prints the time taken.

    Raises:
        UsageError: nothing is selected, or the ranges of `--ranges` do not fit.
    """
    session, report = call.session, call.report
    check_selection(plans)
    if report.per_channel:
        note_large_report(plans, report, session)
    prepare_libraries()
    # Imported late: NumPy and Numba take longer than everything before, which may have found an error.
    from qdqcli.run.execute import ranges_of
    from qdqcli.run.pipeline import Measuring

    ranges = None
    if request.ranges_file is not None:
        ranges, warnings = ranges_of(plans, request.ranges_file, allow_unmatched=call.reading.allow_unmatched)
        session.note(*warnings)
    began = perf_counter()
    with progress(session, plans, phase, passes=passes) as advance, workers_of(call) as workers:
        measuring = Measuring(
            ranges=ranges, per_slice=report.per_channel, scale_bits=request.scale_bits, on_bytes=advance
        )
        yield measuring, workers, advance
        if session.verbose:
            total, elapsed = sum(plan.nbytes for plan in plans), perf_counter() - began
            speed = f" ({total / 1e9 / elapsed:.2f} GB/s)" if elapsed else ""  # the clock may be frozen
            session.detail(f"{total / 1e6:.1f} MB in {elapsed:.2f} s{speed}, {workers.num_threads} threads, "
                           f"{workers.backend.name}")  # fmt: skip


def note_large_report(plans: Sequence[Plan], report: ReportRequest, session: Session) -> None:
    """Announce the size of a report on each of very many channels or groups before the work."""
    if not {"json", "jsonl"} & {*report.formats}:
        return
    count = sum(
        layout_of(tensor, decision).num_slices
        for plan in plans
        for tensor, decision in plan.tensors
        if isinstance(decision, QuantSpec)
    )
    if count * CHANNEL_BYTES > LARGE_BYTES:
        session.note(
            f"--per-channel: the metrics of {count:,} channels or groups take about {count * CHANNEL_BYTES / 1e6:,.0f} "
            "MB of JSON; leave it out, or select tensors with --include"
        )


def workers_of(call: Call) -> "Workers":
    """Return workers for the requested threads and device.

    Raises:
        UnavailableError: the device does not work here.
    """
    from qdqcli.measure.workers import Workers
    from qdqcli.op.backend import backend

    resources, session = call.resources, call.session
    chosen = backend(resources.device)
    if chosen.name != "cpu":
        session.note(f"computing on {chosen.name}")
    workers = Workers(resources.threads, resources.max_memory, session.interruption, chosen)
    if resources.max_memory < workers.least_memory:
        threads = counted(workers.num_threads, "thread")
        session.note(
            f"--max-memory {resources.max_memory} is less than the buffers of {threads} take: "
            f"{workers.least_memory >> 10}KiB is the least"
        )
    return workers


def listing_of(command: str, plans: Sequence[Plan], request: Request) -> Listing:
    """Return the decision on each tensor as a listing."""
    return Listing.of(command, plans, request.settings, request.scale_bits, has_recipe=request.has_recipe)
