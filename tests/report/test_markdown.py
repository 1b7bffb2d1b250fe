"""Markdown as a renderer of GitHub's dialect sees it."""

from collections.abc import Sequence
from re import findall

from markdown_it import MarkdownIt  # rich needs it
from markdown_it.token import Token

from qdqcli.report.escape import visible
from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult
from tests.report.samples import EVERY_KIND, HOSTILE, NOTES, hostile_run, quantized, run_of


def render(run: RunResult, **options: object) -> str:
    return "".join(formatter("markdown")(run, ReportOptions(**options)))  # type: ignore[arg-type]


def tokens(text: str) -> Sequence[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def tables(text: str) -> list[list[list[Token]]]:
    """Tables of rows of cells, each cell its inline token."""
    found: list[list[list[Token]]] = []
    parsed = tokens(text)
    for token, after in zip(parsed, [*parsed[1:], None], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open") and after is not None:
            found[-1][-1].append(after)
    return found


def test_all_tables_are_tables_with_full_rows() -> None:
    for run in (EVERY_KIND, hostile_run()):
        first, *inputs, last = tables(render(run))
        num_quantized = sum(1 for _ in run.quantized)
        assert len(first) == 1 + num_quantized
        assert {len(row) for row in first} == {len(first[0])}
        assert len(inputs) == (len(run.inputs) > 1)
        assert all({len(row) for row in table} == {len(table[0])} for table in inputs)
        assert {len(row) for row in last} == {2}


def test_every_line_of_a_table_has_as_many_unescaped_pipes() -> None:
    text = render(hostile_run())
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(findall(r"(?<!\\)\|", line)) for line in lines}) <= 1


def test_names_are_shown_as_they_are_and_nothing_in_them_is_markup() -> None:
    names = [name for name in HOSTILE if name.isprintable() and name and len(name) < 100]
    first, _ = tables(render(run_of(*(quantized(name, [1.0], [1.5]) for name in names)), sort="name"))
    shown = []
    for row in first[1:]:
        (only,) = row[0].children or []
        assert only.type == "code_inline"
        shown.append(only.content)
    unescaped = [text.replace("\\x5c", "\\").replace("\\x3a", ":").replace("\\x23", "#") for text in shown]
    assert unescaped == sorted(names)


def test_names_make_no_html_links_or_emphasis_anywhere() -> None:
    kinds = set()
    for token in tokens(render(hostile_run())):
        kinds |= {token.type} | {child.type for child in token.children or ()}
    assert kinds <= {
        *(f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")),
        *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text", "code_inline"),
        *("strong_open", "strong_close"),
    }


def test_long_names_are_cut() -> None:
    assert max(map(len, render(hostile_run()).splitlines())) < 1000


def test_rows_are_ranked_and_cut() -> None:
    text = render(EVERY_KIND, top=2)
    first, _ = tables(text)
    assert [row[0].content for row in first[1:]] == ["`model.nan.weight`", "`model.degenerate.weight`"]
    assert "… and 5 more (--top 0 shows all)" in text
    assert "more (--top" not in render(EVERY_KIND)


def test_the_summary_and_the_warnings_follow() -> None:
    text = render(EVERY_KIND)
    assert "| quantized | 7 tensors |" in text
    assert "| skipped | 1 tensor: `I64 is not a floating-point dtype` |\n|  | 1 tensor: `kept in float` |" in text
    assert text.count("**Warning:**") == 3 + sum(note.is_warning for note in NOTES)
    assert text.count("**Note:**") == sum(not note.is_warning for note in NOTES)


def test_without_rows_there_is_no_table_of_tensors() -> None:
    (only,) = tables(render(run_of()))
    assert [cell.content for cell in only[1]] == ["quantized", "0 tensors"]


def test_bidi_marks_are_visible() -> None:
    assert visible("\u202eabc") in render(hostile_run())
