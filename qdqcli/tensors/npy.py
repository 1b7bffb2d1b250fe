"""Strict reader of `.npy` headers, without pickles; NumPy is imported only for unusually spelled dtypes.

Source: NumPy's `numpy.lib.format`. Stricter where data would be lost or misread: no trailing bytes, no duplicate keys,
and the limit on the header's length is checked before the header is read.
"""

import ast
import re
import struct
import warnings
from math import prod
from pathlib import Path

from qdqcli.escape import MalformedError, escape_name
from qdqcli.tensors.flat import FlatShard
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.signature import describe
from qdqcli.tensors.tensor import DTYPES, DType, TensorInfo

MAX_HEADER_BYTES = 10_000
"""NumPy's limit: longer headers can make Python's parser exhaust memory or stack (numpy#22393)."""

PREFIX_BYTES = 12 + MAX_HEADER_BYTES
"""Maximum number of bytes that `parse_npy` needs."""

MAGIC = b"\x93NUMPY"

_DAMAGED = "the file is damaged or was written by a faulty tool"
_LENGTH_FORMATS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_DESCR = re.compile(r"([<>|=]?)([biufcmMSUV])(\d{1,10})(\[[0-9A-Za-z/]{1,20}\])?")
_SCALAR = re.compile(r"[<>|=]?[A-Za-z]\w*")
_SIZES = {"b": {1}, "i": {1, 2, 4, 8}, "u": {1, 2, 4, 8}, "f": {1, 2, 4, 8, 12, 16}, "c": {8, 16, 24, 32}}
_SIZES |= {"m": {8}, "M": {8}}
_NAMES = {"b1": "BOOL", "f1": "F8_E5M2", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64"}
_NAMES |= {f"{kind}{size}": f"{kind.upper()}{size * 8}" for kind in "iu" for size in (1, 2, 4, 8)}


class ObjectArrayError(MalformedError):
    """The array holds Python objects, which only a pickle can restore."""

    def __init__(self) -> None:
        super().__init__(
            "holds Python objects, which only a pickle can restore; pickles are never loaded, save plain arrays"
        )


def open_npy(path: Path, name: str, void_dtype: str | None = None) -> FlatShard:
    """Read and check the header of an `.npy` file, which holds one tensor, named like the file without its suffix.

    `name` is the file's name relative to its checkpoint. Elements of an unnamed kind (`|V2`) and integers (`<u2`) get
    the dtype `void_dtype` if the sizes match.

    Raises:
        InputError: unreadable.
        ObjectArrayError: the elements are Python objects.
        MalformedError: the header violates the format or the stricter rules above.
    """
    with InputFile(path) as file:
        stem = name[: -len(".npy")].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        prefix = file.read(0, PREFIX_BYTES)
        tensor = parse_npy(prefix, file.size, name=stem, shard=name, void_dtype=void_dtype)
        return FlatShard(path=path, name=name, tensors=(tensor,), header_bytes=tensor.start, identity=file.identity)


def parse_npy(prefix: bytes, size: int, *, name: str, shard: str, void_dtype: str | None = None) -> TensorInfo:
    """Parse an `.npy` header into a `TensorInfo`.

    `prefix` is the first `PREFIX_BYTES` bytes, or all if there are fewer; `size` is the file's size, where the array
    must end. `name` and `shard` go into the result.

    Raises:
        ObjectArrayError: the elements are Python objects.
        MalformedError: the header violates the format or the stricter rules above.
    """
    literal, version, start = _read_literal(prefix, size)
    fields = _parse_literal(literal, version)
    shape = _parse_shape(fields["shape"])
    fortran_order = fields["fortran_order"]
    if not isinstance(fortran_order, bool):
        raise MalformedError(f"header: fortran_order is {_shown(fortran_order)}, not True or False; {_DAMAGED}")
    dtype, big_endian = _parse_descr(fields["descr"], void_dtype)
    nbytes = prod(shape) * dtype.bits // 8
    if start + nbytes != size:
        what = "the download may be incomplete" if size < start + nbytes else "what follows the array would be lost"
        raise MalformedError(f"its array ends at byte {start + nbytes} but the file has {size}; {what}")
    return TensorInfo(
        name=name,
        dtype=dtype,
        shape=shape,
        shard=shard,
        start=start,
        nbytes=nbytes,
        big_endian=big_endian,
        fortran_order=fortran_order and len(shape) > 1,
    )


def _read_literal(prefix: bytes, size: int) -> tuple[str, tuple[int, ...], int]:
    """Return the header's text, the format version and the offset of the data."""
    if not prefix.startswith(MAGIC):
        found = (
            describe(prefix, expected="an .npy file") or "the download may be incomplete, or it is another kind of file"
        )
        raise MalformedError(f"does not begin as an .npy file; {found}")
    version = (*prefix[6:8],)
    length_format = _LENGTH_FORMATS.get(version)
    if len(version) == 2 and length_format is None:
        raise MalformedError(f"is .npy version {version[0]}.{version[1]}; 1.0, 2.0 and 3.0 can be read")
    if length_format is None or len(prefix) < 8 + struct.calcsize(length_format):
        raise MalformedError(f"ends at byte {size}, inside the header; the download may be incomplete")
    (length,) = struct.unpack_from(length_format, prefix, 8)
    start = 8 + struct.calcsize(length_format)
    if start + length > size:
        raise MalformedError(
            f"has a header that ends at byte {start + length} but the file has {size}; the download may be incomplete"
        )
    if length > MAX_HEADER_BYTES:
        raise MalformedError(f"has a header of {length} bytes; at most {MAX_HEADER_BYTES} are parsed")
    try:
        text = prefix[start : start + length].decode("utf-8" if version == (3, 0) else "latin-1")
    except UnicodeDecodeError as error:
        raise MalformedError(f"header is not UTF-8 at byte {error.start}") from error
    return text, version, start + length


def _parse_literal(literal: str, version: tuple[int, ...]) -> dict[str, object]:
    """Return the header's dictionary: the format's three keys, each once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser warns about odd literals, e.g. a call of a number
            tree = _parse(literal, version).body
            fields = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise MalformedError(f"header is not a Python literal ({type(error).__name__}); {_DAMAGED}") from error
    if not isinstance(tree, ast.Dict) or len(tree.keys) != 3 or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise MalformedError(f"header is not a dictionary of descr, fortran_order and shape; {_DAMAGED}")
    return dict(fields)


def _parse(literal: str, version: tuple[int, ...]) -> ast.Expression:
    text = literal.strip(" \n")
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError:
        if version == (3, 0):
            raise
        return ast.parse(_without_long_suffixes(text), mode="eval")


def _without_long_suffixes(literal: str) -> str:
    """Convert Python 2 integers (`10L`) in the literal to Python 3. Source: `numpy.lib.format._filter_header`.

    Raises:
        SyntaxError: the literal cannot be tokenized.
    """
    import tokenize  # lazy: few files were written by Python 2
    from io import StringIO

    kept: list[tuple[int, str]] = []
    try:
        for token in tokenize.generate_tokens(StringIO(literal).readline):
            if not (kept and kept[-1][0] == tokenize.NUMBER and token[:2] == (tokenize.NAME, "L")):
                kept.append((token.type, token.string))
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from error
    return tokenize.untokenize(kept).strip(" \n")


def _parse_shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple):
        raise MalformedError(f"header: shape is {_shown(shape)}, not a tuple; {_DAMAGED}")
    for size in shape:
        if type(size) is not int or size < 0:  # `type`: True is an int
            raise MalformedError(f"header: shape holds {_shown(size)}, not an integer from 0 up; {_DAMAGED}")
    if prod(size for size in shape if size) >= 1 << 63:
        raise MalformedError(f"header: the number of elements does not fit in 63 bits; {_DAMAGED}")
    return shape


def _parse_descr(descr: object, void_dtype: str | None) -> tuple[DType, bool]:
    """Return the dtype, and True if elements are stored big-endian."""
    order, kind, itemsize = _split_descr(descr) or _split_unusual(descr)
    big_endian = order == ">" and itemsize > 1 and kind not in "SV"
    named = DTYPES.get(void_dtype or "")
    is_unnamed = kind in "Viu" and isinstance(descr, str) and _SCALAR.fullmatch(descr)
    if is_unnamed and named is not None and named.bits == 8 * itemsize:
        return named, big_endian
    if f"{kind}{itemsize}" in _NAMES:
        return DTYPES[_NAMES[f"{kind}{itemsize}"]], big_endian
    unit = f"[{descr.partition('[')[2]}" if kind in "mM" and isinstance(descr, str) and "[" in descr else ""
    length = itemsize // 4 if kind == "U" else itemsize
    return DType(name=f"{'|' if kind in 'SV' else order}{kind}{length}{unit}", bits=8 * itemsize), big_endian


def _split_descr(descr: object) -> tuple[str, str, int] | None:
    """Return byte order, kind and bytes per element of a dtype in NumPy's spelling, e.g. `<f4`; None for any other."""
    match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
    if match is None or (match[4] and match[2] not in "mM"):
        return None
    order, kind = match[1], match[2]
    itemsize = int(match[3]) * (4 if kind == "U" else 1)
    if itemsize not in _SIZES.get(kind, (itemsize,)) or itemsize == 0:
        return None
    return {"": "<", "=": "<"}.get(order, order), kind, itemsize


def _split_unusual(descr: object) -> tuple[str, str, int]:
    """Like `_split_descr` for NumPy's other spellings: `float32`, `f`, `int`, field lists; structures are kind `V`."""
    import numpy as np  # lazy: listing headers rarely needs it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated dtype names
            dtype: np.dtype[np.generic] = np.lib.format.descr_to_dtype(descr)  # type: ignore[arg-type]
    except Exception as error:  # NumPy raises at least nine classes
        raise MalformedError(f"header: descr {_shown(descr)} is not a dtype that NumPy can read; {_DAMAGED}") from error
    if dtype.hasobject:
        raise ObjectArrayError
    split = ("|", "V", dtype.itemsize) if dtype.kind == "V" else _split_descr(dtype.str)
    if split is None or not dtype.itemsize:
        raise MalformedError(f"header: descr {_shown(descr)} is not a dtype that can be read; {_DAMAGED}")
    return split


def _shown(value: object) -> str:
    """Format a header value for a message."""
    try:
        return escape_name(repr(value), 40)
    except ValueError:  # Python does not format integers of more than 4,300 digits
        return "a number of thousands of digits"
