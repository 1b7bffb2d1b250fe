"""HTML report of a sweep, without scripts: settings, rate-distortion curve, heat map of tensors by settings."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from math import isfinite

from qdqcli.recipe.sweep import Sweep
from qdqcli.report.html.page import quote
from qdqcli.report.sweep import columns, columns_by_tensor
from qdqcli.report.table import Column
from qdqcli.result.result import RunResult

_WIDTH, _HEIGHT, _MARGIN = 860, 380, 56
_LEVELS_DB = (5, 10, 15, 20, 25, 30, 35, 40, 45)
"""Lower bounds of the heat map's levels above the first, in dB of SQNR."""
_STYLE = """
.curve text{font-size:11px;fill:currentColor}
.curve .axis{stroke:currentColor;stroke-opacity:.35}
.curve .grid{stroke:currentColor;stroke-opacity:.12}
.curve .front{fill:none;stroke:#2b6cb0;stroke-width:2}
.curve circle{fill:#2b6cb0}.curve .dominated{fill:#8a8f98}
tr.dominated td{opacity:.55}
th{padding-right:.7rem;white-space:nowrap}
td.h0{background:#7f1d1d;color:#fff}td.h1{background:#b91c1c;color:#fff}td.h2{background:#dc5f2b;color:#fff}
td.h3{background:#e9a13b;color:#111}td.h4{background:#f2d16b;color:#111}td.h5{background:#d9e39a;color:#111}
td.h6{background:#b3d98b;color:#111}td.h7{background:#83c47a;color:#111}td.h8{background:#4fa66b;color:#fff}
td.h9{background:#1f7a4d;color:#fff}
"""


def page(sweep: Sweep) -> Iterator[str]:
    """Yield the page, line by line."""
    style = files("qdqcli.report.html").joinpath("page.css").read_text(encoding="ascii") + _STYLE
    digest = b64encode(sha256(style.encode()).digest()).decode()
    inputs = ", ".join(map(quote, sweep.results[0].inputs))
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield '<meta http-equiv="Content-Security-Policy" content="'
    yield f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'\">\n"
    yield f"<title>Sweep: {inputs}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    yield f"<header><h1>Sweep of settings</h1>\n<div class=quiet><code>qdq sweep</code> on {inputs}</div></header>\n"
    yield "<main>\n"
    yield "<h2>Settings</h2>\n"
    yield from _table(columns(sweep, quote), ["dominated" if d else "" for d in sweep.dominated()])
    yield "<h2>Error and size</h2>\n"
    yield from _curve(sweep)
    yield "<h2>SQNR in dB, tensors by settings</h2>\n"
    yield from _heat_map(columns_by_tensor(sweep, quote))
    yield f"</main>\n<footer>qdq {quote(sweep.results[0].version)}</footer>\n</body>\n</html>\n"


def _table(shown: Sequence[Column], classes: Sequence[str]) -> Iterator[str]:
    yield '<div class="scroll"><table>\n<thead><tr>'
    yield "".join(f'<th scope="col" class="{_kind(column)}">{column.title}</th>' for column in shown)
    yield "</tr></thead>\n<tbody>\n"
    for name, cells in zip(classes, zip(*(column.cells for column in shown), strict=True), strict=True):
        tds = "".join(f'<td class="{_kind(c)}">{cell}</td>' for c, cell in zip(shown, cells, strict=True))
        yield f'<tr class="{name}">{tds}</tr>\n'
    yield "</tbody></table></div>\n"


def _kind(column: Column) -> str:
    return "number" if column.is_number else "text"


def _heat_map(shown: Sequence[Column]) -> Iterator[str]:
    names, *settings = shown
    yield '<div class="scroll"><table>\n<thead><tr><th scope="col" class="text">tensor</th>'
    yield "".join(f'<th scope="col" class="number">{column.title}</th>' for column in settings)
    yield "</tr></thead>\n<tbody>\n"
    for name, *cells in zip(names.cells, *(column.cells for column in settings), strict=True):
        tds = "".join(f'<td class="number {_level(cell)}">{cell}</td>' for cell in cells)
        yield f'<tr><td class="text">{name}</td>{tds}</tr>\n'
    yield "</tbody></table></div>\n"


