from pathlib import Path

import pytest

from qdqcli.escape import NAME_LIMIT, escape_name, show_path


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("model.layers.0.w", "model.layers.0.w"),
        ("模型 'q'", "模型 'q'"),
        ("a\nb\x1b[31m\x00", "a\\nb\\x1b[31m\\x00"),
        ("\u202eabc\u200b\ufeff", "\\u202eabc\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("w\udcff", "w\\xff"),
        ("\u2028", "\\u2028"),
    ],
)
def test_escapes_what_a_terminal_would_act_on(name: str, shown: str) -> None:
    assert escape_name(name) == shown
    assert shown.isprintable()


def test_cuts_a_long_name() -> None:
    assert len(escape_name("n" * 100_000)) == NAME_LIMIT
    assert escape_name("n" * NAME_LIMIT) == "n" * NAME_LIMIT
    assert len(escape_name("\n" * 100_000)) == NAME_LIMIT


def test_shows_the_whole_path() -> None:
    assert show_path(Path("/" + "d" * 300) / "a\nb") == "/" + "d" * 300 + "/a\\nb"
