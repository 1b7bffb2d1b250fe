"""Per-slice metrics of a tensor, which may have hundreds of thousands of channels or groups."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan, nan

from qdqcli.stats.metrics import METRICS, MetricValue

_COUNTS = {name for name, metric in METRICS.items() if metric.unit in ("elements", "slices")}
_shared_names: dict[tuple[str, ...], tuple[str, ...]] = {}


class Channels(Mapping[str, Sequence[MetricValue]]):
    """Metric -> its values, one per channel or group; stored as float64, in a quarter of the memory of lists.

    Raises:
        ValueError: the metrics have different numbers of values.
    """

    __slots__ = ("_names", "_numbers")

    def __init__(self, columns: Mapping[str, Iterable[MetricValue]]) -> None:
        names = tuple(columns)
        self._names = _shared_names.setdefault(names, names)
        self._numbers = array("d")
        for done, values in enumerate(columns.values()):
            before = len(self._numbers)
            self._numbers.extend(nan if value is None else value for value in values)
            if done and len(self._numbers) != before + before // done:
                raise ValueError("metrics with different numbers of values")

    def __getitem__(self, name: str) -> Sequence[MetricValue]:
        try:
            index = self._names.index(name)
        except ValueError:
            raise KeyError(name) from None
        length = len(self._numbers) // len(self._names)
        values = self._numbers[index * length : (index + 1) * length]
        return list(map(int, values)) if name in _COUNTS else [None if isnan(value) else value for value in values]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Channels({dict(self)})"
