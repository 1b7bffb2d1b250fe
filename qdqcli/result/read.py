"""A report in JSON, read back as the RunResult that it was made of.

Statistics come back as they were written, to the last bit; the sums behind them do not, only counts and extremes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any

from qdqcli.errors import SpecError
from qdqcli.escape import MalformedError, blame, escape_name
from qdqcli.op.layout import Layout
from qdqcli.op.spec import QuantSpec
from qdqcli.result.histogram import histograms_from_json
from qdqcli.result.result import SCHEMA_VERSION, STATS, Row, RunResult, SkippedTensor, Source, TensorResult
from qdqcli.result.verdict import verdict_from_json
from qdqcli.result.verification import verification_from_json
from qdqcli.stats.metrics import MetricValue
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.note import MAX_NAMES, Note, NoteKind
from qdqcli.tensors.storage import read_file
from qdqcli.tensors.strict_json import parse_object

MAX_BYTES = 128 << 20
"""Size of a stored report; one of 100,000 tensors has 70 MB."""
COUNTS = ("num_tensors", "num_quantized", "num_skipped")


def read_report(path: Path) -> RunResult:
    """The run that a JSON report tells of.

    Raises:
        InputError: no such file, or it is no report of this schema.
    """
    data = read_file(path, MAX_BYTES)
    with blame(path):
        return from_json(parse_object(data))


def from_json(data: Mapping[str, Any]) -> RunResult:
    """The inverse of `to_json`.

    Raises:
        MalformedError: the data is no report.
    """
    if data.get("schema_version") != SCHEMA_VERSION:
        raise MalformedError(
            f"has schema_version {escape_name(repr(data.get('schema_version')))}; "
            f"this version reads reports with {SCHEMA_VERSION}"
        )
    try:
        return RunResult(
            command=_text(data["command"]),
            inputs=[_text(name) for name in data["inputs"]],
            settings=dict(data["settings"]),
            notes=[_note(entry) for entry in data.get("notes", [])],
            rows=[_row(entry, data["settings"]) for entry in data["tensors"]],
            verdict=verdict_from_json(data["verdict"]) if "verdict" in data else None,
            device=_text(data["run"]["device"]) if "run" in data else None,
            verification=verification_from_json(data["verification"]) if "verification" in data else None,
            reported=_numbers(data["summary"], (*COUNTS, *STATS)),
            version=_text(data["tool"]["version"]),
        )
    except KeyError as error:
        raise MalformedError(f"is no report of qdq: it has no {escape_name(str(error))}") from None
    except (TypeError, ValueError, AttributeError, IndexError, SpecError) as error:
        raise MalformedError(f"is no report of qdq: {escape_name(str(error))}") from None


def _note(entry: Mapping[str, Any]) -> Note:
    """The message is not taken from the report: it follows from the rest."""
    names = tuple(_text(name) for name in entry.get("names", []))
    return Note(
        kind=NoteKind(_text(entry["kind"])),
        file=_text(entry["file"]),
        names=names[:MAX_NAMES],
        num_names=_count(entry.get("num_names", 0)),
        other=_text(entry["other"]) if "other" in entry else None,
    )


def _row(entry: Mapping[str, Any], settings: Mapping[str, Any]) -> Row:
    shape = tuple(_count(length) for length in entry["shape"])
    source = Source(name=_text(entry["name"]), file=_text(entry["file"]), dtype=_text(entry["dtype"]), shape=shape)
    if entry["status"] != "quantized":
        return SkippedTensor(
            source=source,
            num_elements=prod(shape),
            reason=_text(entry["reason"]),
            is_failure=entry["status"] == "failed",
            decided_by=_decided_by(entry),
        )
    stats = _numbers(entry["stats"], STATS)
    spec = None if entry["spec"] is None else QuantSpec(**entry["spec"])
    ends = _numbers(entry["range"], ("input_min", "input_max"))
    return TensorResult(
        source=source,
        spec=spec,
        candidate=_candidate(entry["candidate"], shape) if "candidate" in entry else None,
        input_min=ends["input_min"],
        input_max=ends["input_max"],
        num_slices=1 if spec is None else _num_slices(shape, spec),
        scale_bits=_count(settings.get("scale_bits", 0)),
        sums=_counts_of(stats),
        channels=_channels(entry["channels"]) if "channels" in entry else None,
        histograms=histograms_from_json(entry["histograms"]) if "histograms" in entry else None,
        reported=stats,
        decided_by=_decided_by(entry),
    )


def _decided_by(entry: Mapping[str, Any]) -> Mapping[str, str] | None:
    found = entry.get("decided_by")
    return None if found is None else {_text(key): _text(place) for key, place in found.items()}


def _candidate(data: Mapping[str, Any], shape: tuple[int, ...]) -> Source:
    return Source(name=_text(data["name"]), file=_text(data["file"]), dtype=_text(data["dtype"]), shape=shape)


def _num_slices(shape: tuple[int, ...], spec: QuantSpec) -> int:
    """Of the settings: a report does not say whether a group may be shorter, which only its maker had to know."""
    return Layout.of(shape, spec if spec.group_size is None else replace(spec, ragged_groups=True)).num_slices


def _counts_of(stats: Mapping[str, MetricValue]) -> ErrorSums:
    names = ("num_elements", "num_nonfinite", "num_nonfinite_output", "num_degenerate")
    counts: dict[str, Any] = {name: _count(stats[name]) for name in names}
    low, high, peak = (stats[name] for name in ("input_min", "input_max", "max_abs_error"))
    measured = counts["num_elements"] - counts["num_nonfinite"] - counts["num_nonfinite_output"]
    # A peak of nothing measured is no number in a report; of something, only one beyond float64 would be.
    return ErrorSums(
        **counts,
        input_min=inf if low is None else low,
        input_max=-inf if high is None else high,
        max_abs_error=(inf if measured else 0.0) if peak is None else peak,
    )


def _channels(data: Mapping[str, Any]) -> dict[str, Sequence[MetricValue]]:
    return {_text(name): [_number(value) for value in values] for name, values in data.items()}


def _numbers(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, MetricValue]:
    return {name: _number(data[name]) for name in names}


def _number(value: Any) -> MetricValue:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)):
        return value
    raise ValueError(f"{value!r} is no number")


def _count(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{value!r} is no count")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is no text")
