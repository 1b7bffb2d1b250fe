"""`--keep-going`: an input that fails stops no other, and is told of everywhere."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from qdqcli.errors import Interrupted
from qdqcli.run import write
from tests.conftest import Outcome, Qdq
from tests.run.checkpoints import sample, write_safetensors

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
SETTINGS = ("--num-bits", 4, "--group-size", 2, "--keep-going")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five inputs: two that are fine, a pointer, one that groups do not divide, a format that is not read."""
    hub = tmp_path / "hub"
    for name, columns, layers in (("a", 6, 1), ("c", 7, 1), ("d", 6, 2)):
        tensors = {f"layer.{k}.w": sample((4, columns), seed=columns + k) for k in range(layers)}
        write_safetensors(hub / name / "model.safetensors", tensors)
    for name, file, text in (("b", "model.safetensors", POINTER), ("e", "model.gguf", "GGUF")):
        (hub / name).mkdir()
        (hub / name / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    return hub


def states(outcome: Outcome) -> dict[str, str]:
    return {own["name"].removeprefix("hub/"): own["state"] for own in outcome.report["run"]["inputs"]}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", [("stats",), ("run", "-o", "out"), ("check", "--budget", "b.toml")])
def test_the_others_are_done_and_the_failures_told(qdq: Qdq, command: tuple[str, ...]) -> None:
    Path("b.toml").write_text("[limits]\nmin_sqnr_db = 1\n")
    outcome = qdq(*command, "hub/*", *SETTINGS, "--format", "json", "--report", "of-{name}.json", "--report", "all.xml")
    assert outcome.code == 3
    assert outcome.error == "error: 3 of 5 inputs failed: hub/b, hub/c, hub/e"
    assert states(outcome) == {"a": "done", "b": "failed", "c": "failed", "d": "done", "e": "failed"}
    assert outcome.report["inputs"] == [f"hub/{name}" for name in "abcde"]
    reasons = {note["file"]: note["other"] for note in outcome.report["notes"] if note["kind"] == "failed"}
    assert reasons["hub/b"].startswith("hub/b/model.safetensors: is a Git LFS pointer")
    assert "--ragged-groups" in reasons["hub/c"]
    assert "model.gguf" in reasons["hub/e"]
    for name in "ad":
        alone = qdq("stats", f"hub/{name}", *SETTINGS[:-1], "--format", "json").report
        own = json.loads(Path(f"of-{name}.json").read_text())
        assert own["summary"] == alone["summary"]
        assert [row["stats"] for row in own["tensors"]] == [row["stats"] for row in alone["tensors"]]
    assert not any(Path(f"of-{name}.json").exists() for name in "bce")
    assert "is a Git LFS pointer" in Path("all.xml").read_text()
    if command[0] == "run":
        assert sorted(path.name for path in Path("out").iterdir()) == ["a", "d"]
    if command[0] == "check":
        verdict = outcome.report["verdict"]
        assert not verdict["passed"]
        assert sorted(v["file"] for v in verdict["violations"]) == ["hub/b", "hub/c", "hub/e"]


@pytest.mark.usefixtures("hub")
def test_a_row_for_each_input_in_every_format_for_people(qdq: Qdq) -> None:
    assert qdq("stats", "hub/*", *SETTINGS, "--report", "all.json").code == 3
    for out in (qdq("stats", "hub/*", *SETTINGS).out, qdq("render", "all.json").out):
        lines = out.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("input "))
        assert lines[start].split() == [
            "input",
            "tensors",
            "bits/weight",
            "SQNR",
            "dB",
            "lowest",
            "size",
            "time",
            "state",
        ]
        rows = {line.split()[0]: line.split() for line in lines[start + 2 : start + 7]}
        assert rows["hub/d"][1:3] == ["2", "12.000"]
        assert rows["hub/d"][-1] == "done"
        assert rows["hub/b"][1:6] == ["-"] * 5
        assert "warning: hub/b: failed: hub/b/model.safetensors: is a Git LFS pointer" in out
    github = qdq("stats", "hub/*", *SETTINGS, "--format", "github").out
    assert sum(line.startswith("::error file=hub/") for line in github.splitlines()) == 3


def test_a_run_goes_on_where_it_was(qdq: Qdq, hub: Path) -> None:
    arguments = ("run", "hub/*", "-o", "out", *SETTINGS, "--resume", "--format", "json")
    assert qdq(*arguments).code == 3
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    write_safetensors(hub / "b" / "model.safetensors", {"w": sample((2, 4))})
    (hub / "e" / "model.gguf").unlink()
    write_safetensors(hub / "e" / "model.safetensors", {"w": sample((2, 4))})
    outcome = qdq(*arguments)
    assert outcome.code == 2, "c alone is still wrong"
    assert states(outcome) == {"a": "finished before", "b": "done", "c": "failed", "d": "finished before", "e": "done"}
    after = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert before.items() <= after.items()


