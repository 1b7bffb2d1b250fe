"""Untrusted text in HTML and in the page's data, and small tables."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape as html_escape

from qdqcli.report.escape import NO_NAME, json_text, shorten, visible
from qdqcli.report.table import MAX_NAME, Column


def quote(text: str) -> str:
    """Shorten and escape untrusted text for content and for quoted attributes."""
    return in_html(plain(text))


def plain(text: str) -> str:
    """Shorten untrusted text and make all of it visible; not yet escaped for HTML."""
    return shorten(visible(text), MAX_NAME) or NO_NAME


def in_html(text: str) -> str:
    """Escape visible text for content and for quoted attributes."""
    return html_escape(text.replace("##", "#\\x23"))


def script_text(value: object) -> str:
    """Return JSON without sequences that HTML parsers take for an end tag or a comment."""
    return json_text(value).replace("<", "\\u003c").replace(", ", ",").replace('": ', '":')


def static_table(shown: Sequence[Column]) -> Iterator[str]:
    """Yield a small table whose cells are escaped already; its first column heads the rows."""
    yield '<div class="scroll" tabindex="0"><table>\n<thead><tr>'
    yield "".join(f'<th scope="col" class="{_kind(column)}">{column.title}</th>' for column in shown)
    yield "</tr></thead>\n<tbody>"
    for name, *cells in zip(*(column.cells for column in shown), strict=True):
        tds = "".join(f'<td class="{_kind(c)}">{cell}</td>' for c, cell in zip(shown[1:], cells, strict=True))
        yield f'<tr><th scope="row" class="name">{name}</th>{tds}</tr>'
    yield "</tbody></table></div>"


def cards_html(cards: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield figures that stand out: title, value and remark, all escaped already."""
    yield '<dl class="cards">'
    for title, value, remark in cards:
        more = f"<dd class=quiet>{remark}</dd>" if remark else ""
        yield f"<div><dt>{title}</dt><dd>{value}</dd>{more}</div>"
    yield "</dl>"


def _kind(column: Column) -> str:
    return "number" if column.is_number else "text"
