import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.index import MAX_INDEX_BYTES
from qdqcli.tensors.note import MAX_NAMES, Note, NoteKind
from tests.tensors.files import model_folder, npy_bytes, read_all, safetensors_bytes, write, zip_bytes

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def set_map(folder: Path, **change: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].update(change)
    (folder / INDEX).write_text(json.dumps(index))


def test_a_folder_with_an_index(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(model_folder(tmp_path / "m"))
    assert checkpoint.is_folder
    assert [shard.name for shard in checkpoint.shards] == [FIRST, SECOND]
    assert [(tensor.name, tensor.shard) for tensor in checkpoint.tensors] == [
        ("a", FIRST),
        ("b", FIRST),
        ("c", SECOND),
        ("d", SECOND),
    ]
    assert [str(side.name) for side in checkpoint.side_files] == ["1_Pooling/config.json", "config.json", INDEX]
    assert checkpoint.notes == ()
    assert checkpoint.superseded == {}


def replace_index(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / INDEX).write_bytes(content)


def damage_shard(folder: Path) -> None:
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1])


def make_pipe(folder: Path) -> None:
    (folder / SECOND).unlink()
    os.mkfifo(folder / SECOND)


REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "is not JSON": (INDEX, replace_index(b"")),
    "is not UTF-8": (INDEX, replace_index(b'{"\xff":1}')),
    "is not a JSON object": (INDEX, replace_index(b"[]")),
    "key 'weight_map' twice": (INDEX, replace_index(b'{"weight_map":{},"weight_map":{}}')),
    "key 'a' twice": (INDEX, replace_index(b'{"weight_map":{"a":"x","a":"y"}}')),
    "no object weight_map": (INDEX, replace_index(b'{"weight_map":["a"]}')),
    "empty weight_map": (INDEX, replace_index(b'{"weight_map":{}}')),
    "maps tensor 'a' to 7": (INDEX, lambda folder: set_map(folder, a=7)),
    "'../out.safetensors'": (INDEX, lambda folder: set_map(folder, a="../out.safetensors")),
    "'/out.safetensors'": (INDEX, lambda folder: set_map(folder, a="/out.safetensors")),
    "'..\\out.safetensors'": (INDEX, lambda folder: set_map(folder, a="..\\out.safetensors")),
    "'out\\x00.safetensors'": (INDEX, lambda folder: set_map(folder, a="out\0.safetensors")),
    "'pytorch_model.bin'": (INDEX, lambda folder: set_map(folder, a="pytorch_model.bin")),
    "dd...'": (INDEX, lambda folder: set_map(folder, a="d" * 5000 + ".safetensors")),
    "names the shard 'gone.safetensors', which is not there": (
        INDEX,
        lambda folder: set_map(folder, z="gone.safetensors"),
    ),
    "tensor 'z' is in": (INDEX, lambda folder: set_map(folder, z=SECOND)),
    "does not hold it": (INDEX, lambda folder: set_map(folder, a=SECOND)),
    "download may be incomplete": (SECOND, damage_shard),
    "not a regular file": (SECOND, make_pipe),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_with_reason_and_file(tmp_path: Path, reason: str) -> None:
    folder = model_folder(tmp_path / "m")
    name, damage = REFUSED[reason]
    damage(folder)
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    assert str(caught.value).startswith(str(folder / name))
    assert reason in str(caught.value)


