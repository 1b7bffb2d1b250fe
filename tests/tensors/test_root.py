"""Links in a checkpoint: what they may lead to, and that nothing else is ever read."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import Checkpoint, SideFile, open_checkpoint
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.path import MAX_LINKS
from qdqcli.tensors.root import CheckpointRoot, NamedTarget
from tests.tensors.files import safetensors_bytes, write

GOOD = safetensors_bytes({"w": ("F32", (2,))})
SECRET = b"a private key"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A snapshot in a Hub cache, with two files and a folder, beside what is not for others."""
    model = tmp_path / "hub" / "models--org--name" / "snapshots" / "rev"
    write(model / "model.safetensors", GOOD)
    write(model / "sub" / "config.json", b"{}")
    write(model.parents[1] / "blobs" / "1", b"words")
    write(model.parents[1] / "blobs" / "2", GOOD)
    write(model.parents[2] / "blobs" / "ab" / "3", b"shared")
    write(model.parents[2] / "models--org--other" / "blobs" / "4", b"of another model")
    write(tmp_path / "home" / "id_rsa", SECRET)
    write(tmp_path / "home" / "model.safetensors", GOOD)
    write(
        tmp_path / "home" / "model.safetensors.index.json",
        json.dumps({"weight_map": {"w": "model.safetensors"}}).encode(),
    )
    (tmp_path / "home" / "back").symlink_to(model / "model.safetensors")
    (tmp_path / "linked").symlink_to(model)
    return model


def link(model: Path, **targets: str) -> None:
    """Links in the model; `__` in a name is a slash, and a target may name the folder of the test."""
    for name, target in targets.items():
        (model / name.replace("__", "/")).symlink_to(target.format(model.parents[3]))


LEAVES: dict[str, Callable[[Path], object]] = {
    "a side file": lambda m: link(m, tokenizer="../../../../home/id_rsa"),
    "a side file in a folder": lambda m: link(m, sub__tokenizer="../../../../../home/id_rsa"),
    "an absolute path": lambda m: link(m, tokenizer="{}/home/id_rsa"),
    "a shard": lambda m: (m / "s.safetensors").symlink_to("../../../../home/model.safetensors"),
    "an index": lambda m: (m / "model.safetensors.index.json").symlink_to(
        "../../../../home/model.safetensors.index.json"
    ),
    "a folder": lambda m: link(m, folder="../../../../home"),
    "the root of the system": lambda m: link(m, folder="/"),
    "a folder above": lambda m: link(m, folder=".."),
    "a link to a link": lambda m: link(m, tokenizer="sub/hop", sub__hop="../../../../../home/id_rsa"),
    "out and in again": lambda m: link(m, tokenizer="../../../../home/back"),
    "through a folder inside": lambda m: link(m, tokenizer="sub/../../../../../home/id_rsa"),
    "a blob that is a link": lambda m: (
        link(m, tokenizer="../../blobs/key"),
        (m.parents[1] / "blobs" / "key").symlink_to("../../../home/id_rsa"),
    ),
    "out of the blobs": lambda m: link(m, tokenizer="../../blobs/../../../home/id_rsa"),
    "the blobs of another model": lambda m: link(m, tokenizer="../../../models--org--other/blobs/4"),
    "the model's own cache": lambda m: link(m, folder="../.."),
    "blobs that are a link": lambda m: (
        (m.parents[1] / "blobs").rename(m.parents[1] / "old"),
        (m.parents[1] / "blobs").symlink_to("../../home"),
        link(m, tokenizer="../../blobs/id_rsa"),
    ),
    "a name that begins alike": lambda m: (
        write(m.with_name("revision") / "x", SECRET),
        link(m, tokenizer="../revision/x"),
    ),
}


@pytest.mark.parametrize("how", LEAVES)
def test_a_link_that_leaves_the_checkpoint_is_refused_and_can_be_allowed(model: Path, how: str) -> None:
    LEAVES[how](model)
    with pytest.raises(InputError, match=r"link leads out of the checkpoint, to '.*'; .*--follow-links"):
        open_checkpoint(model)
    if how in ("the root of the system", "a folder above", "the model's own cache"):
        return  # what they lead to is refused for other reasons, or has no end
    checkpoint = open_checkpoint(model, follow_links=True)
    assert next(note.file for note in checkpoint.notes if note.kind is NoteKind.LINK).startswith(str(model))
    read_side_files(checkpoint)


