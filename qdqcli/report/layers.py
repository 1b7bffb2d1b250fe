"""SQNR by layer as a picture: a dot for each tensor, in the order of the checkpoint. Low dots are fragile layers."""

from collections.abc import Iterator, Sequence
from math import ceil, floor

from qdqcli.report.number import row_text
from qdqcli.report.table import Quote
from qdqcli.result.result import TensorResult

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 1200, 260, 44, 12, 24
_LOW_SHARE = 0.1
"""Share of the lowest dots, which are drawn in the colour of errors."""


def layers_svg(rows: Sequence[TensorResult], quote: Quote) -> Iterator[str]:
    """Yield the figure. Lossless tensors, whose SQNR has no number, are at the upper edge."""
    values = [row.stats["sqnr_db"] for row in rows]
    known = sorted(value for value in values if value is not None)
    low, high, step = _axis(known)
    span = _HEIGHT - _TOP - _BOTTOM
    limit = known[max(ceil(len(known) * _LOW_SHARE) - 1, 0)] if known else low
    yield f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group" aria-label="SQNR of each tensor in dB">'
    for tick in range(low, high + 1, step):
        y = _TOP + span * (high - tick) / (high - low)
        yield f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>'
    room = (_WIDTH - _LEFT - 16) / max(len(rows), 1)
    radius = min(max(room / 2.2, 1.8), 5.0)
    for index, (row, value) in enumerate(zip(rows, values, strict=True)):
        x = _LEFT + 8 + room * (index + 0.5)
        y = _TOP if value is None else _TOP + span * (high - value) / (high - low)
        kind = "dot low" if value is not None and value <= limit and len(known) > 1 else "dot"
        text = f"{quote(row.source.name)}: {row_text('sqnr_db', row)}{'' if value is None else ' dB'}"
        yield (
            f'<a href="#t{index}"><circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>{text}</title></circle></a>"
        )
    yield f'<text x="{_LEFT + 8}" y="{_HEIGHT - 6}">first tensor</text>'
    yield f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">last tensor</text>'
    yield "</svg><figcaption>dB, higher is better; at the upper edge: no element changed, or nothing to measure; "
    yield "the lowest tenth in red; a dot opens its tensor below</figcaption></figure>"


def _axis(known: Sequence[float]) -> tuple[int, int, int]:
    """Return lower bound, upper bound and step of integer ticks around the values."""
    low, high = (known[0], known[-1]) if known else (0.0, 1.0)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 500, 10_000) if (high - low) / step <= 6)
    bottom, top = floor(low / step) * step, ceil(high / step) * step
    return bottom, max(top, bottom + step), step