@pytest.mark.parametrize("files", [{}, {"config.json": b"{}"}])
def test_a_folder_without_checkpoint_says_what_was_looked_for(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        write(tmp_path / name, data)
    with pytest.raises(InputError, match=r"no checkpoint.*\*\.safetensors.*\*\.npy"):
        open_checkpoint(tmp_path)


def test_weights_beside_an_index_are_read_or_copied(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "consolidated.safetensors", safetensors_bytes({"e": ("F32", (2,))}))
    write(folder / "mean.npy", npy_bytes(np.zeros(2)))
    write(folder / "pytorch_model.bin", b"\x80\x04.")
    checkpoint = open_checkpoint(folder)
    assert [shard.name for shard in checkpoint.shards] == ["consolidated.safetensors", FIRST, SECOND]
    assert {"mean.npy", "pytorch_model.bin"} <= {str(side.name) for side in checkpoint.side_files}
    assert checkpoint.notes == (
        Note(NoteKind.UNREAD, str(folder / "mean.npy")),
        Note(NoteKind.UNREAD, str(folder / "pytorch_model.bin")),
        Note(NoteKind.UNLISTED, str(folder / "consolidated.safetensors")),
    )


def test_a_tensor_that_the_index_does_not_name_is_kept_with_a_note(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "c": SECOND, "d": SECOND}}))
    checkpoint = open_checkpoint(folder)
    assert [tensor.name for tensor in checkpoint.tensors] == ["a", "b", "c", "d"]
    assert checkpoint.notes == (Note(NoteKind.UNINDEXED, str(folder / FIRST), ("b",), 1),)


def test_a_tensor_in_two_shards_is_superseded_where_the_index_says_so(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "overlay.safetensors", safetensors_bytes({"b": ("BF16", (8,))}))
    set_map(folder, b="overlay.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.superseded == {(FIRST, "b"): "overlay.safetensors"}
    assert checkpoint.notes == (Note(NoteKind.SUPERSEDED, str(folder / FIRST), ("b",), 1, "overlay.safetensors"),)
    assert len(list(checkpoint.tensors)) == 5


def test_without_an_index_every_known_file_is_read_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", safetensors_bytes({"w": ("F32", (2,))}))
    write(tmp_path / "unet" / "other.safetensors", safetensors_bytes({"w": ("F32", (2,))}))
    write(tmp_path / "v.npy", npy_bytes(np.zeros(3)))
    write(tmp_path / "sub" / "v.NPY", npy_bytes(np.zeros(3)))
    write(tmp_path / "x.npz", zip_bytes([("k.npy", npy_bytes(np.zeros(3)))]))
    write(tmp_path / "sub" / "notes.txt", b"x")
    write(tmp_path / ".git" / "config", b"x")
    (tmp_path / "linked").symlink_to(tmp_path / "sub")
    (tmp_path / "unet" / "beside").symlink_to("../sub/v.NPY")
    checkpoint = open_checkpoint(tmp_path)
    assert [(tensor.shard, tensor.name) for tensor in checkpoint.tensors] == [
        ("linked/v.NPY", "linked/v"),
        ("model.safetensors", "w"),
        ("sub/v.NPY", "sub/v"),
        ("unet/other.safetensors", "w"),
        ("v.npy", "v"),
        ("x.npz", "k"),
    ]
    assert [str(side.name) for side in checkpoint.side_files] == ["linked/notes.txt", "sub/notes.txt", "unet/beside"]
    assert checkpoint.notes == (Note(NoteKind.LEFT_OUT, str(tmp_path / ".git")),)


@pytest.mark.parametrize(
    "index",
    ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json", "model.safetensors.index-v2.json"],
)
def test_the_index_of_a_variant_is_an_index(tmp_path: Path, index: str) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "half-1.safetensors", safetensors_bytes({"a": ("F16", (4, 8))}))
    write(folder / index, json.dumps({"weight_map": {"a": "half-1.safetensors"}}).encode())
    checkpoint = open_checkpoint(folder)
    assert [shard.name for shard in checkpoint.shards] == ["half-1.safetensors", FIRST, SECOND]
    assert checkpoint.notes == ()
    assert checkpoint.superseded == {}
    write(folder / index, json.dumps({"weight_map": {"a": "gone.safetensors"}}).encode())
    with pytest.raises(InputError, match=r"gone\.safetensors', which is not there"):
        open_checkpoint(folder)


def test_what_one_index_counts_another_does_not_supersede(tmp_path: Path) -> None:
    for name in ("s", "t"):
        write(tmp_path / f"{name}.safetensors", safetensors_bytes({"w": ("F32", (2,)), name: ("F32", (2,))}))
    maps = {"": {"w": "s.safetensors", "t": "t.safetensors"}, ".b": {"w": "t.safetensors", "s": "s.safetensors"}}
    for variant, weight_map in maps.items():
        index = json.dumps({"weight_map": weight_map}).encode()
        write(tmp_path / f"model.safetensors.index{variant}.json", index)
    assert open_checkpoint(tmp_path).superseded == {}


