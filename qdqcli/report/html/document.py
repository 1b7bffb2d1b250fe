"""Shell of every HTML page: one file that asks nothing of a network, with the same style and script.

The browser runs only the script and the style whose digests the page's Content-Security-Policy names.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from importlib.resources import files

from qdqcli.report.html.grid import Grid, T, grid_json
from qdqcli.report.html.markup import quote
from qdqcli.report.summary import few

_CSP = "default-src 'none'; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"


def document(
    title: str, command: str, inputs: Sequence[str], version: str, main: Iterable[str], grid: Grid[T]
) -> Iterator[str]:
    """Yield a page; `main` is HTML, which has the table of `grid` where it has rows."""
    style, script = f"\n{_asset('page.css')}", f"\n{_asset('page.js')}"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    policy = _CSP.format(style=_digest(style), script=_digest(script))
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield f"<title>{title}: {quote(inputs[0]) if inputs else ''}</title>\n"
    yield f"<style>{style}</style>\n</head>\n<body>\n"
    yield f"<header><h1>{title}</h1>\n<p class=quiet><code>qdq {quote(command)}</code> on {few(inputs, quote)}</p>"
    yield "</header>\n<main>\n"
    for piece in main:
        yield f"{piece}\n"
    yield f"</main>\n<footer>qdq {quote(version)}. e = y - x, in the tensor's own unit.</footer>\n"
    yield '<script type="application/json" id="data">{"grid":'
    yield from grid_json(grid) if grid.rows else ("null",)
    yield f"}}</script>\n<script>{script}</script>\n</body>\n</html>\n"


def _digest(text: str) -> str:
    """Return the Content-Security-Policy source of a script or style with this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("qdqcli.report.html").joinpath(name).read_text(encoding="ascii")
