"""SQNR by layer: a chart with a dot for each tensor in the order of the checkpoint, and a matrix layer by kind."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from qdqcli.report.html.chart import SPAN, Axis, Tick, chart, dots
from qdqcli.report.html.grid import levels_of, shade
from qdqcli.report.html.markup import quote
from qdqcli.report.number import EXACT, NO_NUMBER
from qdqcli.result.group import kind_of, layer_of
from qdqcli.result.result import TensorResult

STATES = ("", "waived", "warn", "error")
"""Verdicts on a tensor, the worst last."""
_WORDS = {"": "kept", "waived": "waived", "warn": "warning", "error": "error"}
_WIDE, _NARROW = 700, 330
"""Least widths of a chart in pixels, on a desktop and on a phone."""
_SMALL_DOTS = 600
"""Number of tensors from which dots are small."""
_MAX_DB = 1000
"""Largest limit that is drawn: float32 has 144 dB."""
_ROOMY = 30
"""Most layers whose cells have decimals."""
_MAX_LAYERS, _MAX_KINDS = 200, 60


def chart_by_layer(rows: Sequence[TensorResult], states: Sequence[str], first: int) -> Iterator[str]:
    """Yield the figure; `first` is the index of its first tensor in the table. Lossless tensors are at the top."""
    values = [_sqnr(row) for row in rows]
    limits = [_limit(row) for row in rows]
    axis = Axis.around([value for value in (*values, *limits) if value is not None])
    is_judged = any(states) or any(limit is not None for limit in limits)
    count = len(rows)

    def points(state: str) -> Iterator[tuple[float, float]]:
        for index, (value, own) in enumerate(zip(values, states, strict=True)):
            if own == state:
                yield (index + 0.5) / count, 0.0 if value is None else axis.down(value)

    small = " small" if count > _SMALL_DOTS else ""
    paths = [path for state in STATES for path in dots(f"{state or 'plain'}{small}", points(state))]
    yield f'<figure class="layers" data-first="{first}" data-count="{count}" data-low="{axis.low}" '
    yield f'data-high="{axis.high}">'
    yield from chart(f"SQNR of {count:,} tensors in dB", axis, _ticks(rows), [*_limit_line(limits, axis), *paths])
    yield '<p class="tip quiet" aria-live="polite"></p>'
    keys = [f'<span class="{state or "plain"}">{_WORDS[state]}</span>' for state in reversed(STATES) if state in states]
    legend = f"; {', '.join(keys)}" if is_judged and len(keys) > 1 else ""
    edge = "; at the upper edge: nothing was lost, or nothing could be measured" if None in values else ""
    dashed = "; dashed: the limit" if any(limit is not None for limit in limits) else ""
    order = "SQNR in dB, higher is better, in the order of the checkpoint"
    yield f"<figcaption>{order}{edge}{dashed}{legend}</figcaption></figure>"


def matrix(rows: Sequence[TensorResult], states: Sequence[str]) -> Iterator[str]:
    """Yield a table of the lowest SQNR by kind of tensor and layer; nothing where names have no layers."""
    marks = (
        Mark(row.source.name, _sqnr(row), EXACT if row.is_unchanged else NO_NUMBER, state)
        for row, state in zip(rows, states, strict=True)
    )
    yield from matrix_of(marks, "SQNR in dB", digits=1)


class Mark(NamedTuple):
    """A tensor in a matrix."""

    name: str
    value: float | None
    without: str
    """Text where the value is None."""
    state: str = ""
    """One of `STATES`."""


class _Cell(NamedTuple):
    value: float | None
    without: str
    state: str
    layer: str


def matrix_of(marks: Iterable[Mark], title: str, *, digits: int) -> Iterator[str]:
    """Yield a table by kind of tensor and layer, the lowest of a cell's values; nothing where names have no layers."""
    kinds: dict[str, dict[int, _Cell]] = {}
    for mark in marks:
        layer = layer_of(mark.name)
        number = layer.rpartition(".")[2]
        if not (number.isascii() and number.isdigit() and len(number) < 6):
            continue
        own = kinds.setdefault(kind_of(mark.name), {})
        before = own.get(int(number), _Cell(None, mark.without, "", layer))
        known = [value for value in (mark.value, before.value) if value is not None]
        state = max(mark.state, before.state, key=STATES.index)
        own[int(number)] = _Cell(min(known, default=None), mark.without, state, layer)
    columns = sorted({number for own in kinds.values() for number in own})
    if not 2 <= len(columns) <= _MAX_LAYERS or not 2 <= len(kinds) <= _MAX_KINDS:
        return
    levels = levels_of(cell.value for own in kinds.values() for cell in own.values())
    stems = {kind.partition("*.")[0] for kind in kinds}
    stem = stems.pop() if len(stems) == 1 else ""
    of = f" in <code>{quote(stem)}*</code>" if stem else ""
    yield '<div class="scroll" tabindex="0"><table class="matrix">'
    yield f"<caption>{title} by kind of tensor and layer{of}, the lowest where several share a cell; bluer is lower"
    yield '</caption>\n<thead><tr><th scope="col" class="text">kind</th>'
    yield "".join(f'<th scope="col" class="number">{number}</th>' for number in columns)
    yield "</tr></thead>\n<tbody>"
    for kind, own in kinds.items():
        label = kind.removeprefix(f"{stem}*.") if stem else kind
        places = digits if len(columns) <= _ROOMY else 0
        cells = [_cell_html(kind, own.get(number), levels, places) for number in columns]
        yield f'<tr><th scope="row" class="name">{quote(label)}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def _cell_html(kind: str, cell: _Cell | None, levels: Sequence[float], digits: int) -> str:
    if cell is None:
        return "<td></td>"
    words = quote(f"{cell.layer}. {kind.partition('*.')[2].replace('*', ' ')}")
    text = cell.without if cell.value is None else f"{cell.value:.{digits}f}"
    shown = cell.state or shade(levels, cell.value)
    return f'<td class="number {shown}" data-words="{words}">{text}</td>'


