"""Rows in a journal: exact measurements, without what the plan already holds.

Numbers are packed, integers and floats apart: a checkpoint may have 20,000 tensors, and decimal digits take longer to
write than a small tensor takes to measure.
"""

from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from itertools import islice
from math import isnan, nan
from operator import attrgetter

from qdqcli.plain import JsonObject, Parsed
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.plan import Plan
from qdqcli.result.channels import Channels
from qdqcli.result.result import Row, SkippedTensor, TensorResult
from qdqcli.stats.sums import ErrorSums


def _names(kind: type) -> list[str]:
    return [name for name, default in ErrorSums._field_defaults.items() if type(default) is kind]


_COUNTS, _EXTREMES, _EXPANSIONS = _names(int), _names(float), _names(tuple)
_counts, _extremes, _expansions = attrgetter(*_COUNTS), attrgetter(*_EXTREMES), attrgetter(*_EXPANSIONS)


def record_rows(rows: Sequence[Row]) -> JsonObject:
    """Return the rows as JSON values."""
    ints, floats = array("q"), array("d")
    channels = {}
    for i, row in enumerate(rows):
        if isinstance(row, TensorResult):
            sums, expansions = row.sums, _expansions(row.sums)
            ints.extend((row.num_slices, row.num_zero_slices))
            ints.extend(_counts(sums))
            ints.extend(map(len, expansions))
            floats.append(nan if row.input_min is None else row.input_min)
            floats.append(nan if row.input_max is None else row.input_max)
            floats.extend(_extremes(sums))
            for parts in expansions:
                floats.extend(parts)
            if row.channels is not None:
                channels[str(i)] = dict(row.channels)
    packed = {"ints": b64encode(ints).decode(), "floats": b64encode(floats).decode()}
    return {"rows": len(rows)} | packed | ({"channels": channels} if channels else {})


def restore_rows(record: Parsed, plan: Plan, first: int, scale_bits: int) -> list[Row]:
    """Return the recorded rows of the plan's tensors from index `first` on."""
    ints, floats = array("q", b64decode(record["ints"])), array("d", b64decode(record["floats"]))
    numbers = iter(ints), iter(floats)
    rows: list[Row] = []
    for i, (tensor, decision) in enumerate(islice(plan.tensors, first, first + record["rows"])):
        source = plan.source_of(tensor)
        if isinstance(decision, Skip):
            rows.append(
                SkippedTensor(
                    source=source,
                    num_elements=tensor.num_elements,
                    reason=decision.reason,
                    is_selected=decision.is_selected,
                )
            )
        else:
            found = record.get("channels", {}).get(str(i))
            channels = found and Channels(found)
            measured = _read(*numbers)
            rows.append(
                TensorResult(source=source, spec=decision, scale_bits=scale_bits, channels=channels, **measured)
            )
    return rows


def _read(ints: Iterator[int], floats: Iterator[float]) -> JsonObject:
    num_slices, num_zero_slices = next(ints), next(ints)
    counts = {name: next(ints) for name in _COUNTS}
    lengths = {name: next(ints) for name in _EXPANSIONS}
    low, high = (None if isnan(end) else end for end in (next(floats), next(floats)))
    extremes = {name: next(floats) for name in _EXTREMES}
    expansions = {name: tuple(islice(floats, lengths[name])) for name in _EXPANSIONS}
    numbers: JsonObject = {**counts, **extremes, **expansions}
    return {
        "num_slices": num_slices,
        "num_zero_slices": num_zero_slices,
        "input_min": low,
        "input_max": high,
        "sums": ErrorSums(**numbers),
    }