def test_an_index_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    os.truncate(folder / INDEX, MAX_INDEX_BYTES + 1)
    with pytest.raises(InputError, match=f"an index of at most {32 << 20} is read"):
        open_checkpoint(folder)


@pytest.mark.parametrize(("single", "with_index"), [("model", True), ("model", False), ("model.fp16", False)])
def test_a_whole_checkpoint_beside_shards_is_read_with_a_warning(tmp_path: Path, single: str, with_index: bool) -> None:
    folder = model_folder(tmp_path / "m")
    if not with_index:
        (folder / INDEX).unlink()
    numbers = (FIRST, SECOND)
    if single == "model.fp16":  # as older releases of diffusers name the shards of a variant
        numbers = tuple(name.replace(".safe", ".fp16.safe") for name in numbers)
        for old, new in zip((FIRST, SECOND), numbers, strict=True):
            (folder / old).rename(folder / new)
    write(folder / f"{single}.safetensors", safetensors_bytes({"a": ("F32", (4, 8))}))
    checkpoint = open_checkpoint(folder)
    assert f"{single}.safetensors" in [shard.name for shard in checkpoint.shards]
    (note,) = checkpoint.notes
    other = INDEX if with_index else numbers[0]
    assert note == Note(NoteKind.STALE, str(folder / f"{single}.safetensors"), other=other)
    assert note.is_warning
    assert "transformers loads this file" in note.text()


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (["model-00001-of-00002"], ["model-00002-of-00002"]),
        (["model.fp16-00002-of-00003"], ["model.fp16-00001-of-00003", "model.fp16-00003-of-00003"]),
        (["m-00001-of-00002.fp16"], ["m-00002-of-00002.fp16"]),
        (["model_0_of_3", "model_2_of_3"], ["model_1_of_3"]),
        (["model-1-of-99999999999999"], [f"model-{i:014}-of-99999999999999" for i in range(2, 12)]),
    ],
)
def test_numbered_shards_without_index_and_siblings_are_a_warning(
    tmp_path: Path, there: list[str], missing: list[str]
) -> None:
    for name in there:
        write(tmp_path / f"{name}.safetensors", safetensors_bytes({"w": ("F32", (2,))}))
    (note,) = open_checkpoint(tmp_path).notes
    assert (note.kind, note.file) == (NoteKind.INCOMPLETE, str(tmp_path / f"{there[0]}.safetensors"))
    assert note.names == tuple(f"{name}.safetensors" for name in missing)
    assert note.num_names == (99999999999998 if len(missing) == MAX_NAMES else len(missing))
    assert note.is_warning


@pytest.mark.parametrize("first", [0, 1])
def test_a_whole_set_of_numbered_shards_needs_no_index(tmp_path: Path, first: int) -> None:
    for number in range(first, first + 3):
        write(tmp_path / f"model-0000{number}-of-00003.safetensors", safetensors_bytes({"w": ("F32", (2,))}))
    assert open_checkpoint(tmp_path).notes == ()


def test_an_index_says_that_shards_are_all(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / SECOND).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "b": FIRST}}))
    assert open_checkpoint(folder).notes == ()


def test_a_shard_that_the_index_leaves_out_is_not_without_its_sibling(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "b": FIRST}}))
    assert [(note.kind, note.file) for note in open_checkpoint(folder).notes] == [
        (NoteKind.UNLISTED, str(folder / SECOND))
    ]


