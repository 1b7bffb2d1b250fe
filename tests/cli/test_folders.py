"""What a folder's output holds, and what a user is told of the folder."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from qdqcli.report.formatter import REPORT_SUFFIXES
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def make(folder: Path, indexes: Mapping[str, Mapping[str, str]], others: Mapping[str, str]) -> Path:
    """Indexes and their shards, and other files: tensor by file; each tensor has 8 x 8 elements."""
    shards = [(name, tensor) for index in indexes.values() for tensor, name in index.items()]
    for seed, (name, tensor) in enumerate([*shards, *others.items()]):
        write_safetensors(folder / name, {tensor: sample((8, 8), seed=seed)})
    for name, index in indexes.items():
        (folder / name).write_text(json.dumps({"weight_map": index}))
    return folder


INDEX = {"model.safetensors.index.json": {"a": SHARDS[0], "b": SHARDS[1]}}
FOLDERS: Mapping[str, tuple[Mapping[str, Mapping[str, str]], Mapping[str, str], list[str]]] = {
    "variant": (
        INDEX | {"model.safetensors.index.fp16.json": {"a": "m.fp16-1.safetensors", "b": "m.fp16-2.safetensors"}},
        {},
        [],
    ),
    "adapter": (INDEX, {"adapter_model.safetensors": "lora"}, ["unlisted"]),
    "stale": (INDEX, {"model.safetensors": "a"}, ["stale"]),
    "incomplete": ({}, {SHARDS[0]: "a"}, ["incomplete"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_of_a_folder_is_in_its_output(qdq: Qdq, tmp_path: Path, name: str) -> None:
    indexes, others, kinds = FOLDERS[name]
    folder = make(tmp_path / "m", indexes, others)
    report = qdq("run", folder, "-o", tmp_path / "out", "--quiet", "--verify", "--format", "json").report
    files = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*files, "qdq.json"])
    weights = [file for file in files if file.endswith(".safetensors")]
    assert sorted(Path(row["file"]).name for row in report["tensors"]) == weights
    assert all((tmp_path / "out" / file).read_bytes() != (folder / file).read_bytes() for file in weights)
    assert [note["kind"] for note in report["notes"]] == kinds


def test_a_warning_is_said_before_the_work_and_stands_in_every_report(qdq: Qdq, tmp_path: Path) -> None:
    folder = make(tmp_path / "m", INDEX, {"model.safetensors": "a", "adapter_model.safetensors": "lora"})
    (folder / ".git").mkdir()
    without_notes = (".csv", ".gitlab.json", ".badge.json")
    reports = [tmp_path / f"r{suffix}" for suffix in REPORT_SUFFIXES if suffix not in without_notes]
    outcome = qdq("stats", folder, *(part for path in reports for part in ("--report", path)), "--format", "table")
    warning, *notes, last = sorted(outcome.err.splitlines(), key=lambda line: not line.startswith("warning"))
    assert last.startswith("wrote ")
    assert warning.startswith(f"warning: {folder}/model.safetensors: a whole checkpoint beside shards")
    assert sorted(notes) == [
        f"note: {folder}/.git: not copied: not part of a checkpoint",
        f"note: {folder}/adapter_model.safetensors: not named by the index; its tensors are processed like the others",
    ]
    for path in reports:
        text = path.read_text()
        assert "transformers loads this file" in text, path
        assert "not named by the index" in text, path
    stored = tmp_path / "r.json"
    shown = qdq("render", stored, "--format", "table").out
    assert " ".join(shown.split()).count("not part of a checkpoint") == 1
    assert qdq("render", stored, "--format", "json").report == json.loads(stored.read_text())


@pytest.mark.parametrize("command", ["inspect", "stats", "explain"])
def test_notes_are_in_the_json_of_every_command_that_lists_tensors(qdq: Qdq, tmp_path: Path, command: str) -> None:
    folder = make(tmp_path / "m", {}, {SHARDS[0]: "a"})
    (tmp_path / "r.toml").write_text("schema = 1\n[defaults]\nnum_bits = 4\n")
    words = ["recipe", "explain", tmp_path / "r.toml"] if command == "explain" else [command]
    (note,) = qdq(*words, folder, "--format", "json").report["notes"]
    assert note == {
        "kind": "incomplete",
        "severity": "warning",
        "file": f"{folder}/{SHARDS[0]}",
        "names": [SHARDS[1]],
        "num_names": 1,
        "message": f"1 shard of the same checkpoint missing: '{SHARDS[1]}'; no index lists them, so the download may "
        "be incomplete",
    }


@pytest.mark.parametrize("format_name", ["table", "markdown"])
def test_a_listing_for_eyes_ends_with_the_notes(qdq: Qdq, tmp_path: Path, format_name: str) -> None:
    folder = make(tmp_path / "m", {}, {SHARDS[0]: "a"})
    last = qdq("inspect", folder, "--format", format_name).out.splitlines()[-1]
    assert last.startswith("warning: ")
    assert "1 shard of the same checkpoint missing" in last


def test_a_comparison_has_the_notes_of_both_sides(qdq: Qdq, tmp_path: Path) -> None:
    for side in ("x", "y"):
        make(tmp_path / side, {}, {SHARDS[0]: "a"})
    report = qdq("compare", tmp_path / "x", tmp_path / "y", "--format", "json").report
    assert [note["file"] for note in report["notes"]] == [f"{tmp_path}/{side}/{SHARDS[0]}" for side in ("x", "y")]


def test_the_id_of_a_model_is_answered_with_the_way_to_it(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument = "org/name"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    outcome = qdq("stats", argument)
    assert outcome.code == 3
    assert "hf download org/name --local-dir name" in outcome.error
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    assert f"local Hugging Face cache: give {snapshot}" in qdq("stats", argument).error


@pytest.mark.parametrize("argument", ["model.safetensors", "/org/name", "a/b/c", "org/$(id)", "org/w.npy", "here/name"])
def test_what_cannot_be_an_id_gets_no_such_advice(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "Hugging Face" not in qdq("stats", argument).error


def test_a_link_out_of_the_folder_is_followed_only_where_that_is_asked_for(qdq: Qdq, tmp_path: Path) -> None:
    folder = make(tmp_path / "m", {}, {"model.safetensors": "a"})
    secret = tmp_path / "home" / "id_rsa"
    secret.parent.mkdir()
    secret.write_text("PRIVATE")
    secret.chmod(0o600)
    (folder / "tokenizer.model").symlink_to("../home/id_rsa")
    for command in (["stats"], ["inspect"], ["compare", folder], ["run", "-o", tmp_path / "out"]):
        outcome = qdq(*command, folder)
        assert outcome.code == 3
        assert f"{folder}/tokenizer.model: a link leads out of the checkpoint" in outcome.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "m"]
    report = qdq("run", folder, "-o", tmp_path / "out", "--follow-links", "--format", "json", "--quiet").report
    (note,) = report["notes"]
    assert (note["kind"], note["file"], note["other"]) == ("link", f"{folder}/tokenizer.model", "../home/id_rsa")
    assert (tmp_path / "out" / "tokenizer.model").read_text() == "PRIVATE"
    assert (tmp_path / "out" / "tokenizer.model").stat().st_mode & 0o777 == 0o600
