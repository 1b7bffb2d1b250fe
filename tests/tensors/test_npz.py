import random
import threading
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from qdqcli.errors import InputError, OutputError
from qdqcli.tensors import deflate
from qdqcli.tensors.checkpoint import copy_tensor, open_file
from qdqcli.tensors.deflate import PIECE_BYTES, Pieces
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.npz import OPEN_MEMBERS, NpzReader
from qdqcli.tensors.spool import Spool
from tests.tensors.files import npy_bytes, npy_with_header, read_shard, rewrite, write, zip_bytes

A = np.arange(32, dtype="<f4").reshape(4, 8)
B = npy_bytes(A)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def with_fields(data: bytes, local: int, central: int, value: bytes) -> bytes:
    """Overwrite one field of the only member in its local header and in the directory."""
    begin = data.index(b"PK\1\2") + central
    data = data[:local] + value + data[local + len(value) :]
    return data[:begin] + value + data[begin + len(value) :]


def overlapping() -> bytes:
    data = zip_bytes([("a.npy", B)])
    begin, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[begin:end]
    tail = bytearray(data[end:])
    tail[8:12] = b"\2\0\2\0"
    tail[12:16] = (2 * len(entry)).to_bytes(4, "little")
    return data[:begin] + entry + entry.replace(b"a.npy", b"b.npy") + bytes(tail)


