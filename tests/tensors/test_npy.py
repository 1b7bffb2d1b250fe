import os
from pathlib import Path

import numpy as np
import pytest

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_file
from qdqcli.tensors.npy import MAX_HEADER_BYTES
from qdqcli.tensors.tensor import TensorInfo
from tests.tensors.files import npy_bytes, npy_with_header, read_shard, rewrite, write

A = np.arange(6, dtype="<f4").reshape(2, 3)


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(2,)", more: str = "") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}{more}}}"


REFUSED = {
    "does not begin as": b"",
    "never loaded; convert": b"\x80\x04\x95",
    "inside the header": b"\x93NUMPY",
    "version 1.1": npy_with_header(header(), bytes(8), (1, 1)),
    "version 9.0": npy_with_header(header(), bytes(8), (9, 0)),
    "header that ends at byte": npy_bytes(A)[:40],
    "at most 10000": npy_with_header(header() + " " * MAX_HEADER_BYTES, bytes(8), (2, 0)),
    "not UTF-8": npy_with_header(header(more=", '\xff': 1"), bytes(8), (3, 0)),
    "not a Python literal": npy_with_header("open('x', 'w')"),
    "not a Python literal (": npy_with_header("(" * 4000 + ")" * 4000),
    "literal (": npy_with_header(header(shape="(" + "-" * 9_900 + "1,)")),
    "dictionary of descr": npy_with_header("[1, 2]"),
    "dictionary of descr, fortran_order": npy_with_header(header(more=", 'x': 1"), bytes(8)),
    "dictionary of descr, fortran_order and shape": npy_with_header(header(more=", 'shape': (2,)"), bytes(8)),
    "shape is [2]": npy_with_header(header(shape="[2]"), bytes(8)),
    "shape holds -1": npy_with_header(header(shape="(-1,)"), bytes(8)),
    "shape holds True": npy_with_header(header(shape="(True, 2)"), bytes(8)),
    "shape holds 2.0": npy_with_header(header(shape="(2.0,)"), bytes(8)),
    "not fit in 63 bits": npy_with_header(header(shape=f"({2**62}, 8, 0)")),
    "fortran_order is 1": npy_with_header(header(order="1"), bytes(8)),
    "descr '<f3'": npy_with_header(header("'<f3'"), bytes(8)),
    "descr 7": npy_with_header(header("7"), bytes(8)),
    "descr None": npy_with_header(header("None"), bytes(8)),
    "descr '|V0'": npy_with_header(header("'|V0'")),
    "descr '<f4[s]'": npy_with_header(header("'<f4[s]'"), bytes(8)),
    "shape holds a number of thousands": npy_with_header(header(shape=f"(-0x{'f' * 4000},)")),
    "fortran_order is a number of thousands": npy_with_header(header(order=f"0x{'f' * 4000}")),
    "descr a number of thousands": npy_with_header(header(f"0x{'f' * 4000}")),
    "shape is a number of thousands": npy_with_header(header(shape=f"[0x{'f' * 4000}]")),
    "number of elements": npy_with_header(header(shape=f"(0x{'f' * 4000},)")),
    "descr [('a', '<f4'), ('a', '<i4')]": npy_with_header(header("[('a', '<f4'), ('a', '<i4')]"), bytes(16)),
    "descr 'no_such_type'": npy_with_header(header("'no_such_type'"), bytes(8)),
    "not a Python literal (S": npy_with_header(header(shape="(2L,)"), bytes(8), (3, 0)),
    "literal (SyntaxError)": npy_with_header(header(shape="((2L,)")),
    "holds Python objects": npy_with_header(header("'|O'"), bytes(8)),
    "Python objects": npy_with_header(header("[('a', '<f4'), ('b', '|O')]"), bytes(24)),
    "only a pickle": npy_with_header(header("'f4,O'"), bytes(24)),
    "download may be incomplete": npy_bytes(A)[:-1],
    "would be lost": npy_bytes(A) + b"\0",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_with_reason_and_file(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path / "bad.npy", REFUSED[reason])
    with pytest.raises(InputError) as caught:
        open_file(path, path.name)
    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


def describe(tmp_path: Path, array: np.ndarray, void_dtype: str | None = None) -> TensorInfo:
    path = write(tmp_path / "x.npy", npy_bytes(array))
    (tensor,) = open_file(path, path.name, void_dtype).tensors
    return tensor


@pytest.mark.parametrize(
    ("descr", "name", "big_endian"),
    [
        ("<f2", "F16", False),
        (">f4", "F32", True),
        ("<f8", "F64", False),
        ("|i1", "I8", False),
        (">i8", "I64", True),
        ("<u2", "U16", False),
        ("|b1", "BOOL", False),
        ("<c8", "C64", False),
        ("<c16", "<c16", False),
        ("<U5", "<U5", False),
        ("|S7", "|S7", False),
        ("<M8[s]", "<M8[s]", False),
        ("|V16", "|V16", False),
        ("|V2", "|V2", False),
        ("|V1", "|V1", False),
    ],
)
def test_names_the_dtype(tmp_path: Path, descr: str, name: str, big_endian: bool) -> None:
    tensor = describe(tmp_path, np.zeros(3, descr))
    assert (tensor.dtype.name, tensor.dtype.bits, tensor.big_endian) == (name, np.dtype(descr).itemsize * 8, big_endian)
    assert tensor.dtype.is_floating == (name in ("F16", "F32", "F64"))


@pytest.mark.parametrize("descr", ["|V2", "<u2", "<i2", ">u2", ">i2"])
def test_void_and_integers_are_what_the_user_says_where_the_size_fits(tmp_path: Path, descr: str) -> None:
    tensor = describe(tmp_path, np.zeros(3, descr), "BF16")
    assert (tensor.dtype.name, tensor.big_endian) == ("BF16", descr.startswith(">"))


@pytest.mark.parametrize(("descr", "name"), [("V4", "|V4"), ("<u4", "U32"), ("<f2", "F16"), ("i1,i1", "|V2")])
def test_what_the_user_says_is_not_for_other_dtypes(tmp_path: Path, descr: str, name: str) -> None:
    assert describe(tmp_path, np.zeros(3, descr), "BF16").dtype.name == name


SPELLINGS = [*"?bBhHiIlLqQpPefdgFDG", "float32", "half", "float", "int", "bool", "uint16", "complex64", "longdouble"]
SPELLINGS += ["=f4", "|f4", "f4", ">e", "<d", "datetime64[s]", "m8[25s]", "U5", "=U5", ">U5", "c", "V3"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_dtype_is_what_numpy_makes_of_it(tmp_path: Path, spelling: str) -> None:
    def read(descr: str) -> tuple[str, int, bool]:
        data = npy_with_header(header(repr(descr)), bytes(2 * np.dtype(spelling).itemsize))
        (tensor,) = open_file(write(tmp_path / "x.npy", data), "x.npy").tensors
        return tensor.dtype.name, tensor.dtype.bits, tensor.big_endian

    assert read(spelling) == read(np.dtype(spelling).str)
    assert read(spelling)[1] == 8 * np.dtype(spelling).itemsize


def test_integers_of_python_2_are_read(tmp_path: Path) -> None:
    old = header("[('10L', '<f4')]", shape="(2L, 0x1L)").replace("'descr'", "u'descr'")
    (tensor,) = open_file(write(tmp_path / "x.npy", npy_with_header(old, bytes(8))), "x.npy").tensors
    assert tensor.shape == (2, 1)


def test_structured_dtype_is_opaque_bytes(tmp_path: Path) -> None:
    dtype = np.dtype([("a", "<f4"), ("b", "<i8", (2,)), ("c", [("d", "|u1")])])
    tensor = describe(tmp_path, np.zeros(3, dtype))
    assert (tensor.dtype.name, tensor.dtype.is_floating) == (f"|V{dtype.itemsize}", False)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (0, 3), (1,) * 32])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("descr", ["<f4", ">f8"])
