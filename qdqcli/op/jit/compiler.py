"""Compiler of kernels, by Numba: imported only where a kernel is not in the cache.

A kernel is wrapped in a C function of one argument, a pointer to the words of `kernel.py`, compiled by `numba.cfunc`,
whose LLVM IR becomes an image. A kernel raises no exceptions and allocates no arrays, so that no call is left in it;
where one is, the kernel is compiled by `numba.njit` instead, in each process again.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from itertools import count
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

from qdqcli.op.jit import pipeline
from qdqcli.op.jit.image import ENTRY, IS_X86_64, ImageError, link, load
from qdqcli.op.jit.kernel import Kind, Kinds
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import smaller
from qdqcli.op.primitives import target_features

_WORD = ir.IntType(64)
_HEAD = re.compile(r"^(define .*?)((?: ![\w.]+ !\d+)* \{)$", re.MULTILINE)
"""First line of a function in LLVM IR, and the metadata at its end."""
_DATA, _SIZES = 0, 2
"""Words of an array's head: the pointers to its elements and to its sizes."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function by `numba.njit`, for Python: IEEE division, no GIL, no contraction."""
    return numba.njit(error_model="numpy", nogil=True, forceinline=True)(function)


@cache
def jitted(source: str) -> Callable[..., int | None]:
    """Return a kernel, `module:function`, as Numba compiles it for Python."""
    return jit(_named(source))


def native_image(source: str, kinds: Kinds) -> bytes:
    """Compile a kernel to an image.

    Raises:
        ImageError: it needs Numba, or another function, at run time.
    """
    choose_pipeline()
    try:
        return _native_image(_named(source), kinds)
    except numba.core.errors.NumbaError as error:
        raise ImageError(str(error)) from error


@cache
def choose_pipeline() -> None:
    """Try the reduced pipeline on a small kernel, and choose Numba's own where anything fails."""
    pipeline.is_reduced = True
    try:
        run = load(_native_image(_probe, ("int64",)))
        pipeline.is_reduced = run((20).to_bytes(8, "little")) == 42
    except Exception:  # of any part of another Numba
        pipeline.is_reduced = False


def _probe(number):
    return smaller(_successor(number), 1000) * 2


@inlined
def _successor(number):
    return number + 1


def _native_image(function: Callable[..., object], kinds: Kinds) -> bytes:
    kernel, arguments = inlined(function), _reader(kinds)

    def entry(words):
        return _result(kernel(*arguments(words)))

    compile_entry = numba.cfunc(types.int64(types.voidptr), error_model="numpy", pipeline_class=pipeline.KernelCompiler)
    compiled = compile_entry(entry)
    return _image_of(compiled.inspect_llvm(), compiled.native_name)


def _image_of(text: str, entry: str) -> bytes:
    """Optimize LLVM IR and compile it to one position-independent function."""
    text = text.replace("noinline", "alwaysinline")  # as everything below is
    text = _HEAD.sub(r'\1 "no-builtins"\2', text)  # no loop becomes a call of memset
    module = llvm.parse_assembly(text)
    for function in module.functions:
        if function.name == entry:
            function.name = ENTRY
        elif not function.is_declaration:
            function.linkage = "internal"
            function.add_function_attribute("alwaysinline")  # before anything else: each is optimized once, in place
    config: Any = numba.config
    processor = {"cpu": config.CPU_NAME or llvm.get_host_cpu_name(), "features": target_features()}
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(**processor, opt=3, reloc="pic", codemodel="small")
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(int(config.OPT)))
    builder.getModulePassManager().run(module, builder)
    if any(function.is_declaration and not function.name.startswith("llvm.") for function in module.functions):
        raise ImageError("the kernel calls a function")
    code: bytes = machine.emit_object(module)
    return link(code) if IS_X86_64 else code


def _named(source: str) -> Callable[..., Any]:
    module, name = source.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


# ------------------------------------------------------------------ arguments


def _numba_type(kind: Kind) -> types.Type:
    if kind is None:
        return types.none
    if isinstance(kind, tuple):
        named = _named(str(kind[0])) if kind[0] else tuple
        found: types.Type = types.BaseTuple.from_types(tuple(map(_numba_type, kind[1:])), named)
        return found
    name, _, ndim = kind.partition("[")
    number: types.Number = numba.from_dtype(np.dtype(name))
    return types.Array(number, int(ndim[:-1]), "C") if ndim else number


def _reader(kinds: Kinds) -> Callable[..., tuple[object, ...]]:
    """Return an intrinsic that reads arguments of these types from a pointer to their words."""
    together = types.Tuple(tuple(map(_numba_type, kinds)))

    @intrinsic
    def arguments(_context, words):
        def generate(context: BaseContext, builder: ir.IRBuilder, _sig: Signature, args: list[ir.Value]) -> ir.Value:
            address = builder.ptrtoint(args[0], _WORD)
            return _read(context, builder, (_load(builder, address, k) for k in count()), together)

        return together(words), generate

    return arguments


def _read(context: BaseContext, builder: ir.IRBuilder, words: Iterator[ir.Value], kind: types.Type) -> ir.Value:
    """Make an argument of the next of `words`."""
    if isinstance(kind, (types.UniTuple, types.Tuple, types.NamedUniTuple, types.NamedTuple)):
        return context.make_tuple(builder, kind, [_read(context, builder, words, inside) for inside in kind.types])
    if isinstance(kind, types.NoneType):
        return context.get_dummy_value()
    if isinstance(kind, types.Array):
        return _array(context, builder, next(words), kind)
    if isinstance(kind, types.Float):
        return builder.fptrunc(builder.bitcast(next(words), ir.DoubleType()), context.get_value_type(kind))
    return builder.trunc(next(words), context.get_value_type(kind))


def _array(context: BaseContext, builder: ir.IRBuilder, head: ir.Value, kind: types.Array) -> ir.Value:
    """Make a C-contiguous array of the address of its head."""
    array = context.make_array(kind)(context, builder)
    sizes = _load(builder, head, _SIZES)
    shape = [_load(builder, sizes, k) for k in range(kind.ndim)]
    strides = [_WORD(context.get_abi_sizeof(context.get_data_type(kind.dtype)))]
    for size in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], size))
    data = builder.inttoptr(_load(builder, head, _DATA), array.data.type)
    return populate_array(array, data, shape, strides, strides[-1], meminfo=None)._getvalue()


def _load(builder: ir.IRBuilder, address: ir.Value, k: int) -> ir.Value:
    """Load the 8-byte word `k` after an address."""
    return builder.load(builder.gep(builder.inttoptr(address, _WORD.as_pointer()), [_WORD(k)]))


def _result(value):
    """Convert what a kernel returns, a number or None."""
    raise NotImplementedError("for compiled code")


@overload(_result)
def _result_of(value):
    if isinstance(value, types.NoneType):
        return lambda value: 0  # noqa: ARG005
    return lambda value: np.int64(value)
