"""Compiler of kernels, by Numba: imported only where a kernel is not in the cache.

A kernel is wrapped in a C function of one argument, a pointer to the words of `kernel.py`, compiled by `numba.cfunc`,
whose LLVM IR becomes an object file. A kernel raises no exceptions and allocates no arrays, so that nothing of Numba is
left in it; where something is, the kernel is compiled by `numba.njit` instead, in each process again.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from qdqcli.op.jit import pipeline
from qdqcli.op.jit.image import ImageError, link, load
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import smaller
from qdqcli.op.primitives import target_features

Kinds = tuple[Any, ...]
"""Types of arguments as in `kernel.py`."""

_WORD = ir.IntType(64)
_DATA, _SIZES = 0, 2
"""Words of an array's head: the pointers to its elements and to its sizes."""


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function by `numba.njit`, for Python: IEEE division, no GIL, no contraction."""
    return numba.njit(error_model="numpy", nogil=True, forceinline=True)(function)


@cache
def jitted(source: str) -> Any:
    """Return a kernel, `module:function`, as Numba compiles it for Python."""
    return jit(_named(source))


def native_object(source: str, kinds: Kinds) -> tuple[bytes, str]:
    """Compile a kernel; return the object file and the name of its function.

    Raises:
        ImageError: it needs Numba at run time.
    """
    choose_pipeline()
    try:
        return _native_object(source, kinds)
    except numba.core.errors.NumbaError as error:
        raise ImageError(str(error)) from error


@cache
def choose_pipeline() -> None:
    """Try the reduced pipeline on a small kernel, and choose Numba's own where anything fails."""
    pipeline.is_reduced = True
    try:
        run = load(link(*_native_object(f"{__name__}:_probe", ("int64",))))
        pipeline.is_reduced = run((20).to_bytes(8, "little")) == 42
    except Exception:  # of any part of another Numba
        pipeline.is_reduced = False


def _probe(number):
    return smaller(_successor(number), 1000) * 2


@inlined
def _successor(number):
    return number + 1


def _native_object(source: str, kinds: Kinds) -> tuple[bytes, str]:
    kernel = inlined(_named(source))
    arguments = _reader(tuple(map(_numba_type, kinds)))

    def entry(words: Any) -> Any:
        return _result(kernel(*arguments(words)))

    compile_entry = numba.cfunc(types.int64(types.voidptr), error_model="numpy", pipeline_class=pipeline.KernelCompiler)
    compiled = compile_entry(entry)
    return _object_code(compiled.inspect_llvm(), compiled.native_name), compiled.native_name


def _object_code(text: str, entry: str) -> bytes:
    """Optimize LLVM IR and compile it to position-independent code in which `entry` alone is visible."""
    module = llvm.parse_assembly(text)
    for function in module.functions:
        if not function.is_declaration and function.name != entry:
            function.linkage = "internal"
            function.add_function_attribute("alwaysinline")  # before anything else: each is optimized once, in place
    processor = {"cpu": _setting("CPU_NAME") or llvm.get_host_cpu_name(), "features": target_features()}
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(**processor, opt=3, reloc="pic", codemodel="small")
    options = llvm.create_pipeline_tuning_options(speed_level=int(_setting("OPT")))
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


def _setting(name: str) -> Any:
    return getattr(numba.config, name, None)


def _named(source: str) -> Callable[..., Any]:
    module, name = source.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


# ------------------------------------------------------------------ arguments


def _numba_type(kind: Any) -> Any:
    if kind is None:
        return types.none
    if isinstance(kind, tuple):
        inside = list(map(_numba_type, kind[1:]))
        named = (_named(kind[0]),) if kind[0] else ()
        if len(set(inside)) == 1:  # as Numba has it where a kernel makes such a tuple
            return (types.NamedUniTuple if named else types.UniTuple)(inside[0], len(inside), *named)
        return (types.NamedTuple if named else types.Tuple)(inside, *named)
    name, _, ndim = kind.partition("[")
    number = numba.from_dtype(np.dtype(name))
    return types.Array(number, int(ndim[:-1]), "C") if ndim else number


def _reader(kinds: tuple[Any, ...]) -> Any:
    """Return an intrinsic that reads arguments of these types from a pointer to their words."""
    together = types.Tuple(kinds)

    @intrinsic
    def arguments(_context: Any, words: Any) -> Any:
        def generate(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
            return _Words(context, builder, args[0]).read(together)

        return together(words), generate

    return arguments


class _Words:
    """Generates the code that reads one argument after another."""

    def __init__(self, context: Any, builder: Any, pointer: Any) -> None:
        self._context, self._builder = context, builder
        self._words = builder.bitcast(pointer, _WORD.as_pointer())
        self._done = 0

    def read(self, kind: Any) -> Any:
        """Read an argument of this Numba type."""
        builder = self._builder
        if isinstance(kind, (types.Tuple, types.UniTuple, types.NamedTuple, types.NamedUniTuple)):
            return self._context.make_tuple(builder, kind, [self.read(inside) for inside in kind.types])
        if isinstance(kind, types.NoneType):
            return self._context.get_dummy_value()
        word = self._at(self._words, self._done)
        self._done += 1
        if isinstance(kind, types.Array):
            return self._array(kind, builder.inttoptr(word, _WORD.as_pointer()))
        if isinstance(kind, types.Float):
            number = builder.bitcast(word, ir.DoubleType())
            return number if kind == types.float64 else builder.fptrunc(number, ir.FloatType())
        if kind == types.boolean:
            return builder.trunc(word, ir.IntType(1))
        return word if kind.bitwidth == _WORD.width else builder.trunc(word, ir.IntType(kind.bitwidth))

    def _at(self, pointer: Any, k: int) -> Any:
        return self._builder.load(self._builder.gep(pointer, [_word(k)]))

    def _array(self, kind: Any, head: Any) -> Any:
        builder, array = self._builder, self._context.make_array(kind)(self._context, self._builder)
        sizes = builder.inttoptr(self._at(head, _SIZES), _WORD.as_pointer())
        shape = [self._at(sizes, k) for k in range(kind.ndim)]
        itemsize = _word(np.dtype(str(kind.dtype)).itemsize)
        strides = [itemsize]
        for size in shape[:0:-1]:
            strides.insert(0, builder.mul(strides[0], size))
        array.data = builder.inttoptr(self._at(head, _DATA), array.data.type)
        array.shape, array.strides = cgutils.pack_array(builder, shape), cgutils.pack_array(builder, strides)
        array.itemsize, array.nitems = itemsize, builder.udiv(builder.mul(strides[0], shape[0]), itemsize)
        for owner in ("meminfo", "parent"):
            setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
        return array._getvalue()


def _word(number: int) -> Any:
    return ir.Constant(_WORD, number)


def _result(value):
    """Convert what a kernel returns, a number or None."""
    raise NotImplementedError("for compiled code")


@overload(_result)
def _result_of(value):
    if isinstance(value, types.NoneType):
        return lambda value: 0  # noqa: ARG005
    return lambda value: np.int64(value)
