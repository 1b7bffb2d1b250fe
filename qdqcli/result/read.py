"""Reader of JSON reports, as the RunResult that they were written from.

Statistics are restored bit for bit; of the sums behind them only counts and extremes are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf, prod
from pathlib import Path

from qdqcli.errors import SpecError
from qdqcli.escape import MalformedError, blame, escape_name
from qdqcli.op.layout import Layout
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import JsonObject, Parsed
from qdqcli.result.channels import Channels
from qdqcli.result.histogram import histograms_from_json
from qdqcli.result.packing import packing_from_json
from qdqcli.result.result import (
    ROW_STATS,
    SCHEMA_VERSION,
    STATS,
    Bound,
    InputRun,
    Row,
    RunResult,
    SkippedTensor,
    Source,
    TensorResult,
    spec_to_json,
)
from qdqcli.result.schema import COUNTED, HEAD, MAX_COUNT, ROW
from qdqcli.result.schema_check import Check, MismatchError, check_of
from qdqcli.result.verdict import verdict_from_json
from qdqcli.result.verification import verification_from_json
from qdqcli.stats.metrics import MetricValue
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.json_stream import JsonStream
from qdqcli.tensors.note import MAX_NAMES, Note, NoteKind
from qdqcli.tensors.strict_json import dict_of

MAX_BYTES = 128 << 20
"""Maximum size of a stored report; one of 100,000 tensors has 100 MB."""
_ROWS = "tensors"
_SPEC_NAMES = tuple(spec_to_json(QuantSpec()))


def read_report(path: Path) -> RunResult:
    """Read a JSON report row by row, in little more memory than the rows take.

    Raises:
        InputError: missing, or not a report of this schema; names the file and the position in it.
    """
    with InputFile(path) as file, blame(path):
        file.check_size(MAX_BYTES)
        return _read(_Streamed(JsonStream(file.chunks(0, file.size), dict_of, surrogates=True)))


def from_json(data: Parsed) -> RunResult:
    """Parse the output of `to_json`.

    Raises:
        MalformedError: the data is not a report; names the position in it.
    """
    return _read(data.items())


class _Streamed:
    """The members of a report; the rows are an iterator."""

    def __init__(self, stream: JsonStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[tuple[str, object]]:
        for key in self._stream.members():
            are_rows = key == _ROWS and self._stream.is_list()
            yield key, (self._stream.value() for _ in self._stream.items()) if are_rows else self._stream.value()
        self._stream.end()


def _read(members: Iterable[tuple[str, object]]) -> RunResult:
    """Build the run from a report's members; rows may be any iterable and are consumed before the next member."""
    head: JsonObject = {}
    rows: list[Row] | None = None
    for key, value in members:
        if key in head or (key == _ROWS and rows is not None):
            raise MalformedError(f"holds the key '{escape_name(key)}' twice")
        if key == "schema_version":
            _check_version(value)
        if key == _ROWS:
            rows = list(_rows(value))
        elif key in _CHECKS:  # others are dropped: there may be millions
            _check(_CHECKS[key], value, key)
            head[key] = value
    _check_version(head.get("schema_version"))
    _check(_check_head, head)
    if rows is None:
        raise MalformedError(f"has no '{_ROWS}'")
    scale_bits = head["settings"].get("scale_bits", 0)
    return RunResult(
        command=head["command"],
        inputs=head["inputs"],
        settings=head["settings"],
        notes=[_note(entry) for entry in head.get("notes", ())],
        rows=[row._replace(scale_bits=scale_bits) if isinstance(row, TensorResult) else row for row in rows],
        verdict=verdict_from_json(head["verdict"]) if "verdict" in head else None,
        device=head.get("run", {}).get("device"),
        input_runs=[
            InputRun(*(entry[key] for key in InputRun._fields)) for entry in head.get("run", {}).get("inputs", ())
        ],
        verification=verification_from_json(head["verification"]) if "verification" in head else None,
        reported={name: head["summary"][name] for name in (*COUNTED, *STATS)},
        reported_inputs={
            entry["input"]: {name: entry["stats"].get(name) for name in ROW_STATS} for entry in head.get("by_input", ())
        },
        version=head["tool"]["version"],
    )


def _check_version(found: object) -> None:
    if found is None:
        raise MalformedError("is not a report of qdq: it has no schema_version; give one that --report FILE.json made")
    if found != SCHEMA_VERSION or isinstance(found, bool):
        shown = "" if isinstance(found, dict | list) else f" {escape_name(repr(found), 40)}"
        raise MalformedError(f"has schema_version{shown}; this version reads reports with {SCHEMA_VERSION}")


@dataclass(frozen=True)
class Shared:
    """Values that many rows share, stored once."""

    texts: dict[str, str] = field(default_factory=dict)
    specs: dict[object, QuantSpec] = field(default_factory=dict)

    def text(self, text: str) -> str:
        return self.texts.setdefault(text, text)


