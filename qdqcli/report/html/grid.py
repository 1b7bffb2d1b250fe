"""Table of any number of rows: the first ones as HTML, all of them as compact data for the script.

The script makes rows on demand, sorts and filters; without it, and in print, the first rows are there. Numbers are
rounded to what is shown and a little more, so that 8,000 rows take less than 2 MB.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape as html_escape
from typing import Generic, Literal, TypeVar

from qdqcli.report.html.markup import in_html, script_text
from qdqcli.report.number import EXACT, NO_NUMBER, percent, significant

Form = Literal["text", "prose", "db", "signed", "signed3", "percent", "count", "fixed3", "fixed6", "digits"]
"""How a value is shown: `prose` on lines of its own, `signed` with a sign, `digits` three significant ones.

The script has the same functions.
"""
Value = str | float | None
"""None: no number. Text in a column of numbers, as `exact`, ranks above all numbers."""
T = TypeVar("T")

STATIC_ROWS = 100
"""Rows that the page has without its script."""
_PIECE = 2048
_MAX_DISTINCT = 1024


@dataclass(frozen=True, kw_only=True)
class Field(Generic[T]):
    """One column: how to get a row's value, and how to show and sort it."""

    name: str
    title: str
    form: Form
    value: Callable[[T], Value]
    worst: Literal["ascending", "descending"] = "descending"
    """Direction that puts the worst first."""
    is_shown: bool = True
    """False for a value that only an opened row shows."""
    levels: Sequence[float] = ()
    """Ascending bounds of the shades of a cell, dark below the first."""


@dataclass(frozen=True, kw_only=True)
class Grid(Generic[T]):
    """Rows with their columns; the first column is the row's name, one called `verdict` colours the row."""

    noun: str
    """What a row is, in the plural."""
    rows: Sequence[T]
    order: Sequence[int]
    """Indices of rows in the order that is shown first."""
    fields: Sequence[Field[T]]
    sort: str = ""
    """Name of the column that `order` goes by."""
    in_every_row: Sequence[str] = ()
    """Titles with values that all rows share."""
    details: Callable[[int], Iterator[str]] | None = None
    """Yields the JSON of an opened row's pictures, by index; None: rows do not open."""


def shared(fields: Iterable[Field[T]], rows: Sequence[T], kept: Sequence[str]) -> tuple[list[Field[T]], list[str]]:
    """Hide columns with the same value in every row, apart from `kept`; also return their titles with the value."""
    found, said = [], []
    for column in fields:
        values = {column.value(row) for row in rows} if column.is_shown and column.name not in kept else ()
        is_shared = len(values) == 1 and len(rows) > 1
        found.append(replace(column, is_shown=False) if is_shared else column)
        said += [f"{column.title} {show(column.form, value)}" for value in values if is_shared]
    return found, said


def grid_html(grid: Grid[T]) -> Iterator[str]:
    """Yield the table with its first rows."""
    if grid.in_every_row:
        yield f"<p class=quiet>In every row: {in_html('; '.join(grid.in_every_row))}.</p>"
    hidden = len(grid.order) - STATIC_ROWS
    more = f"The first {STATIC_ROWS} of {len(grid.order):,} {grid.noun}; " if hidden > 0 else ""
    yield f"<noscript><p class=quiet>{more}sorting, filters and pictures need JavaScript.</p></noscript>"
    yield f'<div class="scroll" tabindex="0"><table id="rows" aria-label="{html_escape(grid.noun)}">\n<thead><tr>'
    shown = [column for column in grid.fields if column.is_shown]
    for column in shown:
        now = f' aria-sort="{column.worst}"' if column.name == grid.sort else ""
        yield f'<th scope="col" class="{_kind(column.form)}"{now}>{html_escape(column.title)}</th>'
    yield "</tr></thead>\n<tbody>"
    for index in grid.order[:STATIC_ROWS]:
        row = grid.rows[index]
        first, *others = ((column, rounded(column.form, column.value(row))) for column in shown)
        cells = [f'<th scope="row" class="name">{in_html(show("text", first[1]))}</th>']
        kinds = []
        for column, value in others:
            kinds += [f' class="{value}"'] if column.name == "verdict" and value else []
            cells.append(f'<td class="{_class(column, value)}">{in_html(show(column.form, value))}</td>')
        yield f'<tr id="t{index}"{"".join(kinds)}>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"