@pytest.mark.usefixtures("hub")
def test_an_output_that_fails_in_the_middle_of_the_batch(qdq: Qdq) -> None:
    (Path("out") / "a").mkdir(parents=True)
    outcome = qdq("run", "hub/a", "hub/d", "-o", "out", *SETTINGS)
    assert outcome.code == 2
    assert "out/a: exists" in outcome.err
    assert (Path("out") / "d" / "qdq.json").is_file()
    Path("file").write_text("")
    assert "OUTPUT is a folder" in qdq("run", "hub/a", "-o", "file", *SETTINGS).err


@pytest.mark.usefixtures("hub")
def test_a_pattern_must_match_in_one_input_only(qdq: Qdq) -> None:
    outcome = qdq("stats", "hub/a", "hub/d", *SETTINGS, "--exclude", "layer.1.*", "--format", "json")
    assert (outcome.code, states(outcome)) == (0, {"a": "done", "d": "done"})
    outcome = qdq("stats", "hub/a", "hub/d", *SETTINGS, "--exclude", "nothing.*")
    assert outcome.code == 2
    assert "matches none" in outcome.error


@pytest.mark.usefixtures("hub")
def test_all_inputs_fail(qdq: Qdq) -> None:
    outcome = qdq("check", "--report-in", "r.json", "--keep-going")
    assert (outcome.code, "no meaning with --report-in" in outcome.error) == (2, True)
    for inputs in (("hub/b", "hub/e", "missing"), ("hub/c", "hub/b"), ("hub/c",)):
        outcome = qdq("run", *inputs, "-o", "out", *SETTINGS)
        assert outcome.code == (3 if inputs[0] == "hub/b" else 2)
        assert outcome.error == f"error: {len(inputs)} of {len(inputs)} inputs failed: {', '.join(inputs)}"
        alone = qdq("run", inputs[0], "-o", "out", *SETTINGS, "-q").error
        assert outcome.err.count(alone[-60:]) == 1, "each reason once"
    assert not Path("out").exists()


@pytest.mark.usefixtures("hub")
def test_without_it_the_first_failure_ends_the_batch(qdq: Qdq) -> None:
    outcome = qdq("run", "hub/*", "-o", "out", *SETTINGS[:-1])
    assert outcome.code == 3
    assert not Path("out").exists()


def test_names_are_harmless(qdq: Qdq, hub: Path) -> None:
    (hub / "x\x1b[31m\n").mkdir()
    outcome = qdq("stats", "hub/*", "no\x1b[31m\n*", *SETTINGS)
    assert outcome.code == 3
    assert "\x1b" not in outcome.out + outcome.err
    assert "x\\x1b[31m\\n: failed: " in outcome.err
    assert "no\\x1b[31m\\n*: failed: " in outcome.err
    assert [line.partition(": ")[0] for line in outcome.err.splitlines()] == ["warning"] * 5 + ["error"]


@pytest.mark.usefixtures("hub")
def test_an_interrupted_batch_tells_which_part_is_done(qdq: Qdq, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write.execute_run

    def second_stops(*arguments: Any) -> Any:
        if Path("out/a").exists():
            raise Interrupted("interrupted", signal.SIGINT)
        return whole(*arguments)

    command = ("run", "hub/a", "hub/d", "-o", "out", *SETTINGS, "--report", "of-{name}.json")
    with monkeypatch.context() as patched:
        patched.setattr(write, "execute_run", second_stops)
        outcome = qdq(*command)
    assert (outcome.code, outcome.error) == (130, "error: interrupted; 1 of 2 inputs are done, --resume keeps them")
    assert [path.name for path in Path("out").iterdir()] == ["a"]
    outcome = qdq(*command, "--resume")
    assert "out/a: is finished already" in outcome.err
    assert "and of-{name}.json for 2 inputs in " in outcome.err


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", ["stats", "inspect", "sweep", "init", "compare"])
def test_an_unreadable_input_is_no_mistake_of_usage(qdq: Qdq, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def may(path: Any, mode: int, **_: Any) -> bool:
        return mode != os.R_OK and Path(path).exists()

    monkeypatch.setattr(os, "access", may)  # what a reader without root's rights is told
    outcome = qdq(command, "hub/b", *(["hub/a"] if command == "compare" else []))
    assert outcome.code == 3
    assert outcome.error.startswith("error: hub/b/model.safetensors: is a Git LFS pointer")
