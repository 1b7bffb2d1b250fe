"""`qdq demo`: the sample checkpoint from an installed package, and commands that work on it."""

import shlex
from pathlib import Path

import pytest

from tests.conftest import Qdq

SAMPLE = Path(__file__).parents[2] / "sample_data" / "tiny-llama"


def test_it_writes_the_sample_and_says_what_to_type(qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = qdq("demo", "a/my model")
    assert outcome.code == 0
    assert outcome.err == "wrote a/my model (5 files, 1.06 MB); next:\n"
    made = {path.name: path.read_bytes() for path in (tmp_path / "a" / "my model").iterdir()}
    assert made == {path.name: path.read_bytes() for path in SAMPLE.iterdir()}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["my model"]
    commands = [shlex.split(line) for line in outcome.out.splitlines()]
    assert [words[:3] for words in commands] == [["qdq", name, "a/my model"] for name in ("stats", "sweep", "run")]
    for words in commands:
        if words[1] != "sweep":  # tests of its own
            assert qdq(*words[1:]).code == 0
    assert (tmp_path / "a" / "my model-int8" / "config.json").exists()


@pytest.mark.parametrize("name", ["file", "folder", "link"])
def test_it_replaces_nothing(qdq: Qdq, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    outcome = qdq("demo", tmp_path / name)
    assert outcome.code == 2
    assert "exists; give the name of a new folder" in outcome.error
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_that_cannot_be_made(qdq: Qdq, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    outcome = qdq("demo", tmp_path / "file" / "below")
    assert outcome.code == 4
    assert str(tmp_path / "file" / "below") in outcome.error


def test_a_name_that_is_no_folder(qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = qdq("demo", "s3://bucket/model")
    assert outcome.code == 2
    assert "s3://bucket/model: the sample is written to this computer" in outcome.error
    assert qdq("demo", "x" * 300).code == 4
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "words", [["recipe", "import"], ["recipe", "export", "linear-only", SAMPLE, "-s", "int4-g32", "--to", "mlx", "-o"]]
)
def test_a_name_that_the_system_refuses(qdq: Qdq, words: list[object]) -> None:
    outcome = qdq(*words, "x" * 300)
    assert outcome.code == 4
    assert outcome.error.endswith(": File name too long")