def _limit_line(limits: Sequence[float | None], axis: Axis) -> Iterator[str]:
    """Yield a path that is level over neighbours with the same limit."""
    width, at, parts = SPAN / max(len(limits), 1), 0, []
    for limit, group in groupby(limits):
        end = at + sum(1 for _ in group)
        if limit is not None:
            parts.append(f"M{width * at:.1f} {SPAN * axis.down(limit):.1f}H{width * end:.1f}")
        at = end
    if parts:
        yield f'<path class="limit" d="{"".join(parts)}"/>'


def _ticks(rows: Sequence[TensorResult]) -> Iterator[Tick]:
    """Yield the start of each layer, labelled where there is room."""
    starts = []
    for label, group in groupby(enumerate(rows), key=lambda pair: _label(pair[1].source.name)):
        starts.append((next(group)[0] / len(rows), label))
    on_wide: list[tuple[float, float]] = []
    on_narrow: list[tuple[float, float]] = []
    for at, label in sorted(starts, key=lambda start: not start[1].isdigit()):  # numbers of layers first
        pixels = 7 * min(len(label), 16) + 10
        wide, narrow = (at, at + pixels / _WIDE), (at, at + pixels / _NARROW)
        if _is_free(wide, on_wide):
            on_wide.append(wide)
            is_wide_only = not _is_free(narrow, on_narrow)
            on_narrow += [] if is_wide_only else [narrow]
            yield Tick(at=at, label=quote(label[:16]), is_wide_only=is_wide_only)


def _is_free(place: tuple[float, float], taken: Sequence[tuple[float, float]]) -> bool:
    return place[1] <= 1 and all(place[1] <= start or end <= place[0] for start, end in taken)


def _label(name: str) -> str:
    """Return a layer's number, else the first component of a name."""
    number = layer_of(name).rpartition(".")[2]
    return number if number.isdigit() else name.partition(".")[0]


def _limit(row: TensorResult) -> float | None:
    """Return the limit on the SQNR, if any that can be drawn."""
    bound = row.bound
    return bound.limit if bound is not None and bound.metric == "sqnr_db" and abs(bound.limit) <= _MAX_DB else None


def _sqnr(row: TensorResult) -> float | None:
    value = row.stats["sqnr_db"]
    return None if value is None else float(value)
