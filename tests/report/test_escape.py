"""Hostile text in every format."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdqcli.report.escape import csv_cell, json_text, markdown, markdown_cell, shorten, terminal, visible
from tests.report.samples import HOSTILE

ANY_TEXT = st.text(st.characters()) | st.text(st.sampled_from("a:#|`\\ \n\x1b\ud800"))  # surrogates too
FUNCTIONS = (visible, terminal, csv_cell, markdown)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(text=ANY_TEXT)
def test_what_comes_out_is_printable(function: object, text: str) -> None:
    assert callable(function)
    assert function(text).isprintable()
    assert function(text, ascii_only=True).isascii()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.weight", "a/b", "a:b", "a-b", "\u6a21\u578b", "[/]"])
def test_harmless_text_is_left_as_it_is(function: object, name: str) -> None:
    assert callable(function)
    assert function(name).strip("`") == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202eabc", r"\u202eabc"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_has_no_glyph_is_written_as_python_writes_it(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_other_scripts_are_escaped_only_where_they_must_be() -> None:
    assert visible("\u6a21") == "\u6a21"
    assert visible("\u6a21", ascii_only=True) == r"\u6a21"


@given(ANY_TEXT)
def test_nothing_is_left_that_speaks_to_a_ci_system(text: str) -> None:
    for shown in (terminal(text), markdown(text)):
        assert "::" not in shown
        assert "##" not in shown
    assert not csv_cell(text).startswith("::")
    assert "##" not in csv_cell(text) + json_text(text)


@given(ANY_TEXT)
def test_json_loses_nothing(text: str) -> None:
    assert json_text(text).isascii()
    assert json.loads(json_text(text)) == text


def test_json_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"x": float("nan")})


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\uff1d1", "::error::"])
def test_a_spreadsheet_shows_a_formula_as_text(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["\t=1", "\r=1", "\n=1"])
def test_blanks_before_a_formula_are_escaped(text: str) -> None:
    assert csv_cell(text).startswith("\\")


def test_an_empty_name_is_called_so_where_people_read() -> None:
    assert terminal("") == markdown("") == "(no name)"
    assert csv_cell("") == ""


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("a", "`a`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        (" a", "`  a `"),
        (" ", "` `"),
        ("a|b", "`a|b`"),
        ("a\\|b", "`a\\x5c|b`"),
    ],
)
def test_a_code_span_holds_backticks_and_blanks(text: str, span: str) -> None:
    assert markdown(text) == span


def test_a_pipe_does_not_end_a_cell() -> None:
    assert markdown_cell("max |e|") == "max \\|e\\|"


@given(st.text(), st.integers(4, 40), st.sampled_from(["…", "..."]), st.none() | st.integers(0, 50))
def test_shortened_text_is_no_longer_than_asked(text: str, length: int, ellipsis: str, head: int | None) -> None:
    short = shorten(text, length, ellipsis=ellipsis, head=head)
    assert len(short) == min(len(text), length)
    assert short == text or ellipsis in short


def test_the_middle_is_cut_out() -> None:
    assert shorten("model.layers.0.weight", 11) == "model…eight"
    assert shorten("model.layers.0.weight", 11, head=0) == "….0.weight"[-11:].rjust(11, "s").replace("s….", "…s.")


@pytest.mark.parametrize("name", HOSTILE)
def test_ordinary_ascii_stays_readable(name: str) -> None:
    letters = "".join(char for char in name if char.isascii() and char.isalnum())
    assert all(char in terminal(name) for char in letters)