def grid_json(grid: Grid[T]) -> Iterator[str]:
    """Yield a JSON object with all rows, column by column."""
    yield f'{{"noun":{script_text(grid.noun)},"sort":{script_text(grid.sort)},"count":{len(grid.rows)},"order":'
    yield from _pieces(grid.order)
    yield ',"columns":['
    for number, column in enumerate(grid.fields):
        head = {"name": column.name, "title": column.title, "form": column.form, "worst": column.worst,
                "shown": column.is_shown, "levels": list(column.levels)}  # fmt: skip
        yield f"{',' if number else ''}{script_text(head)[:-1]},"
        yield from _values([rounded(column.form, column.value(row)) for row in grid.rows])
        yield "}"
    yield "]"
    if grid.details is not None:
        yield ',"details":{'
        separator = ""
        for index in range(len(grid.rows)):
            for piece in grid.details(index):
                yield f'{separator}"{index}":{piece}'
                separator = ","
        yield "}"
    yield "}"


def rounded(form: Form, value: Value) -> Value:
    """Round a number to the digits that its form shows, and some more to sort by."""
    if value is None or isinstance(value, str | int):
        return value
    match form:
        case "db" | "signed" | "signed3" | "fixed3":
            return round(value, 6)
        case "fixed6":
            return round(value, 7)
    return float(f"{value:.5g}")


def show(form: Form, value: Value) -> str:
    """Return a value as text: like the tables of other formats."""
    if value is None:
        return NO_NUMBER
    if isinstance(value, str):
        return value
    match form:
        case "db":
            return f"{value:.2f}"
        case "signed":
            return f"{value:+.2f}"
        case "signed3":
            return f"{value:+.3f}"
        case "percent":
            return percent(value)
        case "fixed3":
            return f"{value:.3f}"
        case "fixed6":
            return f"{value:.6f}"
        case "count":
            return f"{value:,}"
    return significant(value)


def shade(levels: Sequence[float], value: Value) -> str:
    """Return the class of a shaded cell: q0, the darkest, to q8; none where there is no number."""
    if value == EXACT:
        return f"q{len(levels)}"
    return "" if value is None or isinstance(value, str) else f"q{sum(value >= level for level in levels)}"


def levels_of(values: Iterable[Value]) -> list[float]:
    """Return seven bounds of equal steps between the lowest and the highest number; none where all are equal."""
    known = sorted(value for value in values if value is not None and not isinstance(value, str))
    if not known or known[0] == known[-1]:
        return []
    return [known[0] + (known[-1] - known[0]) * step / 8 for step in range(1, 8)]


def _class(column: Field[T], value: Value) -> str:
    own = shade(column.levels, value) if column.levels else "verdict" if column.name == "verdict" else ""
    return f"{_kind(column.form)} {own}".rstrip()


def _kind(form: Form) -> str:
    return "text" if form == "text" else "number"


def _values(values: Sequence[Value]) -> Iterator[str]:
    """Yield the values: one for all, a list of distinct ones with an index each, or all."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        yield f'"all":{script_text(distinct[0])}'
    elif len(distinct) <= min(len(values) // 4, _MAX_DISTINCT):
        number_of = {value: number for number, value in enumerate(distinct)}
        yield f'"of":{script_text(distinct)},"at":'
        yield from _pieces([number_of[value] for value in values])
    else:
        yield '"each":'
        yield from _pieces(values)


def _pieces(values: Sequence[Value]) -> Iterator[str]:
    yield "["
    for start in range(0, len(values), _PIECE):
        yield ("," if start else "") + script_text(list(values[start : start + _PIECE]))[1:-1]
    yield "]"
