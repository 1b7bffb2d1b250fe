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
    assert [str(path) for path in checkpoint.side_files] == ["1_Pooling/config.json", "config.json", INDEX]
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


@pytest.mark.parametrize("files", [{}, {"config.json": b"{}"}, {"pytorch_model.bin": b"\x80\x04."}])
def test_a_folder_without_checkpoint_says_what_was_looked_for(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        write(tmp_path / name, data)
    with pytest.raises(InputError, match=r"no checkpoint.*\*\.safetensors.*\*\.npy"):
        open_checkpoint(tmp_path)


def test_the_index_decides_what_is_read(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "consolidated.safetensors", b"not even looked at")
    write(folder / "mean.npy", npy_bytes(np.zeros(2)))
    write(folder / "pytorch_model.bin", b"\x80\x04.")
    checkpoint = open_checkpoint(folder)
    assert [shard.name for shard in checkpoint.shards] == [FIRST, SECOND]
    copied = [str(path) for path in checkpoint.side_files]
    assert "consolidated.safetensors" not in copied
    assert {"mean.npy", "pytorch_model.bin"} <= set(copied)
    assert checkpoint.notes == (
        "consolidated.safetensors: neither read nor copied: the index does not name it",
        "mean.npy: copied as it is, tensors in it are not quantized",
        "pytorch_model.bin: copied as it is, tensors in it are not quantized",
    )


def test_a_tensor_that_the_index_does_not_name_is_kept_with_a_note(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FIRST, "c": SECOND, "d": SECOND}}))
    checkpoint = open_checkpoint(folder)
    assert [tensor.name for tensor in checkpoint.tensors] == ["a", "b", "c", "d"]
    assert checkpoint.notes == (f"{FIRST}: 1 tensor(s) that the index does not name are kept: 'b'",)


def test_a_tensor_in_two_shards_is_superseded_where_the_index_says_so(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    write(folder / "overlay.safetensors", safetensors_bytes({"b": ("BF16", (8,))}))
    set_map(folder, b="overlay.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.superseded == {(FIRST, "b"): "overlay.safetensors"}
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
    checkpoint = open_checkpoint(tmp_path)
    assert [(tensor.shard, tensor.name) for tensor in checkpoint.tensors] == [
        ("model.safetensors", "w"),
        ("sub/v.NPY", "sub/v"),
        ("unet/other.safetensors", "w"),
        ("v.npy", "v"),
        ("x.npz", "k"),
    ]
    assert [str(path) for path in checkpoint.side_files] == ["sub/notes.txt"]
    assert checkpoint.notes == (
        ".git: not copied: not part of a checkpoint",
        "linked: not copied: a link to a folder",
    )


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
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "rev", tmp_path / "hub" / "blobs"
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
    assert "--dtype bf16" in open_checkpoint(path).notes[0]
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
