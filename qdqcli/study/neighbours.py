"""Layers that differ from their neighbours: tensors of one kind whose SQNR leaves the course over the layers."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from statistics import fmean, median

from qdqcli.result.group import kind_of, layer_of
from qdqcli.result.result import TensorResult
from qdqcli.study.causes import level

LEAST_LAYERS = 6
"""Fewest layers of a kind: a course and something that leaves it."""
MIN_Z = 3.5
"""Least deviation in trimmed standard deviations: one of 2,000 normal values."""
LEAST_SPREAD_DB = 0.5
"""Least standard deviation that is reckoned with: even courses have no outliers below 1.75 dB."""
_LAYER = re.compile("[0-9]{1,9}")
"""The number of a layer; thousands of digits, as a hostile name has, are none."""
_REACH = 2
"""Neighbours on either side."""
_TRIMMED = 0.2
"""Share of the deviations left out at either end of the order."""
_NORMAL = 0.463
"""Standard deviation of what is left of normal data without a fifth at either end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbour:
    """A tensor unlike those of its kind in the layers around it."""

    row: TensorResult
    sqnr_db: float
    around_db: float
    """Expected SQNR: the median of its kind in the two layers on either side, apart from the usual change by layer."""
    z: float
    """Deviation from them in standard deviations of its kind, by trimmed moments."""


def unlike_neighbours(rows: Iterable[TensorResult]) -> list[Neighbour]:
    """Return the tensors unlike their neighbours, the largest deviation first.

    A layer is the first number in a name; of tensors of one kind in a layer, such as experts, the lowest counts.
    """
    kinds: dict[str, dict[int, TensorResult]] = {}
    for row in rows:
        number = layer_of(row.source.name).rpartition(".")[2]
        if _LAYER.fullmatch(number) and isfinite(level(row)):
            own = kinds.setdefault(kind_of(row.source.name), {})
            before = own.get(int(number))
            own[int(number)] = row if before is None else min(before, row, key=level)
    courses = [[own[number] for number in sorted(own)] for own in kinds.values() if len(own) >= LEAST_LAYERS]
    found = [one for course in courses for one in _of_course(course)]
    return sorted(found, key=lambda one: (-abs(one.sqnr_db - one.around_db), one.row.source))


def _of_course(rows: Sequence[TensorResult]) -> Iterator[Neighbour]:
    """Yield the outliers among the tensors of one kind, by layer."""
    slope = median(after - before for before, after in pairwise(map(level, rows)))  # edges have neighbours on one side
    trend = [slope * k for k in range(len(rows))]
    levels = [level(row) - change for row, change in zip(rows, trend, strict=True)]
    around = [median([*levels[max(k - _REACH, 0) : k], *levels[k + 1 : k + 1 + _REACH]]) for k in range(len(levels))]
    deviations = [own - other for own, other in zip(levels, around, strict=True)]
    cut = max(round(_TRIMMED * len(rows)), 1)
    middle = sorted(deviations)[cut:-cut]
    mean = fmean(middle)
    spread = max(fmean([(value - mean) ** 2 for value in middle]) ** 0.5 / _NORMAL, LEAST_SPREAD_DB)
    for row, change, other, deviation in zip(rows, trend, around, deviations, strict=True):
        z = (deviation - mean) / spread
        if abs(z) >= MIN_Z:
            yield Neighbour(row=row, sqnr_db=level(row), around_db=other + change, z=z)