def test_stored_bytes_are_the_array(tmp_path: Path, shape: tuple[int, ...], order: str, descr: str) -> None:
    array = np.asarray(np.arange(np.prod(shape), dtype=descr).reshape(shape), order=order)
    path = write(tmp_path / "x.npy", npy_bytes(array))
    shard = open_file(path, path.name)
    (tensor,) = shard.tensors
    stored = np.frombuffer(read_shard(shard)["x"], descr).reshape(tensor.stored_shape)
    np.testing.assert_array_equal(stored.T if tensor.fortran_order else stored, array)
    assert not (tensor.fortran_order and len(shape) < 2)
    assert rewrite(shard, tmp_path / "y.npy").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_reads_each_version(tmp_path: Path, version: tuple[int, int]) -> None:
    path = write(tmp_path / "x.npy", npy_bytes(A, version))
    assert read_shard(open_file(path, path.name))["x"] == A.tobytes()


def test_tensor_is_named_by_the_file_also_where_that_is_not_utf8(tmp_path: Path) -> None:
    path = write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/w\xff.NPY")), npy_bytes(A))
    shard = open_file(path, f"sub/{path.name}")
    assert shard.tensors[0].name == "sub/w\\xff"
    assert rewrite(shard, path.with_name("copy.npy")).read_bytes() == path.read_bytes()
