"""Writer of ranges files, as `ranges/file.py` reads them; a file gets its name when it is complete."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.op.params import Floats
from qdqcli.tensors.output_file import OutputFile
from qdqcli.tensors.path import link_target
from qdqcli.tensors.safetensors import header_of
from qdqcli.tensors.temporary import sweep_temporaries

_ENDS = ("input_min", "input_max")


@dataclass(frozen=True, kw_only=True)
class RangeEntry:
    """A tensor whose range will be written."""

    name: str
    is_double: bool
    """True if its ends are float64, as for F64 tensors; else float32."""
    num_ranges: int | None
    """Number of ranges; None for a scalar range of the whole tensor."""


class RangesWriter(Protocol):
    """Writes the entries in order."""

    def write(self, entry: RangeEntry, ranges: Floats) -> None:
        """Write the ranges (2, num_ranges) of the next entry.

        Raises:
            UsageError: the format cannot represent a number.
        """

    def finish(self) -> None:
        """Write the file's end, after the last entry."""


def check_ranges_path(path: Path) -> None:
    """Check that the file's suffix names a known format.

    Raises:
        UsageError: unknown suffix.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(
            f"{show_path(path)}: ranges are written as {' or '.join(_WRITERS)}; choose one of these suffixes"
        )


@contextmanager
def create_ranges(path: Path, entries: Sequence[RangeEntry], *, overwrite: bool = False) -> Iterator[RangesWriter]:
    """Context manager that yields a writer; the file exists, complete, only if the block succeeds.

    Raises:
        UsageError: two tensors have one name, a name is not valid text, or the file exists and `overwrite` is false.
        OutputError: the system refuses.
    """
    names = [entry.name for entry in entries]
    for name in names:
        if max(name, default="") >= "\udc80" and any("\ud800" <= character <= "\udfff" for character in name):
            raise UsageError(f"'{escape_name(name)}' is not Unicode, so no ranges file can name it; rename the file")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two tensors have the name '{escape_name(twice)}'; estimate their ranges one by one")
    target = link_target(path) if overwrite else path
    sweep_temporaries(target)
    with OutputFile(target, replaces=overwrite) as file:
        writer = _WRITERS[path.suffix.lower()](file, entries)
        yield writer
        writer.finish()
        file.commit()


class _Safetensors:
    """Writes `NAME.input_min` and `NAME.input_max`, scalars or vectors."""

    def __init__(self, file: OutputFile, entries: Sequence[RangeEntry]) -> None:
        header: dict[str, object] = {}
        end = 0
        for entry in entries:
            for name in _ENDS:
                begin, end = end, end + (1 if entry.num_ranges is None else entry.num_ranges) * _type_of(entry).itemsize
                header[f"{entry.name}.{name}"] = {
                    "dtype": "F64" if entry.is_double else "F32",
                    "shape": [] if entry.num_ranges is None else [entry.num_ranges],
                    "data_offsets": [begin, end],
                }
        first = header_of(header)
        self._file, self._offset = file, len(first)
        file.resize(self._offset + end)
        file.write(memoryview(first), 0)

    def write(self, entry: RangeEntry, ranges: Floats) -> None:
        for row in ranges.astype(_type_of(entry)):
            self._file.write(row.data, self._offset)
            self._offset += row.nbytes

    def finish(self) -> None:
        """Do nothing: the format has no trailer."""


class _Json:
    """Writes `{NAME: {"input_min": ..., "input_max": ...}}`, numbers or lists of numbers, one line per tensor."""

    def __init__(self, file: OutputFile, entries: Sequence[RangeEntry]) -> None:  # noqa: ARG002 - they come one by one
        self._file, self._offset, self._before = file, 0, "{\n"

    def write(self, entry: RangeEntry, ranges: Floats) -> None:
        finite = np.isfinite(ranges).all(axis=0)
        if not finite.all():
            where = "" if entry.num_ranges is None else f" channel {int(np.argmin(finite))}"
            raise UsageError(
                f"'{escape_name(entry.name)}'{where} has an infinite range, which JSON cannot say; write .safetensors, "
                "or take another --estimator, which leaves infinities out"
            )
        values = ranges[:, 0].tolist() if entry.num_ranges is None else ranges.tolist()
        self._append(f"{self._before}{json.dumps(entry.name)}: {json.dumps(dict(zip(_ENDS, values, strict=True)))}")
        self._before = ",\n"

    def finish(self) -> None:
        self._append("\n}\n" if self._before == ",\n" else "{}\n")

    def _append(self, text: str) -> None:
        data = text.encode()
        self._file.write(memoryview(data), self._offset)
        self._offset += len(data)


def _type_of(entry: RangeEntry) -> np.dtype[np.float32] | np.dtype[np.float64]:
    return np.dtype("<f8" if entry.is_double else "<f4")


_WRITERS: Mapping[str, type[_Safetensors] | type[_Json]] = {".safetensors": _Safetensors, ".json": _Json}
"""File suffix -> writer."""
