"""README and the manual: commands that exist, recipes that are read, Python that runs, links that lead somewhere."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from qdqcli.cli.main import ALIASES, COMMANDS, cli
from qdqcli.cli.manual import page_of, topics, wrapped
from qdqcli.recipe.file import parse_recipe
from tests.conftest import Qdq

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "qdqcli" / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[Any]:
    """Every call of `qdq` in a block for shells or for CI, as words."""
    lines = [
        (page.name, line.strip().removeprefix("$ ").removeprefix("- ").removeprefix("run: "))
        for page in PAGES
        for language in ("sh", "console", "yaml")
        for block in blocks(page, language)
        for line in block.splitlines()
        if language != "console" or line.startswith("$ ")
    ]
    parts = [(name, part.strip()) for name, line in lines for part in line.split("&&")]
    calls = [(name, part.removeprefix("entry: ").removeprefix(".venv/bin/")) for name, part in parts]
    return [pytest.param(call, id=f"{name}: {call[:60]}") for name, call in calls if call.startswith("qdq ")]


@pytest.mark.parametrize("call", commands())
def test_a_command_has_the_options_that_it_is_given(call: str) -> None:
    words = shlex.split(call, comments=True)
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = cli
    context = click.Context(cli, info_name="qdq")
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        assert found is not None, call
        command, context = found, click.Context(found, info_name=rest[0], parent=context)
        rest = rest[1:]
    command.make_parser(context).parse_args(rest)  # raises at an option that is not there
    for option, value in pairwise(rest):
        if option in ("--scheme", "--preset", "--sort"):
            parameter = next(p for p in command.params if option in p.opts)
            parameter.type_cast_value(context, (value,) if parameter.multiple else value)


def test_there_are_commands_to_check() -> None:
    calls = " ".join(str(param.values[0]) for param in commands())
    assert {name for name in COMMANDS if f"qdq {name} " in calls} >= {"run", "stats", "check", "compare", "inspect"}
    assert set(ALIASES.values()) <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_of_a_page_are_read(page: Path) -> None:
    for text in blocks(page, "toml"):
        if "[defaults]" in text:
            assert parse_recipe(text, page.name).rules


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile("\n".join(blocks(page, "python")), page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith(("https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 165
    assert set(re.findall(r"\(qdqcli/docs/(\w+)\.md\)", text)) == {page.stem for page in PAGES[1:]}
    for mark in ("tests", "main-job"):
        assert text.count(f"<!-- ci: {mark} -->") == 1


def test_help_shows_the_pages(qdq: Qdq) -> None:
    assert list(topics()) == [page.stem for page in PAGES[1:]]
    listed = qdq("help").out
    for page in PAGES[1:]:
        assert qdq("help", page.stem).out == page.read_text(encoding="utf-8") == page_of(page.stem)
        assert re.search(rf"^  {page.stem} +{re.escape(topics()[page.stem])}$", listed, re.MULTILINE)
        assert page.stem not in COMMANDS


def test_a_page_fits_a_terminal() -> None:
    for topic in topics():
        page = page_of(topic)
        narrow = wrapped(page, 72)
        assert narrow.split() == page.split()
        assert [line for line in narrow.splitlines() if line.startswith(("#", "```", "| --"))] == [
            line for line in page.splitlines() if line.startswith(("#", "```", "| --"))
        ]
    assert wrapped("# A\n\none two\nthree\n- four five\n  six\n- 7\n```sh\na  b c d e f g\n```\n", 12) == (
        "# A\n\none two\nthree\n- four five\n  six\n- 7\n```sh\na  b c d e f g\n```\n"
    )
    assert wrapped("one two three four\nfive\n", 9) == "one two\nthree\nfour five\n"
    assert wrapped("| a | b |\n| --- | --- |\n| 1 2 | 3 4 |\n", 9) == "| a | b |\n| --- |\n  --- |\n| 1 2 | 3\n  4 |\n"
