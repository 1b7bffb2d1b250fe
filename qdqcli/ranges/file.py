"""Ranges file: one range per tensor name, or one per slice.

A `.safetensors` file holds `NAME.input_min` and `NAME.input_max`, floating-point scalars or vectors; a JSON file
`{"NAME": {"input_min": ..., "input_max": ...}}` with numbers or lists of numbers.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.op.params import STORAGE, floats_of
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.strict_json import parse_object
from qdqcli.tensors.tensor import TensorInfo

Range = tuple[NDArray[np.float64], NDArray[np.float64]]
"""input_min and input_max: scalars for all slices, or vectors with one value per slice."""
_ENDS = ("input_min", "input_max")


def read_ranges(path: Path) -> dict[str, Range]:
    """Read the ranges of all tensors in the file.

    Raises:
        InputError: missing, unreadable or malformed, one end without the other, input_min > input_max or NaN; names the
            file, the tensor and the channel.
    """
    ends = _from_safetensors(path) if path.suffix.lower() == ".safetensors" else _from_json(path)
    with blame(path):
        return {name: _checked(name, found) for name, found in ends.items()}


def _from_safetensors(path: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    checkpoint = open_checkpoint(path)
    if checkpoint.is_folder:
        raise InputError(f"{show_path(path)}: is a folder; ranges are a .safetensors or JSON file")
    (shard,) = checkpoint.shards
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    with shard.open() as reader, blame(path):
        for info in shard.tensors:
            name, _, end = info.name.rpartition(".")
            if end not in _ENDS or not info.dtype.is_floating:
                raise MalformedError(
                    f"'{escape_name(info.name)}' ({info.dtype.name}) is no end of a range; ranges are floating-point "
                    "tensors NAME.input_min and NAME.input_max"
                )
            data = np.empty(info.nbytes, np.uint8)
            if info.nbytes:
                reader.read_into(info, 0, data.data)
            found.setdefault(name, {})[end] = _values(info, data)
    return found


def _values(info: TensorInfo, data: NDArray[np.uint8]) -> NDArray[np.float64]:
    stored = data.view(STORAGE[info.dtype.name]).reshape(info.shape)
    return floats_of(stored).astype(np.float64)


def _from_json(path: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    with InputFile(path) as file:
        content = file.read(0, file.size)
    with blame(path):
        return {name: _ends_of_entry(name, entry) for name, entry in parse_object(content, float).items()}


def _ends_of_entry(name: str, entry: object) -> dict[str, NDArray[np.float64]]:
    if not isinstance(entry, Mapping) or set(entry) != set(_ENDS):
        raise MalformedError(f"the entry of '{escape_name(name)}' is not an object with input_min and input_max alone")
    return {end: _numbers(name, end, entry[end]) for end in _ENDS}


def _numbers(name: str, end: str, value: object) -> NDArray[np.float64]:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in values):
        raise MalformedError(f"{end} of '{escape_name(name)}' is neither a number nor a list of numbers")
    try:
        numbers = np.array(value, np.float64)
    except OverflowError:
        raise MalformedError(f"{end} of '{escape_name(name)}' has a number beyond float64") from None
    finite = np.isfinite(numbers.reshape(-1))
    if not finite.all():  # Python writes NaN and Infinity: name tensor and channel instead of "is not JSON"
        channel = int(np.argmin(finite))
        where = f" channel {channel}" if numbers.ndim else ""
        raise MalformedError(
            f"'{escape_name(name)}'{where}: {end} is {numbers.reshape(-1)[channel]}, which is no JSON number; infinite "
            "ends are for .safetensors"
        )
    return numbers


def _checked(name: str, ends: Mapping[str, NDArray[np.float64]]) -> Range:
    for end in _ENDS:
        if end not in ends:
            raise MalformedError(f"'{escape_name(name)}' has no {end}; a range has both ends")
    low, high = (ends[end] for end in _ENDS)
    if low.shape != high.shape or low.ndim > 1:
        raise MalformedError(
            f"the ends of '{escape_name(name)}' have shapes {list(low.shape)} and {list(high.shape)}; both are "
            "scalars, or vectors of one length"
        )
    in_order = np.atleast_1d(low <= high)
    if not in_order.all():
        channel = int(np.argmin(in_order))
        bad = np.atleast_1d(low)[channel], np.atleast_1d(high)[channel]
        where = f" channel {channel}" if low.ndim else ""
        raise MalformedError(
            f"'{escape_name(name)}'{where}: input_min is {bad[0]} and input_max is {bad[1]}; input_min <= input_max "
            "must hold"
        )
    return low, high
