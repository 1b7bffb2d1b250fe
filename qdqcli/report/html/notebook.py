"""Small tables that a notebook shows."""

from collections.abc import Iterable, Sequence
from html import escape

from qdqcli.report.escape import visible
from qdqcli.report.table import Column


def quoted(text: str) -> str:
    """Escape untrusted text for HTML."""
    return escape(visible(text))


def table_html(columns: Sequence[Column]) -> str:
    """Return a table; its cells are visible text, not yet escaped for HTML."""
    head = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    rows = zip(*(column.cells for column in columns), strict=True)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts_html(facts: Iterable[Sequence[str]]) -> str:
    """Return a table of labels and values, visible text both."""
    rows = "".join(f"<tr><th>{escape(label)}</th><td>{escape(value)}</td></tr>" for label, value in facts)
    return f"<table>{rows}</table>"
