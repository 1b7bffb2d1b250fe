"""Operations on a number that Python, Numba's CPU target and other targets implement differently.

Each is an ordinary function (for tests and simulators), which Numba compiles for numbers; where it cannot, an overload
stands below. `vector.py` has the vectors' versions; `value.py` builds on all of them. Bit patterns are plain integers
in Python and sign-extended ones in Numba.
"""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from qdqcli.op.jit.register import overload, scalar

Number = Any
"""A NumPy scalar in Python, a typed value in Numba."""


@scalar
def rint(v: Number) -> Number:
    """Round to the nearest integer, ties to even; keeps the sign of zero."""
    return np.rint(v)


@scalar
def floor(v: Number) -> Number:
    """Round down."""
    return np.floor(v)


@scalar
def select(condition: Number, yes: Number, no: Number) -> Number:
    """Return `yes` where the condition holds, else `no`: both are computed, without a branch."""
    return yes if condition else no


@scalar
def add(a: Number, b: Number) -> Number:
    """Return a + b, never contracted with a product that is one of them."""
    return a + b


@scalar
def widen_to_double(v: Number) -> Number:
    """Convert a float32 or float64 to float64."""
    return np.float64(v)


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
    """Widen a 16-bit pattern for the arithmetic of its codec; floats are unchanged."""
    return int(stored) if stored.dtype.kind in "iu" else stored


def narrow(bits: Number, stored: Number) -> Number:
    """Narrow a pattern to the 16-bit integer type of `stored`; floats are unchanged."""
    return stored.dtype.type(np.uint16(bits & 0xFFFF).view(stored.dtype)) if stored.dtype.kind in "iu" else bits


def float32_of_half(bits: Number) -> Number:
    """Convert a float16 pattern, widened, to float32 by an instruction, see `converts_halves`."""
    return np.uint16(bits).view(np.float16).astype(np.float32)


def half_of_float32(v: Number) -> Number:
    """Convert a float32 to a float16 pattern by an instruction, half to even; a NaN keeps some payload."""
    return int(v.astype(np.float16).view(np.uint16))


@cache
def target_features() -> str:
    """Return the features of the processor that kernels are compiled for, `+avx2,-avx512f,...` in LLVM's spelling."""
    chosen = getattr(numba.config, "CPU_FEATURES", None)
    return llvm.get_host_cpu_features().flatten() if chosen is None else str(chosen)


def target_has(feature: str) -> bool:
    """Tell whether the processor that kernels are compiled for is known to have a feature."""
    return f"+{feature}" in target_features().split(",")


def converts_halves(stored: types.Type) -> bool:
    """Tell whether float16 conversion is an instruction for this Numba type of stored elements: only for vectors.

    Without it, LLVM's fallback aborts the process: "Symbol not found: __extendhfsf2".
    """
    return getattr(stored, "scalar", None) == types.uint16 and target_has("f16c")


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
    if isinstance(stored, types.Float):
        return lambda stored: stored
    return (lambda stored: np.int64(stored)) if isinstance(stored, types.Integer) else None


@overload(narrow)
def _narrow(bits, stored):
    kind = stored
    if isinstance(stored, types.Float):
        return lambda bits, stored: bits
    return (lambda bits, stored: kind(bits)) if isinstance(stored, types.Integer) else None


_REINTERPRETED: dict[types.Type, tuple[types.Type, ir.Type]] = {
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
