"""SQNR by layer: a chart with a dot for each tensor in the order of the checkpoint, and a matrix layer by kind."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from qdqcli.report.html.chart import SPAN, Axis, Tick, chart, dots
from qdqcli.report.html.grid import levels_of, shade
from qdqcli.report.html.markup import quote
from qdqcli.report.number import EXACT
from qdqcli.result.group import kind_of, layer_of
from qdqcli.result.result import TensorResult

STATES = ("", "waived", "warn", "error")
"""Verdicts on a tensor, the worst last."""
_WORDS = {"": "kept", "waived": "waived", "warn": "warning", "error": "error"}
_WIDE, _NARROW = 700, 330
"""Least widths of a chart in pixels, on a desktop and on a phone."""
_SMALL_DOTS = 600
"""Number of tensors from which dots are small."""
_MAX_LAYERS, _MAX_KINDS = 200, 60


def chart_by_layer(rows: Sequence[TensorResult], states: Sequence[str], first: int) -> Iterator[str]:
    """Yield the figure; `first` is the index of its first tensor in the table. Lossless tensors are at the top."""
    values = [_sqnr(row) for row in rows]
    limits = [row.bound.limit if row.bound is not None and row.bound.metric == "sqnr_db" else None for row in rows]
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
    dashed = "; dashed: the limit" if any(limit is not None for limit in limits) else ""
    yield "<figcaption>SQNR in dB, higher is better, in the order of the checkpoint; at the upper edge: nothing was "
    yield f"lost, or nothing could be measured{dashed}{legend}</figcaption></figure>"


def matrix(rows: Sequence[TensorResult], states: Sequence[str]) -> Iterator[str]:
    """Yield a table of the lowest SQNR by kind of tensor and layer; nothing where names have no layers."""
    cells: dict[str, dict[int, tuple[float | None, str, str]]] = {}
    for row, state in zip(rows, states, strict=True):
        layer = layer_of(row.source.name)
        number = layer.rpartition(".")[2]
        if not (number.isascii() and number.isdigit() and len(number) < 6):
            continue
        own = cells.setdefault(kind_of(row.source.name), {})
        value, before, _ = own.get(int(number), (None, "", ""))
        found = _sqnr(row)
        known = [one for one in (found, value) if one is not None]
        own[int(number)] = min(known, default=None), max(state, before, key=STATES.index), layer
    columns = sorted({number for own in cells.values() for number in own})
    if not 2 <= len(columns) <= _MAX_LAYERS or not 2 <= len(cells) <= _MAX_KINDS:
        return
    levels = levels_of(value for own in cells.values() for value, _, _ in own.values())
    stems = {kind.partition("*.")[0] for kind in cells}
    stem = stems.pop() if len(stems) == 1 else ""
    of = f" in <code>{quote(stem)}*</code>" if stem else ""
    yield f'<div class="scroll"><table class="matrix"><caption>SQNR in dB by kind of tensor and layer{of}, the lowest '
    yield 'where several share a cell; darker is lower</caption>\n<thead><tr><th scope="col" class="text">kind</th>'
    yield "".join(f'<th scope="col" class="number">{number}</th>' for number in columns)
    yield "</tr></thead>\n<tbody>"
    digits = 1 if len(columns) <= 40 else 0
    for kind, own in cells.items():
        label = kind.removeprefix(f"{stem}*.") if stem else kind
        yield f'<tr><th scope="row" class="name">{quote(label)}</th>{_cells(kind, own, columns, levels, digits)}</tr>'
    yield "</tbody></table></div>"


def _cells(
    kind: str,
    own: Mapping[int, tuple[float | None, str, str]],
    columns: Sequence[int],
    levels: Sequence[float],
    digits: int,
) -> str:
    found = []
    for number in columns:
        if number not in own:
            found.append("<td></td>")
            continue
        value, state, layer = own[number]
        words = f"{layer}. {kind.partition('*.')[2].replace('*', ' ')}"
        text = EXACT if value is None else f"{value:.{digits}f}"
        kinds = f"number {state or shade(levels, value)}".rstrip()
        found.append(f'<td class="{kinds}" data-words="{quote(words)}">{text}</td>')
    return "".join(found)


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
    wide_from, narrow_from = 0.0, 0.0
    for at, label in starts:
        needed = 7 * min(len(label), 16) + 10
        if at < wide_from:
            continue
        wide_from = at + needed / _WIDE
        is_wide_only = at < narrow_from or at + needed / _NARROW > 1
        if not is_wide_only:
            narrow_from = at + needed / _NARROW
        if at + needed / _WIDE <= 1:
            yield Tick(at=at, label=quote(label[:16]), is_wide_only=is_wide_only)


def _label(name: str) -> str:
    """Return a layer's number, else the first component of a name."""
    number = layer_of(name).rpartition(".")[2]
    return number if number.isdigit() else name.partition(".")[0]


def _sqnr(row: TensorResult) -> float | None:
    value = row.stats["sqnr_db"]
    return None if value is None else float(value)
