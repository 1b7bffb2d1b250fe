"""`QDQ_*`: options from the environment."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from qdqcli.cli.environment import OTHERS, SHARED, variables_of
from qdqcli.cli.main import COMMANDS, cli
from tests.conftest import Outcome, Qdq

PAGE = (Path(__file__).parents[2] / "qdqcli" / "docs" / "environment.md").read_text(encoding="utf-8")


def bound(command: click.Command) -> Iterator[click.Option]:
    yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        yield from bound(subcommand)


def options() -> list[click.Option]:
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in COMMANDS]
    return [option for command in commands if command is not None for option in bound(command)]


def bits(outcome: Outcome) -> set[int]:
    return {row["spec"]["num_bits"] for row in outcome.report["tensors"] if row["status"] == "quantized"}


def test_every_variable_belongs_to_one_option() -> None:
    names = [name for option in options() for name in variables_of(option)]
    shared = {f"QDQ_{name.upper()}" for name in SHARED}
    assert {name for name, count in Counter(names).items() if count > 1} == shared
    assert not {*names} & {*OTHERS}
    assert {"QDQ_STATS_NUM_BITS", "QDQ_SWEEP_NUM_BITS", "QDQ_RUN_REPORT", "QDQ_RECIPE_LINT_FORMAT"} <= {*names}
    assert not [name for name in names if name.endswith(("_HELP", "_VERSION"))]


def test_the_page_has_the_variables_of_all_commands() -> None:
    rows = set(re.findall(r"`(QDQ_\w+)`", "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))))
    assert rows >= {f"QDQ_{name.upper()}" for name in SHARED} | {*OTHERS}
    known = {name for option in options() for name in variables_of(option)} | {*OTHERS, "QDQ_COMMAND_OPTION"}
    assert set(re.findall(r"QDQ_[A-Z_]+", PAGE)) - {"QDQ_"} <= known


def test_a_variable_is_an_option_beneath_the_command_line_and_above_the_project_file(
    qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    Path("qdq.toml").write_text(f'model = "{tiny.name}"\nnum_bits = 7\nexclude = ["wide"]\n')
    monkeypatch.setenv("QDQ_STATS_NUM_BITS", "5")
    monkeypatch.setenv("QDQ_STATS_EXCLUDE", "embed layer.0.*")
    outcome = qdq("stats", "--format", "json")
    assert "note: taken from the environment: QDQ_STATS_NUM_BITS, QDQ_STATS_EXCLUDE" in outcome.err
    assert bits(outcome) == {5}
    assert outcome.report["settings"]["exclude"] == ["embed", "layer.0.*"]
    assert bits(qdq("stats", "-b", 3, "--format", "json")) == {3}
    assert bits(qdq("inspect", tiny, "--format", "json")) == {8}, "another command has other variables"


def test_what_belongs_to_the_machine_has_one_name_for_all_commands(
    qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDQ_THREADS", "many")
    for command in ("stats", "sweep"):
        assert "Invalid value for QDQ_THREADS: 'many'" in qdq(command, tiny).error
    monkeypatch.setenv("QDQ_STATS_THREADS", "1")
    outcome = qdq("stats", tiny, "--verbose", "--format", "none")
    assert "1 threads" in outcome.err, "the command's own name wins"
    assert "taken from" not in outcome.err
    assert qdq("stats", tiny, "--threads", "none").error.startswith("error: Invalid value for '--threads'")
    monkeypatch.setenv("QDQ_QUIET", "1")
    assert qdq("stats", tiny, "--format", "none").err == ""


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("QDQ_STATS_NUM_BITS", "x", "Invalid value for QDQ_STATS_NUM_BITS: 'x' is not a number of bits"),
        ("QDQ_STATS_SCHEME", "int4g32", "QDQ_STATS_SCHEME: 'int4g32' is not a scheme; did you mean int4-g32"),
        ("QDQ_STATS_PRESET", "linear", "QDQ_STATS_PRESET: "),
        ("QDQ_STATS_SORT", "sqnr", "QDQ_STATS_SORT: cannot sort by 'sqnr'; try sqnr_db"),
        ("QDQ_STATS_RAGGED_GROUPS", "maybe", "Invalid value for QDQ_STATS_RAGGED_GROUPS: 'maybe'"),
        ("QDQ_STATS_FORMAT", "yaml", "Invalid value for QDQ_STATS_FORMAT: 'yaml' is not one of"),
        ("QDQ_STATS_MAX_MEMORY", "\udcff", r"Invalid value for QDQ_STATS_MAX_MEMORY: '\udcff'"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable(
    qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: str
) -> None:
    monkeypatch.setenv(name, value)
    outcome = qdq("stats", tiny)
    assert outcome.code == 2
    assert outcome.error.startswith(f"error: {found}")


def test_a_misspelt_name_is_a_warning(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDQ_STATS_NUMBITS", "4")
    monkeypatch.setenv("QDQ_RUN_NUMBITS", "4")
    monkeypatch.setenv("QDQ_STATS_NUM_BITS", "")
    outcome = qdq("stats", tiny, "--format", "json")
    assert bits(outcome) == {8}
    assert outcome.err.splitlines()[0] == (
        "warning: QDQ_STATS_NUMBITS: qdq stats has no option of this name; did you mean QDQ_STATS_NUM_BITS?"
    )
    assert "QDQ_RUN" not in outcome.err
    monkeypatch.setenv("QDQ_THREAD", "4")
    monkeypatch.setenv("QDQ_SCHEME", "int4")
    monkeypatch.setenv("QDQ_HOME", "/")
    warned = [line for line in qdq("stats", tiny, "--format", "none").err.splitlines() if "no option" in line]
    assert [line.rpartition(" ")[2] for line in warned] == ["QDQ_STATS_SCHEME?", "QDQ_STATS_NUM_BITS?", "QDQ_THREADS?"]


def test_the_parts_of_a_run_keep_what_the_environment_set(
    qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDQ_RUN_NUM_BITS", "4")
    monkeypatch.setenv("QDQ_RUN_SIGNED_INPUT", "no")
    for part in ("1/2", "2/2"):
        assert qdq("run", model, "-o", tmp_path / "out", "--part", part).code == 0
    monkeypatch.delenv("QDQ_RUN_NUM_BITS")
    monkeypatch.delenv("QDQ_RUN_SIGNED_INPUT")
    outcome = qdq("finish", tmp_path / "out", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert bits(outcome) == {4}
    monkeypatch.setenv("QDQ_RUN_DASK", "local")
    assert "give one of them" in qdq("run", model, "-o", tmp_path / "other", "--part", "1/2").error


def test_info_lists_them(qdq: Qdq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDQ_THREADS", "1")
    assert "QDQ_THREADS" in qdq("info", "--format", "json").report["environment"]
