"""Charts as SVG that stretch with the page: positions in percent, text and dots of a fixed size.

Any number of dots is one path, whose segments have no length and round ends.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor

SPAN = 1000
"""Units of both axes in paths."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A vertical axis with ticks at integers."""

    low: int
    high: int
    step: int

    @classmethod
    def around(cls, values: Sequence[float]) -> "Axis":
        """Return an axis of at most seven ticks around the values."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 500, 10_000) if (high - low) / step <= 6)
        bottom, top = floor(low / step) * step, ceil(high / step) * step
        return cls(low=bottom, high=max(top, bottom + step), step=step)

    def down(self, value: float) -> float:
        """Return the share of the height between the upper edge and a value."""
        return (self.high - value) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark below the chart."""

    at: float
    """Share of the width."""
    label: str
    is_wide_only: bool = False
    """True where a narrow screen has no room for the label."""


def chart(
    label: str, axis: Axis, ticks: Iterable[Tick], paths: Iterable[str], over: Iterable[str] = ()
) -> Iterator[str]:
    """Yield a chart: `paths` are SVG in units of `SPAN`, `over` is SVG in percent."""
    yield f'<svg class="plot" role="img" aria-label="{label}">'
    for value in range(axis.low, axis.high + 1, axis.step):
        y = f"{axis.down(value):.2%}"
        yield f'<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        yield f'<text x="-8" y="{y}" dy=".32em" text-anchor="end">{value}</text>'
    for tick in ticks:
        wide = " wide" if tick.is_wide_only else ""
        yield f'<line class="rule{wide}" x1="{tick.at:.2%}" x2="{tick.at:.2%}" y1="0" y2="100%"/>'
        yield f'<text class="tick{wide}" x="{tick.at:.2%}" y="100%" dx="3" dy="1.3em">{tick.label}</text>'
    yield f'<svg viewBox="0 0 {SPAN} {SPAN}" preserveAspectRatio="none" width="100%" height="100%">'
    yield from paths
    yield "</svg>"
    yield from over
    yield "</svg>"


def dots(kind: str, points: Iterable[tuple[float, float]]) -> Iterator[str]:
    """Yield one path with a dot for each (x, y), which are shares of width and height; nothing without points."""
    marks = [f"M{SPAN * x:.1f} {SPAN * y:.0f}h0" for x, y in points]
    if marks:
        yield f'<path class="dots {kind}" d="{"".join(marks)}"/>'


def line(kind: str, points: Iterable[tuple[float, float]]) -> str:
    """Return a path through the points, which are shares of width and height."""
    return f'<path class="{kind}" d="M{"L".join(f"{SPAN * x:.1f} {SPAN * y:.1f}" for x, y in points)}"/>'


@dataclass(frozen=True, kw_only=True)
class Point:
    """A labelled point of a scatter chart: size and quality of something."""

    x: float
    """Bits per weight."""
    y: float
    """SQNR in dB."""
    label: str
    """Escaped text."""
    is_faint: bool = False
    is_chosen: bool = False


def scatter(points: Sequence[Point], joined: Sequence[tuple[float, float]], label: str) -> Iterator[str]:
    """Yield a figure of points over bits per weight, with a line through `joined`; `label` names the vertical axis."""
    if not points:
        yield "<p class=quiet>Nothing here has both a size and an error.</p>"
        return
    axis = Axis.around([point.y for point in points])
    left, right = min(point.x for point in points) - 0.5, max(point.x for point in points) + 0.5

    def along(bits: float) -> float:
        return (bits - left) / (right - left)

    span = range(ceil(left), floor(right) + 1)
    step = ceil(len(span) / 12)
    ticks = [Tick(at=along(bits), label=str(bits)) for bits in span[::step]]
    path = [line("line", sorted((along(x), axis.down(y)) for x, y in joined))] if len(joined) > 1 else []
    yield '<figure class="curve">'
    yield from chart(f"{label} over bits per weight", axis, ticks, path, _labelled(points, along, axis))
    yield f"<figcaption>{label} over bits per weight</figcaption></figure>"


def _labelled(points: Sequence[Point], along: Callable[[float], float], axis: Axis) -> Iterator[str]:
    """Yield the points; labels that would overlap appear when pointed at."""
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (not point.is_chosen, point.is_faint, -point.x)):
        x, y = along(point.x), axis.down(point.y)
        kind = "point faint" if point.is_faint else "point chosen" if point.is_chosen else "point"
        yield f'<circle class="{kind}" cx="{x:.2%}" cy="{y:.2%}" r="5"><title>{point.label}: {point.x:.3f} bits per '
        yield f"weight, {point.y:.2f} dB</title></circle>"
        if all(abs(x - other) > 0.12 or abs(y - height) > 0.07 for other, height in taken):
            taken.append((x, y))
            end = x > 0.5
            anchor = f'dx="{-9 if end else 9}" text-anchor="{"end" if end else "start"}"'
            yield f'<text class="label" x="{x:.2%}" y="{y:.2%}" dy="-.5em" {anchor}>{point.label}</text>'