ONE = zip_bytes([("a.npy", B)])
OBJECTS = npy_with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04.")
REFUSED = {
    "not a readable zip": b"",
    "it is an .npy file": B,
    "not a zip file; the file is damaged": ONE[:-30],
    "behind the end": zip_bytes([("a.npy", B)], comment=b"xx").replace(b"\2\0xx", b"\0\0xx"),
    "before the zip archive": b"#!/bin/sh\n" + ONE,
    "not where the directory says": flipped(ONE, 0),
    "'../a.npy': its name is not a safe": zip_bytes([("../a.npy", B)]),
    "'/a.npy': its name": zip_bytes([("/a.npy", B)]),
    "'a\\x00b.npy'": zip_bytes([("aXb.npy", B)]).replace(b"aXb", b"a\0b"),
    "none of its 2 members is an array": zip_bytes([("readme.txt", b"hi"), ("folder/", b"")]),
    "'a//b': its name": zip_bytes([("a//b", b"hi")]),
    "member 'a': there are two": zip_bytes([("a.npy", B), ("a", B)]),
    "member 'readme': there are two": zip_bytes([("readme.npy", B), ("readme", b"hi")]),
    "two of this name": zip_bytes([("a.npy", B), ("b.npy", B)]).replace(b"b.npy", b"a.npy"),
    "encrypted": with_fields(ONE, 6, 8, b"\1\0"),
    "compression method 99": with_fields(ONE, 8, 10, b"\x63\0"),
    "two sizes differ": with_fields(ONE, 22, 24, b"\x0a\0\0\0"),
    "directory begins": with_fields(ONE, 18, 20, b"\0\0\1\0\0\0\1\0"),
    "overlaps": overlapping(),
    "the file has 246": zip_bytes([("a.npy", B[:-10])]),
    "would be lost": zip_bytes([("a.npy", B + b"xx")]),
    "does not begin as an .npy": zip_bytes([("a.npy", b"hello")]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_with_reason_and_file(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path / "bad.npz", REFUSED[reason])
    with pytest.raises(InputError) as caught:
        open_file(path, path.name)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_is_found_before_the_first_byte_is_handed_out(tmp_path: Path, method: int) -> None:
    big = np.random.default_rng(7).standard_normal(9000)
    data = zip_bytes([("a.npy", npy_bytes(big))], method)
    path = write(tmp_path / "x.npz", flipped(data, len(data) - 2000))
    shard = open_file(path, path.name)
    with shard.open() as reader, pytest.raises(InputError, match=r"x\.npz: member 'a\.npy'"):
        reader.read_into(shard.tensors[0], 0, memoryview(bytearray(8)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_round_trip_keeps_the_archive(tmp_path: Path, method: int) -> None:
    arrays = {
        "z": A,
        "params/layer/b": np.asfortranarray(A),
        "big": A.astype(">f8"),
        "scalar": np.array(7),
        "empty": np.zeros((0, 4), "<f4"),
        "text": np.array(["x", "yz"]),
        "模型": A > 3,
        "": A[0],
    }
    data = zip_bytes([(f"{key}.npy", npy_bytes(value)) for key, value in arrays.items()], method, b"made by x")
    path = write(tmp_path / "x.npz", data)
    shard = open_file(path, path.name)
    assert [tensor.name for tensor in shard.tensors] == list(arrays)
    assert rewrite(shard, tmp_path / "y.npz").read_bytes() == data
    with np.load(tmp_path / "y.npz") as loaded:
        for key, value in arrays.items():
            np.testing.assert_array_equal(loaded[key], value)


def test_values_written_are_those_that_numpy_reads(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=A, b=A)
    shard = open_file(tmp_path / "x.npz", "x.npz")
    with shard.open() as reader:
        writer = shard.create(tmp_path / "y.npz", reader)
        writer.write(shard.tensors[0], 4, memoryview(np.full(31, 9, "<f4")))
        writer.write(shard.tensors[0], 0, memoryview(np.full(1, -9, "<f4")))
        copy_tensor(shard.tensors[1], reader, writer)
        writer.commit()
    with np.load(tmp_path / "y.npz") as loaded:
        assert loaded["a"].ravel().tolist() == [-9] + [9] * 31
        np.testing.assert_array_equal(loaded["b"], A)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz", "y.npz"]


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", ONE)
    shard = open_file(path, path.name)
    with shard.open() as reader:
        shard.create(tmp_path / "y.npz", reader).abort()
    assert list(tmp_path.iterdir()) == [path]


def test_threads_read_more_members_than_are_kept(tmp_path: Path) -> None:
    arrays = {f"k{i}": np.full(1000, i, "<f8") for i in range(2 * OPEN_MEMBERS)}
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays)
    shard = open_file(path, path.name)
    wrong: list[str] = []

    def check(seed: int) -> None:
        for tensor in random.Random(seed).sample(shard.tensors, len(shard.tensors)):
            buffer = np.empty(500, "<f8")
            reader.read_into(tensor, 4000, memoryview(buffer))
            if not np.array_equal(buffer, arrays[tensor.name][500:]):
                wrong.append(tensor.name)

    with shard.open() as reader:
        threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def deflated_archive(path: Path, nbytes: int) -> np.ndarray:
    """An archive with one deflated array, which is returned."""
    array = np.random.default_rng(5).integers(0, 4, nbytes // 4).astype("<f4")
    np.savez_compressed(path, w=array)
    return array


@pytest.mark.parametrize("kept", [0, 1, 3, 64])
def test_what_is_not_kept_is_inflated_again(tmp_path: Path, kept: int) -> None:
    expected = deflated_archive(tmp_path / "x.npz", 20 * PIECE_BYTES + 12).view("<u1")
    shard = open_file(tmp_path / "x.npz", "x.npz")
    rng = random.Random(11)
    with InputFile(shard.path) as file, closing(Pieces(kept)) as pieces:
        reader = NpzReader(file, shard.members, pieces)
        for start in [*range(0, expected.size, 5 << 20), *(rng.randrange(expected.size) for _ in range(20))]:
            found = np.empty(min(3 << 20, expected.size - start), "u1")
            reader.read_into(shard.tensors[0], start, found.data)
            np.testing.assert_array_equal(found, expected[start : start + found.size])


def test_temporary_space_is_bounded_by_the_size_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of 8 MB may unpack to 8 GB; TMPDIR may be memory."""
    ends: list[int] = []
    write = Spool.write
    monkeypatch.setattr(Spool, "write", lambda spool, data, at: (ends.append(at + data.nbytes), write(spool, data, at)))
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.zeros(80 * PIECE_BYTES, "u1"))
    assert sum(map(len, read_shard(open_file(path, path.name), piece=1 << 22).values())) == 80 * PIECE_BYTES
    assert PIECE_BYTES < max(ends) <= deflate.LEAST_PIECES * PIECE_BYTES


def test_no_room_for_temporaries_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("no space")

    monkeypatch.setattr(Spool, "write", refuse)
    expected = deflated_archive(tmp_path / "x.npz", 3 << 20)
    assert read_shard(open_file(tmp_path / "x.npz", "x.npz"), piece=1 << 18)["w"] == expected.tobytes()


def test_bytes_hidden_behind_the_expected_ones_are_refused(tmp_path: Path) -> None:
    shown = npy_bytes(np.zeros(9000))
    data = zip_bytes([("a.npy", shown + bytes(9))], zipfile.ZIP_DEFLATED)
    data = with_fields(data, 22, 24, len(shown).to_bytes(4, "little"))
    path = write(tmp_path / "x.npz", with_fields(data, 14, 16, zlib.crc32(shown).to_bytes(4, "little")))
    with pytest.raises(InputError, match="more than"):
        read_shard(open_file(path, path.name))


# Members that are no arrays of numbers


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_are_no_arrays_are_copied_as_they_are(tmp_path: Path, method: int) -> None:
    members = [("params/", b""), ("params/w.npy", B), ("meta.npy", OBJECTS), ("config.json", b'{"a": 1}'), ("b", B)]
    data = zip_bytes(members, method)
    shard = open_file(write(tmp_path / "x.npz", data), "x.npz")
    found = {tensor.name: tensor.dtype.name for tensor in shard.tensors}
    assert found == {"params/w": "F32", "meta": "|O", "config.json": "|V1", "b": "F32"}
    assert read_shard(shard)["meta"] == OBJECTS
    assert rewrite(shard, tmp_path / "y.npz").read_bytes() == data


def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path: Path) -> None:
    seed = 99
    rng = random.Random(seed)
    members = [("a.npy", B), ("b.npy", npy_bytes(np.zeros(600)))]
    bases = [zip_bytes(members), zip_bytes(members, zipfile.ZIP_DEFLATED, b"comment")]
    path = tmp_path / "x.npz"
    for trial in range(1500):
        data = bytearray(rng.choice(bases))
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
        try:
            outcome = set(read_shard(open_file(path, path.name), piece=1 << 20).values())
        except InputError:
            continue
        assert outcome == {A.tobytes(), bytes(4800)}, (seed, trial)
