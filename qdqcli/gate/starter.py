"""Text of a new project file, with limits that a first run keeps."""

from collections.abc import Iterator, Mapping, Sequence

from qdqcli.gate.generate import METRIC, toml_text, toml_value
from qdqcli.gate.ratchet import Headroom
from qdqcli.result.result import RunResult, TensorResult

TROUBLE_DB = 12.0
"""SQNR below which a tensor is in trouble: a limit where nothing was measured."""


def project_text(
    models: Sequence[str], settings: Mapping[str, object], run: RunResult | None, headroom: Headroom
) -> str:
    """Return the TOML text of a project file; `run` is its first run, which keeps its budget."""
    return "\n".join(_lines(models, settings, run, headroom)) + "\n"


def _lines(
    models: Sequence[str], settings: Mapping[str, object], run: RunResult | None, headroom: Headroom
) -> Iterator[str]:
    yield "# Settings of qdq: 'qdq check' measures the model and judges it by the budget. 'qdq stats' and 'qdq run'"
    yield "# take the same model and settings; options of the command line override them. More: qdq help gate"
    yield f"model = {toml_value(list(models) if len(models) > 1 else models[0])}"
    yield ""
    yield "# The options of the command line, with underscores."
    yield from (f"{key} = {toml_value(value)}" for key, value in settings.items())
    if "exclude" not in settings:
        yield '# exclude = ["*embed*", "lm_head.weight"]    # kept in float'
    yield '# reports = ["qdq.html", "qdq.json"]          # written by each command without INPUT'
    yield ""
    if "recipe" not in settings:
        yield "# [[rules]]                                   # other settings for some tensors"
        yield '# match = "*.down_proj.weight"'
        yield '# scheme = "int8-channel"'
        yield ""
    rows = [] if run is None else [row for row in run.quantized if row.stats[METRIC] is not None]
    lowest = min(rows, key=_sqnr_db, default=None)
    yield "[budget.limits]                               # for each tensor"
    if run is not None and lowest is None:
        yield "max_abs_error = 0                             # measured: no element changed"
        return
    if run is None or lowest is None:
        yield f"min_sqnr_db = {TROUBLE_DB:g}                              # not measured: the model was not given"
        return
    yield _limit(_sqnr_db(lowest), headroom, f"{_sqnr_db(lowest):.2f}, {toml_text(lowest.name)}")
    yield ""
    yield "[budget.summary]                              # over all elements"
    total = run.summary[METRIC]
    if total is not None:
        yield _limit(total, headroom, f"{total:.2f}")


def _sqnr_db(row: TensorResult) -> float:
    value = row.stats[METRIC]
    assert value is not None
    return value


def _limit(value: float, headroom: Headroom, measured: str) -> str:
    limit = f"min_sqnr_db = {headroom.limit(METRIC, value, is_minimum=True)!r}"
    return f"{limit:<45} # measured: {measured}"
