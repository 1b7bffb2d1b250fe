"""A file beside OUTPUT: what it may replace and where it may be. OUTPUT itself is tested with `OutputTree`."""

import os
from pathlib import Path

import pytest

from qdqcli.errors import UsageError
from qdqcli.output.placement import check_extra_file
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.tensors.files import model_folder, safetensors_bytes, write

GOOD = safetensors_bytes({"w": ("F32", (2,))})


@pytest.mark.parametrize(
    "place",
    [
        *("m/config.json", "linked/config.json", "m/../m/config.json", "hard.json", "soft.json", "m/.git/kept.json"),
        *("m/dangling.json", "blobs/1.json", "w.json"),
    ],
)
def test_a_file_of_an_input_is_never_replaced(tmp_path: Path, place: str) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "config.json", b"{}")
    write(folder / ".git" / "kept.json", b"{}")
    (tmp_path / "linked").symlink_to("m")
    os.link(folder / "config.json", tmp_path / "hard.json")
    (tmp_path / "soft.json").symlink_to("m/config.json")
    (folder / "tokenizer.json").symlink_to(write(tmp_path / "blobs" / "1.json", b"{}"))
    (folder / "dangling.json").symlink_to("nowhere")
    file = write(tmp_path / "w.safetensors", GOOD)
    (tmp_path / "w.json").symlink_to(file)
    with pytest.raises(UsageError, match="is a file of the input"):
        check_extra_file(tmp_path / place, [open_checkpoint(file), open_checkpoint(folder)])


@pytest.mark.parametrize("place", ["new.json", "m/new.json", "m.json", "beside.json", "out.json"])
def test_other_files_may_be_written(tmp_path: Path, place: str) -> None:
    folder = model_folder(tmp_path / "m")
    write(tmp_path / "beside.json", b"old")
    check_extra_file(tmp_path / place, [open_checkpoint(folder)], [tmp_path / "out", tmp_path / "out.qdq-partial"])


@pytest.mark.parametrize("place", ["out", "out/r.json", "out/a/b/r.json", "linked/r.json", "./x/../out/r.json"])
def test_nothing_has_the_place_of_an_output(tmp_path: Path, place: str) -> None:
    folder = model_folder(tmp_path / "m")
    (tmp_path / "x").mkdir()
    (tmp_path / "linked").symlink_to("out")
    with pytest.raises(UsageError, match="is or lies in the output"):
        check_extra_file(tmp_path / place, [open_checkpoint(folder)], [tmp_path / "out"])
