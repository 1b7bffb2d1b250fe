"""Batches of inputs with --keep-going: one by one, where one that fails stops no other."""

from collections.abc import Callable, Sequence
from time import perf_counter

from qdqcli.cli.session import Session
from qdqcli.errors import QdqError
from qdqcli.escape import show_path
from qdqcli.recipe.plan import Plan
from qdqcli.result.group import merged
from qdqcli.result.result import InputRun, RunResult
from qdqcli.tensors.note import Note, NoteKind

DONE, FAILED, FINISHED = "done", "failed", "finished before"


def run_each_input(
    session: Session,
    plans: Sequence[Plan],
    work: Callable[[Sequence[Plan]], RunResult],
    state: Callable[[], str] = lambda: DONE,
) -> RunResult:
    """Return the results of `work` on the plans of each input, for --keep-going.

    `state` tells the state of the input that was last worked on.

    Raises:
        QdqError: the failure of the first input, where none is left.
    """
    own_plans: dict[str, list[Plan]] = {}
    for plan in plans:
        own_plans.setdefault(show_path(plan.checkpoint.path), []).append(plan)
    runs, inputs = [], []
    for name in dict.fromkeys(session.inputs):
        own, began, reached = own_plans.get(name), perf_counter(), FAILED
        if own is not None:
            with session.attempt(name):
                runs.append(work(own))
                reached = state()
        size = None if own is None else sum(plan.nbytes for plan in own)
        inputs.append(InputRun(name, size, perf_counter() - began, reached))
    if not runs:
        raise none_left(session)
    return merged(runs, inputs, failure_notes(session))


def failure_notes(session: Session) -> list[Note]:
    """Return a note on each input that failed."""
    return [
        Note(NoteKind.FAILED, name, other=str(session.failures[name]).removeprefix(f"{name}: "))
        for name in session.inputs
        if name in session.failures
    ]


def none_left(session: Session) -> QdqError:
    """Return the error for a batch all of whose inputs failed."""
    failed = [name for name in session.inputs if name in session.failures]
    first = session.failures[failed[0]]
    if not session.quiet:  # each reason was told when its input failed
        first.args = (f"{len(failed)} of {len(session.inputs)} inputs failed: {', '.join(failed)}",)
    return first
