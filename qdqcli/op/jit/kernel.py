"""Kernels: compiled functions that are loaded from the cache, or compiled at the first call with new argument types.

A kernel is named by the function that it is compiled from, in a module that is imported only to compile it: a process
that finds its kernels never imports Numba. Arguments are C-contiguous arrays, numbers, None, and tuples of these; None
is a type of its own, so that a kernel is compiled without the branches that need a value. The native function takes
one pointer, to the arguments as 8-byte words, and runs without the GIL.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from struct import Struct
from threading import RLock
from typing import Literal, TypeAlias

import numpy as np

from qdqcli.op.jit.cache import images, store
from qdqcli.op.jit.image import ImageError, load

Kind: TypeAlias = "str | tuple[Kind, ...] | None"
"""Type of an argument: `float32` of a number, `float32[2]` of an array with 2 dimensions, None, and for a tuple its
class, `module:name` or `` for a plain tuple, followed by the types of its items.
"""
Kinds = tuple[Kind, ...]
Code = Callable[[tuple[object, ...], list[object]], int]
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

    def __call__(self, *args: object) -> int:
        words: list[object] = []
        kinds = describe(args, words)
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
        UnavailableError: Numba is not installed, or refuses a setting.
    """
    from qdqcli.op.jit.settings import import_numba

    import_numba()
    from qdqcli.op.jit.compiler import native_image

    return native_image(source, kinds)


def _stored(source: str, kinds: Kinds) -> Code | None:
    for image in images(source, kinds):
        with suppress(ImageError):
            return _native(image, kinds)
    return None


def _compiled(source: str, kinds: Kinds) -> Code:
    """Compile and store a kernel; one that needs Numba at run time is compiled in each process."""
    for tell in _watchers:
        tell(1)
    try:
        image = compile_image(source, kinds)
        code = _native(image, kinds)
        store(source, kinds, image)
    except ImageError:
        from qdqcli.op.jit.compiler import jitted

        function = jitted(source)
        return lambda args, _words: int(function(*args) or 0)
    finally:
        for tell in _watchers:
            tell(-1)
    return code


def _native(image: bytes, kinds: Kinds) -> Code:
    function, pack = load(image), Struct("=" + "".join(_formats(kinds))).pack
    return lambda _args, words: function(pack(*words))


# ------------------------------------------------------------------ arguments

_NUMBERS = {int: "int64", float: "float64", bool: "bool"} | {
    kind: np.dtype(kind).name
    for kind in (np.int16, np.uint16, np.int32, np.int64, np.uint64, np.float32, np.float64, np.bool_)
}
_ARRAYS = {
    np.dtype(kind): [f"{np.dtype(kind).name}[{ndim}]" for ndim in range(4)] for kind in (*_NUMBERS, np.uint8, np.uint32)
}
"""Kind of an array by its dtype, then by the number of its dimensions."""
_HEAD_BYTES = object.__basicsize__
"""Bytes of an array object before the pointer to its elements, the number of its dimensions and a pointer to their
sizes: PyArrayObject of NumPy's C API, which every extension has compiled in. An array is passed as the address of
these: to ask for that of its elements in Python takes 30 times as long.
"""


def describe(args: tuple[object, ...], words: list[object]) -> Kinds:
    """Return the types of the arguments, and append to `words` what the native function reads."""
    kinds: list[Kind] = []
    for value in args:
        if isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise ValueError("kernels take C-contiguous arrays")
            words.append(id(value) + _HEAD_BYTES)
            kinds.append(_ARRAYS[value.dtype][value.ndim])
        elif value is None:
            kinds.append(None)
        elif type(value) in _NUMBERS:
            words.append(value)
            kinds.append(_NUMBERS[type(value)])
        elif isinstance(value, tuple):
            kinds.append((_class_name(type(value)), *describe(value, words)))
        else:
            raise TypeError(f"kernels take arrays, numbers, None and tuples of them; found {type(value).__name__}")
    return tuple(kinds)


@cache
def _class_name(kind: type) -> str:
    return "" if kind is tuple else f"{kind.__module__}:{kind.__qualname__}"


def _formats(kinds: Kinds) -> Iterator[str]:
    """Formats of `struct` of the words: a double for a float, else a 64-bit integer."""
    for kind in kinds:
        if isinstance(kind, tuple):
            yield from _formats(kind[1:])
        elif kind is not None:
            yield "d" if kind in ("float32", "float64") else "?7x" if kind == "bool" else "q"