def _level(cell: str) -> str:
    """Return the class of a cell: h0 (below 5 dB) to h9 (45 dB and more); none where there is no number."""
    try:
        value = float(cell)
    except ValueError:
        return "h9" if cell == "exact" else ""
    return f"h{sum(value >= level for level in _LEVELS_DB)}"


def _curve(sweep: Sweep) -> Iterator[str]:
    """Yield an SVG of SQNR over bits per weight; a line joins the non-dominated settings."""
    points = [
        (found[0], found[1], setting.name, is_dominated)
        for setting, result, is_dominated in zip(sweep.settings, sweep.results, sweep.dominated(), strict=True)
        for found in [_point(result)]
        if found is not None
    ]
    if not points:
        yield "<p class=quiet>No setting has both a size and an error.</p>\n"
        return
    left, right = min(p[0] for p in points) - 0.5, max(p[0] for p in points) + 0.5
    low, high = min(p[1] for p in points) - 3, max(p[1] for p in points) + 3

    def x(bits: float) -> float:
        return _MARGIN + (bits - left) / (right - left) * (_WIDTH - 2 * _MARGIN)

    def y(db: float) -> float:
        return _HEIGHT - _MARGIN - (db - low) / (high - low) * (_HEIGHT - 2 * _MARGIN)

    yield f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="SQNR over bits per weight">\n'
    bottom, end = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    yield f'<path class="axis" d="M{_MARGIN} {_MARGIN}V{bottom}H{end}" fill="none"/>\n'
    for mark in range(int(left) + 1, int(right) + 1):
        yield f'<path class="grid" d="M{x(mark):.1f} {_MARGIN}V{bottom}"/>'
        yield f'<text x="{x(mark):.1f}" y="{bottom + 16}" text-anchor="middle">{mark}</text>\n'
    for mark in range(-(-int(low) // 6) * 6, int(high) + 1, 6):
        yield f'<path class="grid" d="M{_MARGIN} {y(mark):.1f}H{end}"/>'
        yield f'<text x="{_MARGIN - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark}</text>\n'
    yield f'<text x="{end}" y="{bottom + 34}" text-anchor="end">bits per weight</text>'
    yield f'<text x="{_MARGIN}" y="{_MARGIN - 12}">SQNR in dB</text>\n'
    front = sorted((p[0], p[1]) for p in points if not p[3])
    yield f'<polyline class="front" points="{" ".join(f"{x(bits):.1f},{y(db):.1f}" for bits, db in front)}"/>\n'
    labelled = _apart([(x(p[0]), y(p[1]), p[2]) for p in points if not p[3]])
    for bits, db, name, is_dominated in points:
        kind = "dominated" if is_dominated else "best"
        yield f'<circle class="{kind}" cx="{x(bits):.1f}" cy="{y(db):.1f}" r="4">'
        yield f"<title>{name}: {bits:.3f} bits per weight, {db:.2f} dB</title></circle>"
        if name in labelled:
            yield f'<text x="{x(bits) - 7:.1f}" y="{y(db) - 7:.1f}" text-anchor="end">{name}</text>'
        yield "\n"
    yield "</svg>\n"


def _apart(labels: Sequence[tuple[float, float, str]]) -> set[str]:
    """Return the names whose labels do not overlap, from the right; others appear on hover."""
    kept: list[tuple[float, float, str]] = []
    for left, top, name in sorted(labels, reverse=True):
        if all(abs(top - other) > 14 or right - left > 110 for right, other, _ in kept):
            kept.append((left, top, name))
    return {name for _, _, name in kept}


def _point(result: RunResult) -> tuple[float, float] | None:
    """Return (bits per weight, SQNR in dB), where both are numbers."""
    bits, sqnr = result.summary["bits_per_weight"], result.summary["sqnr_db"]
    return None if bits is None or sqnr is None or not isfinite(sqnr) else (float(bits), float(sqnr))
