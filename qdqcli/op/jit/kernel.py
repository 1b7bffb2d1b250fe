"""Kernels: compiled functions that are loaded from the cache, or compiled at the first call with new argument types.

A kernel is named by the function that it is compiled from, in a module that is imported only to compile it: a process
that finds its kernels never imports Numba. Arguments are C-contiguous arrays, numbers, None, and tuples of these; None
is a type of its own, so that a kernel is compiled without the branches that need a value. The native function takes
one pointer, to the arguments as 8-byte words, and runs without the GIL.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from struct import Struct
from threading import RLock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.jit import cache
from qdqcli.op.jit.image import ImageError, link, load
from qdqcli.op.jit.settings import import_numba

Kinds = tuple[Any, ...]
"""Types of the arguments: `float32` of a number, `float32[2]` of an array with 2 dimensions, None, and for a tuple its
class, `module:name` or `` for a plain tuple, followed by the types of its items.
"""
Code = Callable[[tuple[Any, ...], list[Any]], int]
"""Compiled kernel: takes the arguments, and the same as words."""

StaticBool = Literal[True] | None
"""True or None, on or off: None is a type of its own, so that only one branch is compiled."""
VECTOR_SIZE = 16
"""Elements that a kernel works on at once, see `vector.py`."""

_changing = RLock()
_watchers: list[Callable[[int], None]] = []


class Kernel:
    """A function compiled from `source`, `module:function`; it returns a number, or None as 0."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.codes: dict[Kinds, Code] = {}
        """The loaded and compiled ones."""

    def __call__(self, *args: Any) -> int:
        kinds, words = describe(args)
        code = self.codes.get(kinds)
        if code is None:
            code = self._find(kinds)
        return code(args, words)

    def _find(self, kinds: Kinds) -> Code:
        """Load the code for these types, or compile and store it."""
        with _changing:
            if kinds not in self.codes:
                self.codes[kinds] = _stored(self.source, kinds) or _compiled(self.source, kinds)
        return self.codes[kinds]


@contextmanager
def watch_compiling(tell: Callable[[int], None]) -> Iterator[None]:
    """Call `tell` with 1 and -1 when the compilation of a kernel begins and ends."""
    _watchers.append(tell)
    try:
        yield
    finally:
        _watchers.remove(tell)


def compile_image(source: str, kinds: Kinds) -> bytes:
    """Compile a kernel to an image, see `image.py`.

    Raises:
        ImageError: it needs Numba at run time.
    """
    return link(*_compiler().native_object(source, kinds))


def _stored(source: str, kinds: Kinds) -> Code | None:
    for image in cache.images(source, kinds):
        with suppress(ImageError):
            return _native(load(image), kinds)
    return None


def _compiled(source: str, kinds: Kinds) -> Code:
    """Compile and store a kernel; one that needs Numba at run time is compiled in each process."""
    for tell in _watchers:
        tell(1)
    try:
        image = compile_image(source, kinds)
        code = _native(load(image), kinds)
        cache.write(source, kinds, image)
    except ImageError:
        return _by_numba(_compiler().jitted(source))
    finally:
        for tell in _watchers:
            tell(-1)
    return code


def _compiler() -> Any:
    """Import the compiler, and with it Numba."""
    import_numba()
    return import_module("qdqcli.op.jit.compiler")


def _native(function: Callable[[bytes], int], kinds: Kinds) -> Code:
    pack = Struct("=" + "".join(_formats(kinds))).pack
    return lambda _args, words: function(pack(*words))


def _by_numba(function: Callable[..., Any]) -> Code:
    return lambda args, _words: int(function(*args) or 0)


# ------------------------------------------------------------------ arguments


def describe(args: tuple[Any, ...]) -> tuple[Kinds, list[Any]]:
    """Return the types of the arguments, and the words that the native function reads."""
    kinds: list[Any] = []
    words: list[Any] = []
    _describe(args, kinds, words)
    return tuple(kinds), words


def _describe(args: tuple[Any, ...], kinds: list[Any], words: list[Any]) -> None:
    for value in args:
        kind = type(value)
        if kind is np.ndarray:
            if not value.flags.c_contiguous:
                raise ValueError("kernels take C-contiguous arrays")
            words.append(head_of(value))
            kinds.append(_array_kind(value))
        elif value is None:
            kinds.append(None)
        elif kind in _NUMBERS:
            words.append(value)
            kinds.append(_NUMBERS[kind])
        else:
            inside: list[Any] = [_class_name(kind)]
            _describe(value, inside, words)
            kinds.append(tuple(inside))


_NUMBERS = {int: "int64", float: "float64", bool: "bool"} | {
    kind: np.dtype(kind).name
    for kind in (np.int16, np.uint16, np.int32, np.int64, np.uint64, np.float32, np.float64, np.bool_)
}
_array_kinds: dict[tuple[np.dtype[Any], int], str] = {}
_class_names: dict[type, str] = {tuple: ""}


def _array_kind(array: NDArray[Any]) -> str:
    key = array.dtype, array.ndim
    kind = _array_kinds.get(key)
    if kind is None:
        kind = _array_kinds[key] = f"{array.dtype.name}[{array.ndim}]"
    return kind


def _class_name(kind: type) -> str:
    if kind not in _class_names:
        if not issubclass(kind, tuple):
            raise TypeError(f"kernels take arrays, numbers, None and tuples of them; found {kind.__name__}")
        _class_names[kind] = f"{kind.__module__}:{kind.__qualname__}"
    return _class_names[kind]


def _formats(kinds: Kinds) -> Iterator[str]:
    """Formats of `struct` of the words: a double for a float, else a 64-bit integer."""
    for kind in kinds:
        if isinstance(kind, tuple):
            yield from _formats(kind[1:])
        elif kind is not None:
            yield "d" if kind in ("float32", "float64") else "?7x" if kind == "bool" else "q"


# ------------------------------------------------------------------ arrays

# An array is passed as the address of the pointer to its elements in the array object, which is followed by the number
# of dimensions and a pointer to their sizes: PyArrayObject of NumPy's C API, whose macros every extension has compiled
# in. To ask for an address in Python takes 30 times as long.
_HEAD_BYTES = object.__basicsize__


class ArrayHead(ctypes.Structure):
    """The fields of an array that a kernel reads."""

    _fields_ = (("data", ctypes.c_void_p), ("ndim", ctypes.c_int), ("sizes", ctypes.POINTER(ctypes.c_int64)))

    def __index__(self) -> int:
        return ctypes.addressof(self)


def _head_in_place(array: NDArray[Any]) -> int:
    return id(array) + _HEAD_BYTES


def copied_head(array: NDArray[Any]) -> ArrayHead:
    """Return the same fields where NumPy's own are elsewhere."""
    return ArrayHead(array.ctypes.data, array.ndim, (ctypes.c_int64 * array.ndim)(*array.shape))


def _is_in_place() -> bool:
    array = np.empty((3, 5), np.int16)
    head = ArrayHead.from_address(_head_in_place(array))
    return bool(head.data == array.ctypes.data and head.ndim == array.ndim and head.sizes[:2] == [3, 5])


head_of: Callable[[NDArray[Any]], int | ArrayHead] = _head_in_place if _is_in_place() else copied_head