_check_head, _check_row = check_of(HEAD), check_of(ROW)
_CHECKS = {key: check_of(schema) for key, schema in HEAD["properties"].items()}
"""Check of each head member, made before the next is read."""


def _check(check: Check, value: object, where: str = "") -> None:
    try:
        check(value)
    except MismatchError as error:
        raise MalformedError(str(error.inside(where)) if where else str(error)) from None


def _rows(entries: object) -> Iterator[Row]:
    if not isinstance(entries, Iterator | list):
        _check(check_of({"type": "array"}), entries, _ROWS)
        return
    shared = Shared()
    for index, entry in enumerate(entries):
        where = f"{_ROWS}[{index}]"
        _check(_check_row, entry, where)
        try:
            yield _row(entry, shared)
        except SpecError as error:
            raise MalformedError(f"{where}.spec: {error}") from None
        except ValueError as error:
            raise MalformedError(f"{where}.channels: {error}") from None
        except OverflowError:
            raise MalformedError(f"{where}.shape: the number of elements does not fit in 63 bits") from None


def _note(entry: Parsed) -> Note:
    """Parse a note; its message is derived from the other keys, not read."""
    return Note(
        kind=NoteKind(entry["kind"]),
        file=entry["file"],
        names=tuple(entry.get("names", ())[:MAX_NAMES]),
        num_names=entry.get("num_names", 0),
        other=entry.get("other"),
    )


def _row(entry: Parsed, shared: Shared) -> Row:
    """Parse a row that matches the schema.

    Raises:
        SpecError: the op does not allow the settings, or the shape does not have the axis.
        ValueError: the metrics of channels do not have one value per slice.
        OverflowError: the shape has more elements than any file can.
    """
    shape = tuple(entry["shape"])
    num_elements = prod(shape)
    if num_elements > MAX_COUNT:
        raise OverflowError
    file, dtype = (shared.text(entry[name]) for name in ("file", "dtype"))
    source = Source(name=entry["name"], file=file, dtype=dtype, shape=shape)
    if entry["status"] != "quantized":
        return SkippedTensor(
            source=source,
            num_elements=num_elements,
            reason=shared.text(entry["reason"]),
            is_failure=entry["status"] == "failed",
            is_selected=entry.get("selected") is True,
            decided_by=entry.get("decided_by"),
        )
    stats = {name: entry["stats"].get(name) for name in ROW_STATS}
    spec = _spec(entry["spec"], shared)
    histograms = entry.get("histograms")
    return TensorResult(
        source=source,
        spec=spec,
        candidate=_candidate(entry["candidate"], shape) if "candidate" in entry else None,
        input_min=entry["range"]["input_min"],
        input_max=entry["range"]["input_max"],
        num_slices=1 if spec is None else _num_slices(shape, spec),
        scale_bits=0,
        sums=_counts_of(stats),
        channels=Channels(entry["channels"]) if "channels" in entry else None,
        histograms=None if histograms is None else histograms_from_json(histograms),
        reported=stats,
        share=stats["share"],
        decided_by=entry.get("decided_by"),
        num_zero_slices=entry.get("num_zero_slices", 0),
        bound=Bound(**{name: entry["bound"][name] for name in Bound._fields}) if "bound" in entry else None,
        baseline_db=entry["baseline"]["sqnr_db"] if "baseline" in entry else None,
        packing=packing_from_json(entry["packed"]) if "packed" in entry else None,
    )


def _spec(data: Parsed | None, shared: Shared) -> QuantSpec | None:
    if data is None:
        return None
    attributes = {name: data[name] for name in _SPEC_NAMES if name in data}
    if isinstance(attributes["axis"], list):
        attributes["axis"] = tuple(attributes["axis"])
    key = tuple(attributes.items())
    if key not in shared.specs:
        shared.specs[key] = QuantSpec(**attributes)
    return shared.specs[key]


def _candidate(data: Parsed, shape: tuple[int, ...]) -> Source:
    return Source(name=data["name"], file=data["file"], dtype=data["dtype"], shape=shape)


def _num_slices(shape: tuple[int, ...], spec: QuantSpec) -> int:
    """Return the number of slices; assumes that short groups are allowed, since a report does not store that."""
    return Layout.of(shape, spec if spec.group_size is None else replace(spec, ragged_groups=True)).num_slices


def _counts_of(stats: Mapping[str, MetricValue]) -> ErrorSums:
    names = ("num_elements", "num_nonfinite", "num_nonfinite_output", "num_degenerate")
    counts: JsonObject = {name: stats[name] for name in names}
    low, high, peak = (stats[name] for name in ("input_min", "input_max", "max_abs_error"))
    measured = counts["num_elements"] - counts["num_nonfinite"] - counts["num_nonfinite_output"]
    # The peak of zero measured elements is null in a report; of any others it would be null only beyond float64.
    return ErrorSums(
        **counts,
        input_min=inf if low is None else low,
        input_max=-inf if high is None else high,
        max_abs_error=(inf if measured else 0.0) if peak is None else peak,
    )