STAYS: dict[str, Callable[[Path], object]] = {
    "a blob": lambda m: link(m, tokenizer="../../blobs/1"),
    "a blob from a folder": lambda m: link(m, sub__tokenizer="../../../blobs/1"),
    "a shared blob": lambda m: link(m, tokenizer="../../../blobs/ab/3"),
    "a blob that is a link to a shared one": lambda m: (
        link(m, tokenizer="../../blobs/hop"),
        (m.parents[1] / "blobs" / "hop").symlink_to("../../blobs/ab/3"),
    ),
    "beside it": lambda m: link(m, tokenizer="sub/config.json"),
    "above it": lambda m: link(m, sub__tokenizer="../model.safetensors"),
    "out and in by name": lambda m: link(m, tokenizer="../rev/./sub//config.json"),
    "an absolute path": lambda m: link(m, tokenizer=f"{m}/sub/config.json"),
    "an absolute path through a link": lambda m: link(m, tokenizer="{}/linked/sub/config.json"),
    "links to links": lambda m: link(m, tokenizer="sub/a", sub__a="../b", b="sub/config.json"),
    "a folder": lambda m: link(m, folder="sub"),
    "a link in a folder that is one": lambda m: link(m, folder="sub", sub__tokenizer="../../../blobs/1"),
}


@pytest.mark.parametrize("how", STAYS)
def test_a_link_that_stays_is_like_a_file(model: Path, how: str) -> None:
    STAYS[how](model)
    checkpoint = open_checkpoint(model.parents[3] / "linked" if "through" in how else model)
    assert checkpoint.notes == ()
    assert len(checkpoint.side_files) > 1
    assert all(data in (b"{}", b"words", b"shared", GOOD) for data in read_side_files(checkpoint))


def test_a_shard_may_be_a_blob(model: Path) -> None:
    (model / "s.safetensors").symlink_to("../../blobs/2")
    assert [shard.name for shard in open_checkpoint(model).shards] == ["model.safetensors", "s.safetensors"]


def test_blobs_are_those_of_a_hub_cache_only(tmp_path: Path) -> None:
    """`snapshots` and `blobs` may be anybody's words."""
    folder = tmp_path / "work" / "snapshots" / "m"
    write(folder / "model.safetensors", GOOD)
    write(tmp_path / "work" / "blobs" / "x", SECRET)
    (folder / "tokenizer").symlink_to("../../blobs/x")
    with pytest.raises(InputError, match="leads out of the checkpoint"):
        open_checkpoint(folder)


def test_an_input_that_is_a_link_was_named_by_its_user(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").symlink_to(model / "model.safetensors")
    assert open_checkpoint(tmp_path / "m.safetensors").notes == ()
    assert open_checkpoint(tmp_path / "linked").notes == ()


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ({"a": "nowhere"}, "a: is a link to something that is not there; check where it leads"),
        ({"a": "sub/no/file"}, "a: is a link to something that is not there"),
        ({"a": "b", "b": "sub/c", "sub__c": "../a"}, "a: .*; the link leads back to itself"),
        ({"a": "a/x"}, "a: .*; the link leads back to itself"),
        ({"sub__up": ".."}, "sub/up: is a link to a folder that holds it; remove the link"),
        ({"self": "."}, "self: is a link to a folder that holds it"),
        (
            {f"a{i}": f"a{i + 1}" for i in range(MAX_LINKS)} | {f"a{MAX_LINKS}": "sub/config.json"},
            "a0: .*back to itself",
        ),
    ],
)
def test_a_link_that_leads_nowhere_or_in_circles_is_an_error(
    model: Path, targets: dict[str, str], reason: str, follow_links: bool
) -> None:
    link(model, **targets)
    with pytest.raises(InputError, match=reason):
        open_checkpoint(model, follow_links=follow_links)


def test_links_cannot_make_many_folders_of_few(model: Path) -> None:
    for i in range(30):
        (model / f"d{i}").mkdir()
        (model / f"d{i}" / "l").symlink_to(f"../d{i + 1}")
        (model / f"d{i}" / "r").symlink_to(f"../d{i + 1}")
    write(model / "d30" / "x", b"")
    with pytest.raises(InputError, match="more than 16 links show this folder; remove some"):
        open_checkpoint(model)


