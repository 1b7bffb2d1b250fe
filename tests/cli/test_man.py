"""`qdq help --man`: pages that groff takes, with all that the help says."""

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from qdqcli.cli.main import COMMANDS, cli
from tests.conftest import Qdq


@pytest.fixture
def folder(qdq: Qdq, tmp_path: Path) -> Path:
    folder = tmp_path / "man" / "man1"
    outcome = qdq("help", "--man", folder)
    assert outcome.code == 0
    count = len(list(folder.iterdir()))
    assert outcome.err == f"wrote {count} pages; read one: man {folder}/qdq.1\n"
    return folder


def test_there_is_a_page_for_every_command_with_every_option(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"qdq.1", "qdq-recipe-lint.1", *(f"qdq-{name}.1" for name in COMMANDS)} <= names
    for name in COMMANDS:
        text = (folder / f"qdq-{name}.1").read_text().replace("\\-", "-").replace("\\:", "")
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for option in (one for one in command.params if isinstance(one, click.Option) and not one.hidden):
            assert option.opts[-1] in text, name
        assert f"\n.SH EXAMPLES\n.nf\nqdq {name}" in text
    page = (folder / "qdq.1").read_text()
    assert re.findall(r"^\.SH (.*)$", page, re.MULTILINE) == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", "EXIT STATUS", "SEE ALSO")
    ]


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_has_nothing_against_them(folder: Path) -> None:
    pages = sorted(folder.iterdir())
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", *pages], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)
    assert "--group-size N" in shown


def test_a_folder_that_cannot_be_made(qdq: Qdq, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert qdq("help", "--man", tmp_path / "file" / "man1").code == 4
    assert "leave out the name" in qdq("help", "stats", "--man", tmp_path / "man1").error
