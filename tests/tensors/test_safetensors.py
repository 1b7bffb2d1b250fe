import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_file
from qdqcli.tensors.json_stream import WINDOW_BYTES
from qdqcli.tensors.safetensors import MAX_HEADER_BYTES
from qdqcli.tensors.tensor import DTYPES
from tests.growth import growth
from tests.tensors.files import raw_safetensors, read_shard, rewrite, safetensors_bytes, write

W = '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
D = bytes(8)


def record(**change: object) -> bytes:
    fields: dict[str, object] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}
    return raw_safetensors(json.dumps({"w": {key: value for key, value in fields.items() if value != "absent"}}), D)


def two(first: list[int], second: list[int], size: int) -> bytes:
    a = {"dtype": "U8", "shape": [first[1] - first[0]], "data_offsets": first}
    b = {"dtype": "U8", "shape": [second[1] - second[0]], "data_offsets": second}
    return raw_safetensors(json.dumps({"a": a, "b": b}), bytes(size))


REFUSED = {
    "0 bytes": b"",
    "too few": b"1234567",
    "header of 0 bytes": struct.pack("<Q", 0) + b"data",
    "its header has 18446744073709551615 bytes": struct.pack("<Q", 2**64 - 1) + b"{}",
    "its header has 3 bytes": struct.pack("<Q", 3) + b"{}",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "HTML page": b"<!DOCTYPE html><html></html>",
    "pickle, which is never loaded": b"\x80\x04\x95\x10\0\0\0\0",
    "zip archive": b"PK\x03\x04" + bytes(60),
    ".npy file": b"\x93NUMPY\x01\x00v\x00{'descr'",
    "compressed": b"\x1f\x8b\x08" + bytes(9) + b"xyz",
    "not UTF-8": raw_safetensors(b'{"\xff":1}'),
    "BOM": raw_safetensors(b"\xef\xbb\xbf{}"),
    "not JSON": raw_safetensors("weights"),
    "not a JSON object": raw_safetensors("[]"),
    "Extra data": raw_safetensors("{}{}"),
    "nested too deeply": raw_safetensors('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "NaN is not": raw_safetensors('{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', D),
    "Exceeds the limit": raw_safetensors('{"w":{"shape":[' + "9" * 5000 + "]}}", D),
    "surrogate": raw_safetensors('{"\\ud800":{}}'),
    "key 'w' twice": raw_safetensors(f"{{{W},{W}}}", D),
    "key 'dtype' twice": raw_safetensors('{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', D),
    "key '__metadata__' twice": raw_safetensors('{"__metadata__":{},"__metadata__":{},' + W + "}", D),
    "key 'm' twice": raw_safetensors('{"__metadata__":{"m":"a","m":"b"},' + W + "}", D),
    "key 'b' twice": raw_safetensors('{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"other":[{"b":1,"b":2}]}}'),
    "object of strings": raw_safetensors('{"__metadata__":{"epoch":3}}'),
    "record is not a JSON object": raw_safetensors('{"w":["F32",[2],[0,8]]}', D),
    "dtype 'F12'": record(dtype="F12"),
    "dtype 'f32'": record(dtype="f32"),
    "dtype ['F32']": record(dtype=["F32"]),
    "dtype {'F32': None}": record(dtype={"F32": None}),
    "no dtype": record(dtype="absent"),
    "no shape": record(shape="absent"),
    "shape holds {'F32': 2}": record(shape=[{"F32": 2}]),
    "no data_offsets": record(data_offsets="absent"),
    "shape is not a list": record(shape=2),
    "shape holds -2": record(shape=[-2]),
    "shape holds 2.0": record(shape=[2.0]),
    "shape holds True": record(shape=[True, 2]),
    "shape holds 18446744073709551616": record(shape=[2**64]),
    "shape holds -0.0": raw_safetensors('{"w":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
    "65 dimensions": record(shape=[1] * 65, data_offsets=[-8, 0]),
    "not fit in 64 bits": record(shape=[2**32, 2**32]),
    "does not fit": record(shape=[2**63, 2, 0]),
    "need 16 bytes but data_offsets give 8": record(shape=[4]),
    "not a begin and an end": record(data_offsets=[0, 4, 8]),
    "data_offsets are not": record(data_offsets=[8, 0]),
    "18 bits of F6_E2M3": record(dtype="F6_E2M3", shape=[3], data_offsets=[0, 3]),
    "leaves a hole": two([0, 4], [5, 8], 8),
    "overlaps the tensor": two([0, 5], [4, 8], 8),
    "begins at byte": two([1, 5], [5, 8], 8),
    "download may be incomplete": raw_safetensors(f"{{{W}}}", D[:-1]),
    "no tensor owns": raw_safetensors(f"{{{W}}}", D + b"\0"),
}


def long(data: bytes) -> bytes:
    """The same file with a header that is read in pieces; the file itself where its header has no such length."""
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8:
        return data
    return raw_safetensors(data[8 : 8 + length] + b" " * WINDOW_BYTES, data[8 + length :])


@pytest.mark.parametrize("spelled", [bytes, long])
@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_with_reason_and_file(tmp_path: Path, reason: str, spelled: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / "bad.safetensors", spelled(REFUSED[reason]))
    with pytest.raises(InputError) as caught:
        open_file(path, path.name)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert reason in message
    assert ";" in message, "says what to do"


def test_refuses_header_over_the_cap_without_parsing_it(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{")
        file.truncate(MAX_HEADER_BYTES + 9)
    with pytest.raises(InputError, match="at most 33554432"):
        open_file(path, path.name)


@pytest.mark.parametrize("spelled", [bytes, long])
def test_describes_tensors_in_the_order_of_their_data(tmp_path: Path, spelled: Callable[[bytes], bytes]) -> None:
    b = '"b":{"dtype":"BF16","shape":[3,1],"data_offsets":[1,7]}'
    a = '"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"note":{"x":1.5}}'
    path = write(tmp_path / "x.safetensors", spelled(raw_safetensors(f" \n{{{b},{a}}} ", bytes(range(7)))))
    shard = open_file(path, "sub/x.safetensors")
    first, second = shard.tensors
    assert (first.name, first.shape, first.nbytes) == ("a", (), 1)
    assert (second.name, second.shape, second.dtype, second.shard) == ("b", (3, 1), DTYPES["BF16"], "sub/x.safetensors")
    assert read_shard(shard) == {"a": b"\0", "b": bytes(range(1, 7))}


def test_round_trip_of_every_dtype_is_byte_for_byte(tmp_path: Path) -> None:
    tensors = {dtype: (dtype, (3, 8)) for dtype in DTYPES} | {"scalar": ("F32", ()), "empty": ("F64", (0, 5))}
    path = write(tmp_path / "all.safetensors", safetensors_bytes(tensors, {"format": "pt"}))
    copy = rewrite(open_file(path, path.name), tmp_path / "copy.safetensors")
    assert copy.read_bytes() == path.read_bytes()


def test_the_time_grows_with_the_number_of_tensors_and_no_faster(tmp_path: Path) -> None:
    def read(count: int) -> None:
        path = write(tmp_path / "many.safetensors", safetensors_bytes({f"t.{i}": ("U8", (1,)) for i in range(count)}))
        assert len(open_file(path, path.name).tensors) == count

    assert growth(read, 2_000, 20_000) < 40


def library_takes(path: Path) -> bool:
    try:
        with safe_open(path, framework="np"):
            return True
    except SafetensorError:
        return False


STRICTER = ("twice", "record is not a JSON object", "dtype {")


def test_agrees_with_the_library_on_mutations(tmp_path: Path) -> None:
    seed = 20240607
    rng = random.Random(seed)
    bases = [
        raw_safetensors(f"{{{W}}}", D),
        raw_safetensors('{"__metadata__":{"k":"v"},' + W + "}  ", D),
        two([0, 4], [4, 8], 8),
        raw_safetensors('{"w":{"dtype":"F4","shape":[2,1],"data_offsets":[0,1],"x":[1,-2.5e3,null,true]}}', b"\0"),
        raw_safetensors(
            '{"a":{"dtype":"I16","shape":[],"data_offsets":[0,2]},"\\u00e9":{"dtype":"C64","shape":[0,3],"data_offsets":[2,2]}}',
            b"12",
        ),
    ]
    alphabet = b'0123456789-+.eE{}[]",:\\ufF8BInatruls \n\t\0\xff'
    path = tmp_path / "mutant.safetensors"
    taken = 0
    for trial in range(4000):
        mutant = bytearray(rng.choice(bases))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            at = rng.randrange(len(mutant)) if rng.random() < 0.2 else rng.randrange(8, len(mutant))
            kind = rng.random()
            if kind < 0.6:
                mutant[at] = rng.choice(alphabet)
            elif kind < 0.8:
                del mutant[at]
            else:
                mutant.insert(at, rng.choice(alphabet))
            if kind >= 0.6 and rng.random() < 0.9:  # keep the length right, so that the header is looked at
                length = struct.unpack_from("<Q", mutant)[0] if len(mutant) >= 8 else 0
                struct.pack_into("<Q", mutant, 0, (length + (1 if kind >= 0.8 else -1)) % 2**64)
        path.write_bytes(mutant)
        try:
            open_file(path, path.name)
            ours = True
        except InputError as error:
            ours = any(rule in str(error) for rule in STRICTER) and library_takes(path)
        assert ours == library_takes(path), (seed, trial, bytes(mutant))
        taken += ours
    assert taken > 100, "the mutations must not all be refused"