def test_a_linked_folder_outside_gets_one_note(model: Path, tmp_path: Path) -> None:
    link(model, folder="{}/home")
    (tmp_path / "home" / "model.safetensors.index.json").unlink()
    checkpoint = open_checkpoint(model, follow_links=True)
    assert checkpoint.notes == (Note(NoteKind.LINK, f"{model}/folder", other=f"{tmp_path}/home"),)
    assert SECRET in read_side_files(checkpoint)


def test_git_and_caches_are_left_out_whatever_they_are(model: Path) -> None:
    write(model / "sub" / ".git", b"gitdir: ../..")
    link(model, **{".cache": "{}/home"})
    checkpoint = open_checkpoint(model)
    assert checkpoint.notes == (
        Note(NoteKind.LEFT_OUT, f"{model}/.cache"),
        Note(NoteKind.LEFT_OUT, f"{model}/sub/.git"),
    )
    assert [str(side.name) for side in checkpoint.side_files] == ["sub/config.json"]


def swap(model: Path, what: str) -> None:
    """Put a link out of the checkpoint in the place of a file or of the folder it lies in."""
    if what == "file":
        (model / "sub" / "config.json").unlink()
        (model / "sub" / "config.json").symlink_to(model.parents[3] / "home" / "id_rsa")
    else:
        (model / "sub").rename(model / "was")
        write(model.parents[3] / "home" / "config.json", SECRET)
        (model / "sub").symlink_to(model.parents[3] / "home")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_replaced_by_a_link_before_it_is_copied_is_refused(model: Path, what: str) -> None:
    (side,) = open_checkpoint(model).side_files
    swap(model, what)
    with pytest.raises(InputError, match="leads out of the checkpoint"):
        side.open()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_replaced_between_the_check_and_the_opening_is_not_read(
    model: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (side,) = open_checkpoint(model).side_files
    look_up = CheckpointRoot.look_up

    def then_swap(root: CheckpointRoot, name: str) -> NamedTarget:
        found = look_up(root, name)
        swap(model, what)
        return found

    monkeypatch.setattr(CheckpointRoot, "look_up", then_swap)
    with pytest.raises(InputError, match="changed after it was first looked at"):
        side.open()


def test_a_shard_replaced_while_the_folder_is_read_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another that is well formed."""
    look_up = CheckpointRoot.look_up

    def then_replace(root: CheckpointRoot, name: str) -> NamedTarget:
        found = look_up(root, name)
        if name == "model.safetensors":
            (model / name).unlink()
            (model / name).symlink_to(model.parents[3] / "home" / "model.safetensors")
        return found

    monkeypatch.setattr(CheckpointRoot, "look_up", then_replace)
    with pytest.raises(InputError, match=r"model\.safetensors: was replaced while the folder was read"):
        open_checkpoint(model)


def test_who_swaps_links_all_the_time_gets_nothing_read(model: Path) -> None:
    (side,) = open_checkpoint(model).side_files
    write(model / "was" / "config.json", b"{}")
    write(model.parents[3] / "home" / "config.json", SECRET)
    (side.path).unlink()
    (model / "sub").rmdir()
    num_read = 0
    with swapping(model / "sub", ("was", str(model.parents[3] / "home"))):
        for _ in range(2000):
            data = try_to_read(side)
            assert data in (None, b"{}")
            num_read += data is not None
    assert num_read


@contextmanager
def swapping(path: Path, targets: tuple[str, ...]) -> Iterator[None]:
    """Another thread that makes `path` a link to one after the other."""
    done = threading.Event()

    def swap_for_ever() -> None:
        for target in cycle(targets):
            path.with_name("new").symlink_to(target)
            path.with_name("new").rename(path)
            if done.is_set():
                return

    thread = threading.Thread(target=swap_for_ever)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def try_to_read(side: SideFile) -> bytes | None:
    try:
        with side.open() as file:
            return file.read(0, 100)
    except InputError:
        return None


def read_side_files(checkpoint: Checkpoint) -> list[bytes]:
    found = []
    for side in checkpoint.side_files:
        with side.open() as file:
            found.append(file.read(0, 1000))
    return found


def test_descriptors_are_given_back(model: Path) -> None:
    link(model, tokenizer="../../blobs/1", sub__out="../../../../../home/id_rsa")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(InputError):
            open_checkpoint(model)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
