"""`qdq.toml` and `[tool.qdq]`: bare commands; `qdq init`, which writes one."""

import json
import os
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from qdqcli.gate.project import find_project, read_project
from qdqcli.recipe.keys import SELECTION, SETTINGS, SHORT
from tests.conftest import Outcome, Qdq
from tests.run.checkpoints import sample, write_safetensors

ROOT = Path(__file__).parents[2]
FILE = """\
model = "m.safetensors"
num_bits = 5
exclude = ["b"]
reports = ["r.json"]
[[rules]]
match = "c"
num_bits = 3
[budget.limits]
min_sqnr_db = 5
"""
COMMANDS = [("stats",), ("check",), ("run", "-o", "out.safetensors"), ("inspect",)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    write_safetensors(folder / "m.safetensors", {name: sample((8, 16), seed=k) for k, name in enumerate("abc")})
    (folder / "qdq.toml").write_text(FILE)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("QDQ_CONFIG", raising=False)
    return folder


def bits(outcome: Outcome) -> dict[str, int | None]:
    return {row["name"]: (row.get("spec") or {}).get("num_bits") for row in outcome.report["tensors"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bare_command_takes_the_file_and_says_so(qdq: Qdq, folder: Path, command: tuple[str, ...]) -> None:
    outcome = qdq(*command, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith("note: qdq.toml: model 'm.safetensors', settings")
    assert bits(outcome) == {"a": 5, "b": None, "c": 3}
    assert outcome.report["settings"]["recipe"] == "qdq.toml"
    row = outcome.report["tensors"][2]
    assert row["decided_by"]["num_bits"] == "rule 1 (line 5)"
    assert (folder / "r.json").exists() is (command[0] != "inspect")


@pytest.mark.usefixtures("folder")
def test_options_override_it(qdq: Qdq) -> None:
    outcome = qdq("stats", "-b", 4, "--exclude", "a", "--report", "other.json", "--format", "json")
    assert bits(outcome) == {"a": None, "b": 4, "c": 3}, "a rule overrides options, as in a recipe"
    assert outcome.report["tensors"][1]["decided_by"]["num_bits"] == "--num-bits"
    assert Path("other.json").exists()
    assert not Path("r.json").exists()
    Path("recipe.toml").write_text("[defaults]\nnum_bits = 7\n")
    assert bits(qdq("stats", "--recipe", "recipe.toml", "--format", "json")) == {"a": 7, "b": 7, "c": 7}


def test_the_nearest_file_counts_and_paths_are_relative_to_it(
    qdq: Qdq, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = folder / "x" / "y"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    outcome = qdq("check")
    assert outcome.code == 0
    assert "note: ../../qdq.toml: model '../../m.safetensors', settings, budget, reports" in outcome.err
    assert (folder / "r.json").exists()
    (folder / "x" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert "../../qdq.toml" in qdq("stats").err, "a pyproject.toml without [tool.qdq] is none"
    (folder / "x" / "pyproject.toml").write_text("[tool.qdq]\nmodel = '../m.safetensors'\nnum_bits = 2\n")
    assert set(bits(qdq("stats", "--format", "json")).values()) == {2}
    assert qdq("stats", "-q", "--config", "../../qdq.toml", "--format", "json").report["settings"]["num_bits"] == 5


@pytest.mark.usefixtures("folder")
def test_with_an_input_only_a_gate_takes_it(qdq: Qdq) -> None:
    write_safetensors(Path("other.safetensors"), {name: sample((8, 16), seed=9) for name in "bc"})
    assert qdq("stats", "other.safetensors", "--format", "json").report["settings"]["num_bits"] == 8
    outcome = qdq("check", "other.safetensors", "--format", "json")
    assert outcome.err.startswith("note: qdq.toml: settings, budget")
    assert bits(outcome) == {"b": None, "c": 3}
    assert not Path("r.json").exists(), "its reports are those of its model"
    Path("b.toml").write_text("[limits]\nmin_sqnr_db = 1\n")
    assert (
        qdq("check", "other.safetensors", "--budget", "b.toml", "--format", "json").report["settings"]["num_bits"] == 8
    )
    named = qdq("stats", "other.safetensors", "--config", "qdq.toml", "--format", "json")
    assert named.report["settings"]["num_bits"] == 5


def test_precedence_command_line_environment_file(qdq: Qdq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("env.toml", 2), ("option.toml", 3)):
        (folder / name).write_text(f"model = 'm.safetensors'\nnum_bits = {number}\n")
    assert qdq("stats", "--format", "json").report["settings"]["num_bits"] == 5
    monkeypatch.setenv("QDQ_CONFIG", "env.toml")
    assert qdq("stats", "--format", "json").report["settings"]["num_bits"] == 2
    assert qdq("stats", "--config", "option.toml", "--format", "json").report["settings"]["num_bits"] == 3
    assert qdq("stats", "--config", "option.toml", "-b", 4, "--format", "json").report["settings"]["num_bits"] == 4
    monkeypatch.setenv("QDQ_CONFIG", "none")
    assert "give INPUT, or a qdq.toml" in qdq("stats").error


@pytest.mark.usefixtures("folder")
def test_a_stored_report_is_judged_by_its_budget(qdq: Qdq) -> None:
    assert qdq("stats").code == 0
    assert qdq("check", "--report-in", "r.json").code == 0
    text = Path("qdq.toml").read_text()
    Path("qdq.toml").write_text(text.replace("min_sqnr_db = 5", "min_sqnr_db = 90"))
    assert qdq("check", "--report-in", "r.json").code == 1
    assert qdq("check").code == 1
    Path("gate.toml").write_text("[limits]\nmin_sqnr_db = 4\n")
    Path("qdq.toml").write_text('model = "m.safetensors"\nbudget = "gate.toml"\n')
    assert "budget kept" in qdq("check").out


@pytest.mark.usefixtures("folder")
def test_its_limits_are_tightened_in_place(qdq: Qdq) -> None:
    assert qdq("check", "--ratchet").code == 0
    after = tomllib.loads(Path("qdq.toml").read_text())
    assert after["budget"]["limits"]["min_sqnr_db"] > 5
    assert after["rules"] == tomllib.loads(FILE)["rules"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("modle = 'x'", 1, "unknown key 'modle'; the nearest is model"),
        ("\nmin_sqnr_db = 3", 2, "the nearest is min_sqnr_db, which stands in [budget.limits]"),
        ("model = 3", 1, "model is 3; it must be a text or a list of them"),
        ("num_bits = 'four'", 1, "num_bits is 'four'; it must be an integer"),
        ("axis = 0\ngroup_size = 4", 1, "the file sets axis and group_size, which exclude each other"),
        ("[[rules]]\nmatch = 'x'", 1, "rule 1 names no setting"),
        ("[budget.limits]\nmin_snqr_db = 3", 2, "the nearest is min_sqnr_db"),
        ("budget = 3", 1, "budget is 3; it must be a text or a table"),
        ("recipe = 'r.toml'\nnum_bits = 4", 1, "leave one of the two out"),
        ("reports = ['../r.json']", 1, "leads out of the folder of this file"),
        ("reports = ['/tmp/r.json']", 1, "leads out of the folder of this file"),
        ("reports = ['link/r.json']", 1, "leads out of the folder of this file"),
        ("[tool.qdq]", 1, "unknown key 'tool'"),
        ("x\ny = 1", 1, "not TOML"),
        ("schema = 2", 1, "schema is 2; it must be 1"),
    ],
)
def test_errors_name_file_line_and_the_nearest_key(qdq: Qdq, folder: Path, text: str, line: int, words: str) -> None:
    (folder / "link").symlink_to(folder.parent)
    (folder / "qdq.toml").write_text(text)
    outcome = qdq("check")
    assert outcome.code == 2
    assert outcome.error.startswith(f"error: qdq.toml:{line}: ")
    assert words in outcome.error
    (folder / "qdq.toml").unlink()


def test_what_is_missing_is_told(qdq: Qdq, folder: Path) -> None:
    (folder / "qdq.toml").write_text("num_bits = 4")
    assert "qdq.toml: names no model" in qdq("stats").error
    (folder / "qdq.toml").write_text("model = 'm.safetensors'")
    assert "nothing to judge by" in qdq("check").error
    assert "No such file" in qdq("stats", "--config", "none.toml").error
    (folder / "qdq.toml").unlink()
    for command in COMMANDS:
        assert "give INPUT, or a qdq.toml that names the model, which 'qdq init MODEL' writes" in qdq(*command).error


def test_files_of_strangers_above_are_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder / "x"
    below.mkdir()
    assert find_project(below) == folder / "qdq.toml"
    stat = Path.stat

    def owned(path: Path, **options: bool) -> os.stat_result:
        status = list(stat(path, **options))
        status[4] = 4242 if path == folder / "qdq.toml" else os.getuid()
        return os.stat_result(status)

    monkeypatch.setattr(Path, "stat", owned)
    assert find_project(below) is None
    assert find_project(folder) == folder / "qdq.toml", "the working folder is the user's choice"


def test_the_schema_knows_what_the_reader_takes(qdq: Qdq, folder: Path) -> None:
    schema = json.loads(qdq("init", "--schema").out)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert validator.is_valid(tomllib.loads(FILE))
    assert {*SHORT, *SETTINGS, *SELECTION, "model", "rules", "budget", "reports"} <= {*schema["properties"]}
    for text in ("modle = 'x'", "num_bits = 0", "budget = 3", "budget = {limits = {x = 1}}"):
        assert not validator.is_valid(tomllib.loads(text))
    assert read_project(folder / "qdq.toml").models == [str(folder / "m.safetensors")]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-s", "int4-g8"),
        ("-b", 3, "--axis", 0, "--exclude", "a", "--exclude", "b"),
        ("--axis", "0,1", "--min-ndim", 2, "--estimator", "percentile", "--percentile", 99),
    ],
)
def test_init_writes_a_file_whose_budget_is_kept(qdq: Qdq, folder: Path, options: tuple[object, ...]) -> None:
    (folder / "qdq.toml").unlink()
    outcome = qdq("init", "m.safetensors", *options)
    assert outcome.code == 0, outcome.err
    assert "wrote qdq.toml in " in outcome.err
    assert outcome.err.endswith("next: qdq check\n")
    action = yaml.safe_load(outcome.out)["jobs"]["quantization"]["steps"][-1]["uses"]
    assert (ROOT / action.removeprefix("./qdq/") / "action.yml").exists()
    text = (folder / "qdq.toml").read_text()
    assert "# measured: " in text
    outcome = qdq("check", "--format", "json")
    assert outcome.code == 0
    direct = qdq("stats", "m.safetensors", *(options or ("-s", "int8-channel")), "--format", "json").report
    assert outcome.report["summary"] == direct["summary"]
    assert qdq("check", "-b", 2, "--axis", "none").code == 1
    assert qdq("init", "m.safetensors").error.startswith("error: qdq.toml: exists")
    for line in re.findall(r"^# ((?:\[\[|match|scheme|exclude|reports).*)$", text, re.MULTILINE):
        tomllib.loads(line)


def test_init_without_a_model_and_for_gitlab(qdq: Qdq, folder: Path) -> None:
    (folder / "qdq.toml").unlink()
    (folder / ".gitlab-ci.yml").write_text("")
    outcome = qdq("init")
    assert outcome.code == 0
    assert yaml.safe_load(outcome.out)["quantization"]["script"][-1].startswith("qdq check")
    assert read_project(Path("qdq.toml")).models == ["model"]
    (folder / "qdq.toml").unlink()
    (folder / "pyproject.toml").write_text("[tool.qdq]\n")
    assert "pyproject.toml: has [tool.qdq] already" in qdq("init").error


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("name", "within"), [("qdq.toml", ""), ("pyproject.toml", "tool.qdq.")])
def test_an_idle_budget_names_the_tables_of_its_file(qdq: Qdq, name: str, within: str) -> None:
    Path("qdq.toml").unlink()
    table = f"[{within.removesuffix('.')}]\n" if within else ""
    Path(name).write_text(f"{table}model = 'm.safetensors'\n[{within}budget]\n")
    outcome = qdq("check")
    assert outcome.code == 2
    assert f"; add [{within}budget.limits], [{within}budget.summary], " in outcome.error


@pytest.mark.parametrize(
    "command",
    [
        ("sweep", "-b", "3"),
        ("plan", "--avg-bits", "20", "--candidates", "int4-tensor,int8-tensor", "-o", "p.toml"),
        ("calibrate", "-o", "r.json"),
    ],
)
def test_studies_take_model_selection_and_rules(qdq: Qdq, folder: Path, command: tuple[str, ...]) -> None:
    outcome = qdq(*command, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert "note: qdq.toml: model 'm.safetensors', settings\n" in outcome.err
    names = {
        row["name"]: row["status"] for row in (outcome.report.get("tensors") or outcome.report["results"][0]["tensors"])
    }
    assert names["b"] == "skipped"
    assert not (folder / "r.json").exists() or command[0] == "calibrate", "its reports are of tensors"
    (folder / "qdq.toml").unlink()
    assert "give INPUT, or a qdq.toml that names the model" in qdq(*command).error
