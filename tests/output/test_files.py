"""Files beside OUTPUT: what they may replace and where they may be. OUTPUT itself is tested with `OutputTree`."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from qdqcli.errors import OutputError, UsageError
from qdqcli.output.files import NamedFile, check_files
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.tensors.files import model_folder, safetensors_bytes, write

GOOD = safetensors_bytes({"w": ("F32", (2,))})


def report(path: Path) -> list[NamedFile]:
    return [NamedFile(path, "--report")]


@pytest.mark.parametrize(
    "place",
    [
        *("m/config.json", "linked/config.json", "m/../m/config.json", "hard.json", "soft.json", "m/.git/kept.json"),
        *("m/dangling.json", "dangling.json", "blobs/1.json", "w.json", "m/new.json", "m/no/new.json"),
    ],
)
def test_nothing_is_written_over_or_into_an_input(tmp_path: Path, place: str) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "config.json", b"{}")
    write(folder / ".git" / "kept.json", b"{}")
    (folder / "no").mkdir()
    (tmp_path / "linked").symlink_to("m")
    os.link(folder / "config.json", tmp_path / "hard.json")
    (tmp_path / "soft.json").symlink_to("m/config.json")
    (folder / "tokenizer.json").symlink_to(write(tmp_path / "blobs" / "1.json", b"{}"))
    (tmp_path / "dangling.json").symlink_to("m/new.json")
    file = write(tmp_path / "w.safetensors", GOOD)
    (tmp_path / "w.json").symlink_to(file)
    inputs = [open_checkpoint(file), open_checkpoint(folder, follow_links=True)]
    (folder / "dangling.json").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"is a file of the input|lies in the input"):
        check_files([], report(tmp_path / place), inputs=inputs)


@pytest.mark.parametrize("place", ["new.json", "m.json", "beside.json", "out.json"])
def test_other_files_may_be_written(tmp_path: Path, place: str) -> None:
    folder = model_folder(tmp_path / "m")
    write(tmp_path / "beside.json", b"old")
    outputs = [tmp_path / "out", tmp_path / "out.qdq-partial"]
    check_files([], report(tmp_path / place), inputs=[open_checkpoint(folder)], outputs=outputs)


@pytest.mark.parametrize("place", ["out", "out/r.json", "out/a/b/r.json", "linked/r.json", "./x/../out/r.json"])
@pytest.mark.parametrize("use", ["read", "written"])
def test_nothing_has_the_place_of_an_output(tmp_path: Path, place: str, use: str) -> None:
    if place != "out":
        (tmp_path / "out" / "a" / "b").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "linked").symlink_to("out")
    files = report(tmp_path / place)
    with pytest.raises(UsageError, match="is or lies in the output"):
        check_files(*((files, []) if use == "read" else ([], files)), outputs=[tmp_path / "out"])


SPELLINGS = ["same", "relative", "dots", "link", "hard link", "linked folder"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("use", ["read", "written"])
def test_a_written_file_is_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, use: str
) -> None:
    file = write(tmp_path / "d" / "r.json", b"{}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.json").symlink_to("d/r.json")
    (tmp_path / "linked").symlink_to("d")
    os.link(file, tmp_path / "hard.json")
    other = {
        "same": file,
        "relative": Path("d/r.json"),
        "dots": tmp_path / "d" / ".." / "d" / "r.json",
        "link": tmp_path / "link.json",
        "hard link": tmp_path / "hard.json",
        "linked folder": tmp_path / "linked" / "r.json",
    }[spelling]
    others = [NamedFile(other, "--recipe")]
    with pytest.raises(UsageError, match="--recipe"):
        check_files(*((others, report(file)) if use == "read" else ([], [*others, *report(file)])))


@pytest.mark.parametrize("names", [("r.json", "r.json"), ("r.json", "R.JSON"), ("\u00e9.json", "e\u0301.json")])
def test_two_new_files_need_two_names_on_every_disk(tmp_path: Path, names: tuple[str, str]) -> None:
    one, other = (tmp_path / name for name in names)
    with pytest.raises(UsageError, match="is written by --report and by --report"):
        check_files([], [*report(one), *report(other)])
    write(one, b"")
    if other.exists():  # names that are one here, or a disk that ignores case
        return
    check_files([], [*report(one), *report(other)])  # this disk tells them apart


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("folder", "is a folder"), ("pipe", "is not a regular file"), ("no folder", "there is no folder")],
)
def test_what_cannot_be_written_is_found_before_the_work(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "r.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = tmp_path / "none" / "r.json"
    with pytest.raises(UsageError, match=reason):
        check_files([], report(path))


def test_a_file_may_be_writable_in_a_folder_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "r.json", b"")
    monkeypatch.setattr(os, "access", lambda found, _: Path(found) == path)  # root may write everywhere
    check_files([], report(path))
    with pytest.raises(OutputError, match="no permission to write"):
        check_files([], report(tmp_path / "new.json"))


def test_a_pipe_that_is_standard_output_is_no_file() -> None:
    """`-o /dev/stdout`: the link in /proc leads to a pipe whose name is nowhere."""
    with ExitStack() as undo:
        for end in os.pipe():
            undo.callback(os.close, end)
        with pytest.raises(UsageError, match="is not a regular file"):
            check_files([], report(Path(f"/dev/fd/{end}")))


def test_a_page_that_is_added_to_may_be_a_device() -> None:
    check_files([], [NamedFile(Path("/dev/null"), "GITHUB_STEP_SUMMARY", is_appended=True)])
