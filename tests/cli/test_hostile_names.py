"""Names that attack, in real files, through every command and every report format."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdqcli.report.formatter import FORMATTERS, REPORT_SUFFIXES
from tests.conftest import Qdq
from tests.report.harmless import CHECKS, harm, harm_on_stderr
from tests.report.samples import HOSTILE
from tests.run.checkpoints import write_safetensors
from tests.tensors.files import raw_safetensors, write

NAMES = [name for name in HOSTILE if not any("\ud800" <= char <= "\udfff" for char in name)]
"""Those that a file can hold: the format is UTF-8."""
LISTING_FORMATS = ("table", "json", "jsonl", "csv", "markdown")
FILE_NAMES = (
    "\x1b[2J::error::\n.safetensors",
    "=cmd|' /C calc'!A0.safetensors",
    "<img src=x onerror=alert(1)>.safetensors",
    "##vso[task.setvariable variable=x]y.safetensors",
)


@pytest.fixture
def hostile(tmp_path: Path) -> list[Path]:
    tensors = {name: np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4) for name in NAMES}
    tensors["ids\x1b[31m"] = np.arange(3)
    return [write_safetensors(tmp_path / "in" / name, tensors) for name in FILE_NAMES]


@pytest.fixture
def budget(tmp_path: Path) -> Path:
    path = tmp_path / "budget.toml"
    path.write_text("schema = 1\n[limits]\nmin_sqnr_db = 60\n")
    return path


def test_every_format_is_checked() -> None:
    assert list(CHECKS) == list(FORMATTERS)


@pytest.mark.parametrize("format_name", FORMATTERS)
@pytest.mark.parametrize("command", ["stats", "check", "compare", "run"])
def test_names_do_no_harm_in_a_report(
    qdq: Qdq, hostile: list[Path], budget: Path, tmp_path: Path, command: str, format_name: str
) -> None:
    suffix = {name: suffix for suffix, name in REPORT_SUFFIXES.items()}.get(format_name)
    inputs = hostile if command in ("stats", "check") else hostile[:1]
    more = {
        "check": ("--budget", budget),
        "compare": (hostile[1], "--budget", budget),
        "run": ("-o", tmp_path / "out.safetensors"),
    }
    report = () if suffix is None else ("--report", tmp_path / f"r{suffix}")
    outcome = qdq(command, *inputs, *more.get(command, ()), "--format", format_name, "--top", 0, *report)
    assert outcome.code == (1 if command == "check" else 0)
    assert harm(format_name, outcome.out) == []
    assert harm_on_stderr(outcome.err) == []
    if suffix is not None:
        assert harm(format_name, (tmp_path / f"r{suffix}").read_bytes().decode()) == []


@pytest.mark.parametrize("format_name", ["table", "json", "markdown", "html"])
def test_names_do_no_harm_in_a_diagnosis(qdq: Qdq, hostile: list[Path], tmp_path: Path, format_name: str) -> None:
    recipe = ("--write-recipe", tmp_path / "fix.toml")
    outcome = qdq("diagnose", hostile[0], "-b", 4, "--all", "--format", format_name, *recipe)
    assert outcome.code == 0, outcome.err
    assert harm(format_name, outcome.out) == []
    assert harm_on_stderr(outcome.err) == []
    assert harm_on_stderr((tmp_path / "fix.toml").read_text().replace("##", "")) == []


@pytest.mark.parametrize("format_name", LISTING_FORMATS)
@pytest.mark.parametrize("arguments", [("inspect",), ("run", "--dry-run")], ids=" ".join)
def test_names_do_no_harm_in_a_listing(
    qdq: Qdq, hostile: list[Path], tmp_path: Path, arguments: tuple[str, ...], format_name: str
) -> None:
    output = ("-o", tmp_path / "out") if arguments[0] == "run" else ()
    outcome = qdq(*arguments, *hostile, *output, "--format", format_name)
    assert outcome.code == 0
    assert harm(format_name, outcome.out) == []
    assert harm_on_stderr(outcome.err) == []


@pytest.mark.parametrize("format_name", ["table", "json"])
def test_names_do_no_harm_where_a_recipe_is_checked(
    qdq: Qdq, hostile: list[Path], tmp_path: Path, format_name: str
) -> None:
    recipe = write(tmp_path / "##[error]::x::.toml", b'[[rules]]\nmatch = "##vso[x]"\nnum_bits = 4\n')
    outcome = qdq("recipe", "lint", recipe, hostile[0], "--format", format_name)
    assert outcome.code == 2
    assert harm_on_stderr(outcome.out) == []
    assert harm_on_stderr(outcome.err) == []


@pytest.mark.parametrize("command", ["stats", "inspect"])
def test_json_holds_the_names_as_they_are(qdq: Qdq, hostile: list[Path], command: str) -> None:
    rows = qdq(command, hostile[0], "--format", "json").report["tensors"]
    assert [row["name"] for row in rows] == [*NAMES, "ids\x1b[31m"]


def test_names_do_no_harm_in_errors(qdq: Qdq, hostile: list[Path]) -> None:
    for name in NAMES:
        outcome = qdq("stats", hostile[0], "--include", f"no such {name}")
        assert outcome.code == 2
        assert outcome.error
        assert harm_on_stderr(outcome.err) == []


def test_names_do_no_harm_where_a_stored_report_is_shown(qdq: Qdq, hostile: list[Path], tmp_path: Path) -> None:
    stored = tmp_path / "r.json"
    assert qdq("stats", hostile[0], "--format", "none", "--report", stored).code == 0
    assert json.loads(stored.read_text())["tensors"]
    for format_name in FORMATTERS:
        outcome = qdq("render", stored, "--format", format_name)
        assert (outcome.code, harm(format_name, outcome.out)) == (0, [])


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
def test_names_of_a_damaged_file_do_no_harm_on_stderr(qdq: Qdq, tmp_path: Path, debug: tuple[str, ...]) -> None:
    record = {"dtype": "XX", "shape": [1], "data_offsets": [0, 4]}
    for number, name in enumerate(NAMES):
        path = write(
            tmp_path / f"{number}##[error]::x::.safetensors", raw_safetensors(json.dumps({name: record}), bytes(4))
        )
        outcome = qdq("stats", path, *debug)
        assert outcome.code == 3
        assert harm_on_stderr(outcome.err) == []
