import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qdqcli.errors import InputError, UsageError
from qdqcli.tensors.checkpoint import FORMATS, expand_input, open_checkpoint
from tests.tensors.files import npy_bytes, safetensors_bytes, write

GOOD = safetensors_bytes({"w": ("F32", (2,))})


def test_a_file_is_a_checkpoint_with_one_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "X.SafeTensors", GOOD)
    checkpoint = open_checkpoint(path)
    assert not checkpoint.is_folder
    assert [shard.name for shard in checkpoint.shards] == ["X.SafeTensors"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.bin", b"\x80\x04.", "pickle, which is never loaded"),
        ("blob", GOOD, "is a .safetensors file"),
        ("model.txt", b"hello", "not a file of a known kind"),
    ],
)
def test_an_unknown_suffix_names_the_known_ones_and_what_it_is(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)
    assert all(suffix in str(caught.value) for suffix in FORMATS)


def test_missing_and_dangling_and_looping(tmp_path: Path) -> None:
    (tmp_path / "dangling.npy").symlink_to("nowhere")
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    for name, reason in (("missing.npy", "No such file"), ("dangling.npy", "link to something"), ("loop.npy", "back")):
        with pytest.raises(InputError, match=f"{name}: .*{reason}"):
            open_checkpoint(tmp_path / name)


def test_void_dtype_must_be_a_name_of_the_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'BF17' is not one of"):
        open_checkpoint(tmp_path, void_dtype="BF17")


def test_a_glob_gives_its_sorted_matches(tmp_path: Path) -> None:
    for name in ("b.npy", "a.npy", "c.txt"):
        write(tmp_path / name, b"")
    assert expand_input(f"{tmp_path}/*.npy") == [tmp_path / "a.npy", tmp_path / "b.npy"]
    with pytest.raises(InputError, match="no file or folder matches"):
        expand_input(f"{tmp_path}/*.npz")


def test_a_path_that_exists_is_no_glob(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1]*?.npy", b"")
    write(tmp_path / "a1x.npy", b"")
    assert expand_input(str(path)) == [path]


def test_a_missing_path_is_left_for_opening_to_report(tmp_path: Path) -> None:
    assert expand_input(str(tmp_path / "gone")) == [tmp_path / "gone"]


@pytest.mark.parametrize(
    ("url", "shown", "name"),
    [
        ("s3://b/k/", "s3://b/k", "k"),
        ("GS://b/a b/k.npy", "gs://b/a b/k.npy", "k.npy"),
        ("az://b", "az://b", "b"),
        ("HTTPS://me:password@host:1/a%20b/x.npy?sig=1#f", "https://host:1/a%20b/x.npy", "x.npy"),
    ],
)
def test_a_url_is_a_path_that_shows_no_secret(url: str, shown: str, name: str) -> None:
    (path,) = expand_input(url)
    assert (str(path), path.name, os.fspath(path)) == (shown, name, shown)
    assert str(path / "x") == f"{shown}/x"
    assert (path / "a" / "x").relative_to(path) == Path("a/x")
    assert pickle.loads(pickle.dumps(path)) == path


def test_an_empty_argument_is_refused() -> None:
    with pytest.raises(InputError, match="INPUT is empty"):
        expand_input("")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write(folder / os.fsdecode(b"m\xfe.safetensors"), GOOD)
    assert [os.fsencode(shard.name) for shard in open_checkpoint(folder).shards] == [b"m\xfe.safetensors"]
    with pytest.raises(InputError, match=r"\\xff/gone\.npy"):
        open_checkpoint(folder / "gone.npy")


def test_opening_imports_neither_numpy_nor_zipfile(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", GOOD)
    code = (
        "import sys; from pathlib import Path; from qdqcli.tensors.checkpoint import open_checkpoint; "
        "open_checkpoint(Path(sys.argv[1])); assert not {'numpy', 'zipfile'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize("descr", ["|V2", "<u2", "<i2"])
def test_arrays_that_may_be_bfloat16_are_noted(tmp_path: Path, descr: str) -> None:
    path = write(tmp_path / "x.npy", npy_bytes(np.zeros(3, descr)))
    (note,) = open_checkpoint(path).notes
    assert note.names == ("x",)
    assert "--dtype bf16" in note.text()
    assert open_checkpoint(path, void_dtype="BF16").notes == ()


def test_integers_beside_floats_are_integers(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.zeros(3, "<f4"), ids=np.zeros(3, "<u2"))
    assert open_checkpoint(tmp_path / "x.npz").notes == ()
