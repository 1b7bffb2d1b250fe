"""Operations on a number that Python, Numba's CPU target and other targets implement differently.

Each is an ordinary function (for tests and simulators) with a Numba overload beside it; `value.py` builds on them. Bit
patterns are plain integers in Python and sign-extended ones in Numba.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from qdqcli.op.jit.register import overload

Number = Any
"""A NumPy scalar in Python, a typed value in Numba."""


def rint(v: Number) -> Number:
    """Round to the nearest integer, ties to even; keeps the sign of zero."""
    return np.rint(v)


def floor(v: Number) -> Number:
    """Round down."""
    return np.floor(v)


def select(condition: Number, yes: Number, no: Number) -> Number:
    """Return `yes` where the condition holds, else `no`: both are computed, without a branch."""
    return yes if condition else no


def add(a: Number, b: Number) -> Number:
    """Return a + b, never contracted with a product that is one of them."""
    return a + b


def constant(number: float, v: Number) -> Number:
    """Convert `number` to the type of `v`, a float32 or float64."""
    return v.dtype.type(number)


def bits_of(v: Number) -> Number:
    """Return the bit pattern of a float32 or float64."""
    return int(v.view(np.int32 if v.dtype == np.float32 else np.int64))


def float32_of(bits: Number) -> Number:
    """Return the float32 whose pattern is the low 32 bits."""
    return np.uint32(bits & 0xFFFFFFFF).view(np.float32)


def float64_of(bits: Number) -> Number:
    """Return the float64 whose pattern is the 64 bits."""
    return np.int64(bits).view(np.float64)


def widen(stored: Number) -> Number:
    """Widen a 16-bit pattern for the arithmetic of its codec."""
    return int(stored)


def narrow(bits: Number, stored: Number) -> Number:
    """Narrow a pattern to the 16-bit integer type of `stored`; floats are unchanged."""
    return stored.dtype.type(np.uint16(bits & 0xFFFF).view(stored.dtype)) if stored.dtype.kind in "iu" else bits


def float32_of_half(stored: Number) -> Number:
    """Convert a float16 pattern to float32 by an instruction, see `converts_halves`."""
    return stored.view(np.float16).astype(np.float32)


def half_of_float32(v: Number) -> Number:
    """Convert a float32 to a float16 pattern by an instruction, half to even; a NaN keeps some payload."""
    return int(v.astype(np.float16).view(np.uint16))


def widen_to_double(v: Number) -> Number:
    """Convert a float32 or float64 to float64."""
    return np.float64(v)


def target_has(feature: str) -> bool:
    """Tell whether the kernels' target processor is known to have a feature, in LLVM's spelling."""
    features: str = cpu_target.target_context.codegen().magic_tuple()[2]
    return f"+{feature}" in features.split(",")


def converts_halves(number_type: Any) -> bool:
    """Tell whether this Numba type, a vector, has instructions for float16 conversion.

    Without them, LLVM's fallback aborts the process: "Symbol not found: __extendhfsf2".
    """
    return hasattr(number_type, "scalar") and target_has("f16c")


@overload(rint)
def _rint(v):
    return (lambda v: np.rint(v)) if isinstance(v, types.Float) else None


@overload(floor)
def _floor(v):
    return (lambda v: np.floor(v)) if isinstance(v, types.Float) else None


@overload(select)
def _select(condition, yes, no):
    if not isinstance(condition, types.Boolean):
        return None
    return lambda condition, yes, no: yes if condition else no


@overload(add)
def _add(a, b):
    return lambda a, b: a + b


@overload(constant)
def _constant(number, v):
    kind = v
    return (lambda number, v: kind(number)) if isinstance(v, types.Float) else None


@overload(bits_of)
def _bits_of(v):
    return (lambda v: _bitcast(v)) if isinstance(v, types.Float) else None


@overload(float32_of)
def _float32_of(bits):
    return (lambda bits: _bitcast(np.int32(bits))) if isinstance(bits, types.Integer) else None


@overload(float64_of)
def _float64_of(bits):
    return (lambda bits: _bitcast(np.int64(bits))) if isinstance(bits, types.Integer) else None


@overload(widen)
def _widen(stored):
    return (lambda stored: np.int64(stored)) if isinstance(stored, types.Integer) else None


@overload(widen_to_double)
def _widen_to_double(v):
    return (lambda v: np.float64(v)) if isinstance(v, types.Float) else None


@overload(narrow)
def _narrow(bits, stored):
    kind = stored
    if isinstance(stored, types.Float):
        return lambda bits, stored: bits
    return (lambda bits, stored: kind(bits)) if isinstance(stored, types.Integer) else None


_REINTERPRETED: dict[Any, tuple[Any, ir.Type]] = {
    types.float32: (types.int32, ir.IntType(32)),
    types.float64: (types.int64, ir.IntType(64)),
    types.int32: (types.float32, ir.FloatType()),
    types.int64: (types.float64, ir.DoubleType()),
}


@intrinsic
def _bitcast(_context, v):
    result, llvm_type = _REINTERPRETED[v]

    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], llvm_type)

    return result(v), generate