@pytest.mark.parametrize("refs", [True, False])
@pytest.mark.parametrize("above", [True, False])
def test_a_hub_cache_is_answered_with_its_snapshot(tmp_path: Path, refs: bool, above: bool) -> None:
    cache = tmp_path / "hub" / "models--org--name"
    write(cache / "blobs" / "1", safetensors_bytes({"w": ("F32", (2,))}))
    (cache / "snapshots" / "rev1").mkdir(parents=True)
    (cache / "snapshots" / "rev1" / "model.safetensors").symlink_to("../../blobs/1")
    if refs:
        (cache / "snapshots" / "rev0").mkdir()
        write(cache / "refs" / "main", b"rev1\n")
    with pytest.raises(InputError, match=f"give its snapshot {cache}/snapshots/rev1"):
        open_checkpoint(cache.parent if above else cache)
    (cache / "snapshots" / "rev2").mkdir()
    write(cache / "refs" / "main", b"../../etc")
    with pytest.raises(InputError, match=f"give a folder of {cache}/snapshots"):
        open_checkpoint(cache)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pytorch_model.bin", "save_pretrained"),
        ("unet/model.ONNX", "numpy.savez"),
        ("tf_model.h5", "get_weights"),
        ("flax_model.msgpack", "from_flax"),
    ],
)
def test_a_folder_of_other_formats_is_named_for_what_it_holds(tmp_path: Path, name: str, hint: str) -> None:
    write(tmp_path / "config.json", b"{}")
    write(tmp_path / name, b"x")
    with pytest.raises(InputError, match=f"no checkpoint in this folder; '{name}' is a.*{hint}"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match=f"is a.*{hint}"):
        open_checkpoint(tmp_path / name)


def test_a_pointer_of_git_lfs_is_said_before_all_else(tmp_path: Path) -> None:
    path = write(tmp_path / "model.bin", b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="Git LFS pointer"):
        open_checkpoint(path)


def test_an_index_in_a_sub_folder_counts_there(tmp_path: Path) -> None:
    model_folder(tmp_path / "transformer")
    write(tmp_path / "vae.safetensors", safetensors_bytes({"v": ("F32", (2,))}))
    checkpoint = open_checkpoint(tmp_path)
    assert [shard.name for shard in checkpoint.shards] == [
        f"transformer/{FIRST}",
        f"transformer/{SECOND}",
        "vae.safetensors",
    ]
    assert checkpoint.notes == ()


def test_reads_through_the_links_of_a_hub_cache(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "source")
    cache = tmp_path / "models--org--name"
    snapshot, blobs = cache / "snapshots" / "rev", cache / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for i, name in enumerate((FIRST, SECOND, INDEX)):
        (blobs / str(i)).write_bytes((source / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{i}")
    checkpoint = open_checkpoint(snapshot)
    assert [shard.name for shard in checkpoint.shards] == [FIRST, SECOND]
    read_all(checkpoint)


def test_a_tensor_of_unnamed_bytes_gets_a_note(tmp_path: Path) -> None:
    path = write(tmp_path / "w.npy", npy_bytes(np.zeros(2, "V2")))
    (note,) = open_checkpoint(path).notes
    assert note == Note(NoteKind.UNNAMED_DTYPE, str(path), ("w",), 1)
    assert "--dtype bf16" in note.text()
    assert open_checkpoint(path, void_dtype="BF16").notes == ()


MANY_SHARDS = """
from pathlib import Path
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.tensors.files import read_all
import sys
read_all(open_checkpoint(Path(sys.argv[1])))
"""


def test_300_shards_need_few_descriptors(tmp_path: Path) -> None:
    for i in range(300):
        write(tmp_path / f"s{i}.safetensors", safetensors_bytes({f"w{i}": ("F32", (2,))}))
    subprocess.run(
        [sys.executable, "-c", MANY_SHARDS, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
        check=True,
    )


def test_arrays_of_python_objects_are_side_files(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.zeros((2, 2), "<f4"))
    np.save(tmp_path / "vocabulary.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    checkpoint = open_checkpoint(tmp_path)
    assert [shard.name for shard in checkpoint.shards] == ["w.npy"]
    assert [file.name for file in checkpoint.side_files] == [Path("vocabulary.npy")]
    assert checkpoint.notes == (Note(NoteKind.UNREAD, str(tmp_path / "vocabulary.npy")),)


def test_a_folder_of_nothing_but_python_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "vocabulary.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        open_checkpoint(tmp_path)
