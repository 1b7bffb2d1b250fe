"""Vectors of sixteen elements: LLVM vectors that Numba code can use like numbers.

A small vocabulary: `load`, `store`, `store_nontemporal`, arithmetic and comparison operators (scalars are broadcast),
`select`, `rint`, `floor`, `abs` and the bit patterns of `primitives.py`; across lanes `pairwise_sum`, `least`,
`greatest`, `count` and `mask_of_first`. The functions of `value.py` accept vectors wherever they accept numbers.

Why: LLVM's vectorizer gives up on loops with sums in a fixed order and on loops with a float minimum (5 to 8 times
slower; see `tests/benchmarks/vectors_against_loops.py`). Explicit vectors perform the same additions in the same
order on SSE, AVX2, AVX-512 and NEON, so the bits are the same. Multiply and add are never contracted.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.base import BaseContext
from numba.extending import intrinsic, models, register_model

from qdqcli.op import primitives
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined, intrinsic_for

_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int16: ir.IntType(16),
    types.uint16: ir.IntType(16),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.boolean: ir.IntType(1),
}


class Vector(types.Type):
    """Type of a vector of sixteen values of the Numba type `scalar`; with booleans it is a mask."""

    def __init__(self, scalar: Any, width: int = 16) -> None:
        self.scalar = scalar
        self.width = width
        super().__init__(name=f"Vector({scalar}, {width})")

    def of(self, scalar: types.Type) -> "Vector":
        """Return the type with the same width of another scalar."""
        return Vector(scalar, self.width)

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(_ELEMENTS[self.scalar], self.width)

    @property
    def is_float(self) -> bool:
        return self.scalar in (types.float32, types.float64)

    @property
    def suffix(self) -> str:
        """Type suffix of LLVM's intrinsics."""
        return f"v{self.width}{'f' if self.is_float else 'i'}{self.scalar.bitwidth}"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: object, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


Emit = Callable[[ir.IRBuilder, Vector, ir.Value, ir.Value], ir.Value]
"""Generates the instruction for two operands."""
Types = Sequence[types.Type]
MASK = Vector(types.boolean)
I32, I64 = Vector(types.int32), Vector(types.int64)


def _broadcast(
    context: BaseContext, builder: ir.IRBuilder, value: ir.Value, kind: types.Type, vector: Vector
) -> ir.Value:
    """Return `value` as a vector: unchanged, or a number, converted to the scalar type, broadcast to all elements."""
    if isinstance(kind, Vector):
        return value
    number = context.cast(builder, value, kind, vector.scalar)
    one = builder.insert_element(ir.Constant(vector.llvm, ir.Undefined), number, _int32(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.width), [0] * vector.width)
    return builder.shuffle_vector(one, ir.Constant(vector.llvm, ir.Undefined), zeros)


def _broadcast_all(
    context: BaseContext, builder: ir.IRBuilder, values: Sequence[ir.Value], kinds: Types, vector: Vector
) -> list[ir.Value]:
    return [_broadcast(context, builder, *each, vector) for each in zip(values, kinds, strict=True)]


def _int32(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), number)


def _vector_of(*kinds: types.Type) -> Vector | None:
    """Return the vector type among the operands; None if all are scalars."""
    return next((kind for kind in kinds if isinstance(kind, Vector)), None)


# ------------------------------------------------------------------ operators


def _define(
    function: Callable[..., object],
    emit: Emit,
    *,
    compares: bool = False,
) -> None:
    """Make `function(a, b)` accept vectors: `emit(builder, vector, a, b)` generates the instruction."""

    @intrinsic_for(function)
    def _typed(_context, a, b):
        vector = _vector_of(a, b)
        if vector is None:
            return None

        def generate(context, builder, sig, args):
            return emit(builder, vector, *_broadcast_all(context, builder, args, sig.args, vector))

        return (vector.of(types.boolean) if compares else vector)(a, b), generate


def _float_or_int(float_name: str, int_name: str) -> Emit:
    return lambda builder, vector, a, b: getattr(builder, float_name if vector.is_float else int_name)(a, b)


def _compare(sign: str) -> Emit:
    def emit(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
        if not vector.is_float:
            return builder.icmp_signed(sign, a, b)
        return builder.fcmp_unordered(sign, a, b) if sign == "!=" else builder.fcmp_ordered(sign, a, b)

    return emit


_define(operator.add, _float_or_int("fadd", "add"))
_define(operator.sub, _float_or_int("fsub", "sub"))
_define(operator.mul, _float_or_int("fmul", "mul"))
_define(operator.truediv, lambda builder, _, a, b: builder.fdiv(a, b))
_define(operator.and_, lambda builder, _, a, b: builder.and_(a, b))
_define(operator.or_, lambda builder, _, a, b: builder.or_(a, b))
_define(operator.xor, lambda builder, _, a, b: builder.xor(a, b))
_define(operator.lshift, lambda builder, _, a, b: builder.shl(a, b))
_define(operator.rshift, lambda builder, _, a, b: builder.ashr(a, b))
for _function, _sign in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
    (operator.ne, "!="),
):  # fmt: skip
    _define(_function, _compare(_sign), compares=True)


# ------------------------------------------------------------------ functions of each element


def _llvm_call(name: str, builder: ir.IRBuilder, vector: Vector, *arguments: ir.Value) -> ir.Value:
    full = f"{name}.{vector.suffix}"
    declared = builder.module.globals.get(full)
    if declared is None:
        kind = ir.FunctionType(vector.llvm, [vector.llvm] * len(arguments))
        declared = ir.Function(builder.module, kind, full)
    return builder.call(declared, arguments)


def _unary(function: Callable[..., object], name: str) -> None:
    """Lower `function(v)` to LLVM's intrinsic `name`."""

    @intrinsic_for(function)
    def _typed(_context, v):
        if not isinstance(v, Vector):
            return None
        return v(v), lambda _c, builder, _s, args: _llvm_call(name, builder, v, *args)


_unary(primitives.rint, "llvm.rint")
_unary(primitives.floor, "llvm.floor")
_unary(abs, "llvm.fabs")


@intrinsic_for(primitives.select)
def _select(_context, mask, yes, no):
    if not isinstance(mask, Vector) or not (_vector_of(yes, no) or yes == no):
        return None
    vector = _vector_of(yes, no) or mask.of(yes)

    def generate(context, builder, sig, args):
        return builder.select(args[0], *_broadcast_all(context, builder, args[1:], sig.args[1:], vector))

    return vector(mask, yes, no), generate


@intrinsic_for(primitives.constant)
def _constant(_context, number, v):
    if not isinstance(v, Vector):
        return None
    return v.scalar(number, v), lambda context, builder, _s, args: context.cast(builder, args[0], number, v.scalar)


def _cast(vector: Vector, result: Vector, instruction: str) -> Any:
    """Signature and generator of an intrinsic that converts every lane."""
    return result(vector), lambda _c, builder, _s, args: getattr(builder, instruction)(args[0], result.llvm)


@intrinsic_for(primitives.bits_of)
def _bits_of(_context, v):
    return (
        _cast(v, v.of(types.int32 if v.scalar == types.float32 else types.int64), "bitcast")
        if isinstance(v, Vector)
        else None
    )


@intrinsic_for(primitives.float32_of)
def _float32_of(_context, bits):
    return _cast(bits, bits.of(types.float32), "bitcast") if isinstance(bits, Vector) else None


@intrinsic_for(primitives.widen)
def _widen(_context, stored):
    if not isinstance(stored, Vector):
        return None
    return _cast(stored, stored.of(types.int32), "sext" if stored.scalar == types.int16 else "zext")


@intrinsic_for(primitives.narrow)
def _narrow(_context, bits, stored):
    if not isinstance(stored, Vector):
        return None

    def generate(_c, builder, _s, args):
        return args[0] if stored.is_float else builder.trunc(args[0], stored.llvm)

    return stored(bits, stored), generate


@intrinsic_for(primitives.float32_of_half)
def _float32_of_half(_context, stored):
    def generate(_c, builder, _s, args):
        return builder.fpext(
            builder.bitcast(args[0], ir.VectorType(ir.HalfType(), stored.width)), stored.of(types.float32).llvm
        )

    return (stored.of(types.float32)(stored), generate) if isinstance(stored, Vector) else None


@intrinsic_for(primitives.half_of_float32)
def _half_of_float32(_context, v):
    def generate(_c, builder, _s, args):
        half = builder.fptrunc(args[0], ir.VectorType(ir.HalfType(), v.width))
        return builder.zext(builder.bitcast(half, v.of(types.uint16).llvm), v.of(types.int32).llvm)

    return (v.of(types.int32)(v), generate) if isinstance(v, Vector) else None


@intrinsic
def as_elements(_context, bits, array):
    """Reinterpret patterns as elements of `array`; a view of the source array takes Numba a third of a second."""
    vector = Vector(array.dtype)
    return vector(bits, array), lambda _c, builder, _s, args: builder.bitcast(args[0], vector.llvm)


@intrinsic
def as_wide(_context, v, compute_type):
    """Convert a vector of floats to float64 if `compute_type` is a vector of float64."""
    instruction = "bitcast" if v == compute_type else "fpext"
    return compute_type(v, compute_type), lambda _c, builder, _s, args: getattr(builder, instruction)(
        args[0], compute_type.llvm
    )


@intrinsic_for(primitives.widen_to_double)
def _widen_to_double(_context, v):
    if not isinstance(v, Vector):
        return None
    if v.scalar == types.int32:
        return _cast(v, v.of(types.float64), "sitofp")
    return (
        (v(v), lambda _c, _b, _s, args: args[0])
        if v.scalar == types.float64
        else _cast(v, v.of(types.float64), "fpext")
    )


# ------------------------------------------------------------------ memory


def _pointer(
    context: BaseContext,
    builder: ir.IRBuilder,
    array_type: types.Array,
    array: ir.Value,
    index: ir.Value,
    width: int = VECTOR_SIZE,
) -> ir.Value:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), Vector(array_type.dtype, width).llvm.as_pointer())


@intrinsic
def load(_context, array, i):
    """Load the elements [i, i + VECTOR_SIZE) of a contiguous array."""
    vector = Vector(array.dtype)

    def generate(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=array.dtype.bitwidth // 8)

    return vector(array, types.intp), generate


def _width() -> int:
    """Vector width where many sums are kept: wider vectors would not fit into the registers."""
    return VECTOR_SIZE if primitives.target_has("avx512f") else VECTOR_SIZE // 2


@intrinsic
def width(_context):
    """Width of the vectors of `load_some` and `broadcast_some`: VECTOR_SIZE or half of it."""
    return types.intp(), lambda _c, _b, _s, _a: ir.Constant(ir.IntType(64), _width())


@intrinsic
def load_some(_context, array, i):
    """Load the elements [i, i + width()) of a contiguous array."""
    vector = Vector(array.dtype, _width())

    def generate(context, builder, sig, args):
        return builder.load(
            _pointer(context, builder, sig.args[0], *args, vector.width), align=array.dtype.bitwidth // 8
        )

    return vector(array, types.intp), generate


@intrinsic
def broadcast_some(_context, number):
    """Broadcast a number to width() elements."""
    vector = Vector(number, _width())
    return vector(number), lambda context, builder, _s, args: _broadcast(context, builder, args[0], number, vector)


@intrinsic
def prefetch(_context, array, i):
    """Prefetch element `i` into the L1 cache; it may lie beyond the array's end."""

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], *args)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type] + [ir.IntType(32)] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _int32(0), _int32(3), _int32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _store(*, nontemporal: bool) -> Any:
    @intrinsic
    def call(_context, array, i, v):
        vector = v if isinstance(v, Vector) else Vector(array.dtype)
        vector = vector.of(array.dtype)
        itemsize = array.dtype.bitwidth // 8

        def generate(context, builder, sig, args):
            pointer = _pointer(context, builder, sig.args[0], args[0], args[1], vector.width)
            value = _broadcast(context, builder, args[2], sig.args[2], vector)
            written = builder.store(value, pointer, align=itemsize * (vector.width if nontemporal else 1))
            if nontemporal:
                written.set_metadata("nontemporal", builder.module.add_metadata([_int32(1)]))
            return context.get_dummy_value()

        return types.void(array, types.intp, v), generate

    return call


store = _store(nontemporal=False)
"""store(array, i, v): write a vector to [i, i + VECTOR_SIZE) of a contiguous array."""
store_nontemporal = _store(nontemporal=True)
"""store_nontemporal(array, i, v): non-temporal `store`; the address must be aligned to VECTOR_SIZE elements."""


@intrinsic
def load_where(_context, array, i, mask, others):
    """Load the lanes of `mask` from [i, i + the mask's width); the remaining ones are `others`."""
    vector = mask.of(array.dtype)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], vector.width)
        others = _broadcast(context, builder, args[3], sig.args[3], vector)
        kind = ir.FunctionType(vector.llvm, [pointer.type, ir.IntType(32), mask.llvm, vector.llvm])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{vector.suffix}.p0")
        return builder.call(function, [pointer, _int32(array.dtype.bitwidth // 8), args[2], others])

    return vector(array, types.intp, mask, others), generate


@intrinsic
def store_where(_context, array, i, v, mask):
    """Write the lanes of `mask` to [i, i + the mask's width)."""
    vector = mask.of(array.dtype)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], vector.width)
        kind = ir.FunctionType(ir.VoidType(), [vector.llvm, pointer.type, ir.IntType(32), mask.llvm])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.{vector.suffix}.p0")
        builder.call(function, [args[2], pointer, _int32(array.dtype.bitwidth // 8), args[3]])
        return context.get_dummy_value()

    return types.void(array, types.intp, v, mask), generate


@intrinsic
def _element(_context, array, i):
    """Element `i` of a contiguous array of any rank, in C order."""

    def generate(context, builder, sig, args):
        return builder.load(builder.gep(context.make_array(sig.args[0])(context, builder, args[0]).data, [args[1]]))

    return array.dtype(array, types.intp), generate


@inlined
def load_part(array, i, n):
    """Load the elements [i, i + n), at most VECTOR_SIZE; the remaining ones repeat element `i`."""
    if n >= VECTOR_SIZE:
        return load(array, i)
    return load_where(array, i, mask_of_first(n), _element(array, i))


@inlined
def load_first(array, i, n):
    """Load the elements [i, i + n) into the first of width() lanes, zeros elsewhere; `n` may be negative."""
    return load_where(array, i, first_some(n), 0)


@inlined
def store_part(array, i, v, n):
    """Write the first `n` lanes, at most VECTOR_SIZE, to [i, i + n)."""
    if n >= VECTOR_SIZE:
        store(array, i, v)
    else:
        store_where(array, i, v, mask_of_first(n))


@intrinsic
def store_mask(_context, array, i, mask):
    """Write a mask to [i, i + VECTOR_SIZE) of a contiguous array of booleans."""
    octets = ir.VectorType(ir.IntType(8), VECTOR_SIZE)

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), octets.as_pointer())
        builder.store(builder.zext(args[2], octets), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, mask), generate


@intrinsic
def transpose_tile(_context, x, i, row, out, j, step):
    """Transpose a tile of VECTOR_SIZE rows of VECTOR_SIZE elements: out[j + c * step + r] is x[i + r * row + c].

    Both arrays have one type. Four rounds of shuffles: each deals rows k and k + 8 into rows 2 k and 2 k + 1.
    """
    deals = [
        ir.Constant(I32.llvm, [k // 2 + k % 2 * VECTOR_SIZE for k in range(first, first + VECTOR_SIZE)])
        for first in (0, VECTOR_SIZE)
    ]

    def generate(context, builder, sig, args):
        def pointer(first: int, k: int) -> ir.Value:
            """Pointer to row `k` of the array `args[first]`, whose start and row step are the next two arguments."""
            array, begin, step = args[first : first + 3]
            index = builder.add(begin, builder.mul(step, ir.Constant(step.type, k)))
            return _pointer(context, builder, sig.args[first], array, index)

        align = x.dtype.bitwidth // 8
        rows = [builder.load(pointer(0, k), align=align) for k in range(VECTOR_SIZE)]
        for _ in range(4):
            pairs = [(rows[k], rows[k + VECTOR_SIZE // 2]) for k in range(VECTOR_SIZE // 2)]
            rows = [builder.shuffle_vector(*pair, deal) for pair in pairs for deal in deals]
        for k in range(VECTOR_SIZE):
            builder.store(rows[k], pointer(3, k), align=align)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, out, types.intp, types.intp), generate


# ------------------------------------------------------------------ across elements


@intrinsic
def broadcast(_context, number):
    """Broadcast a number to all elements."""
    vector = Vector(number)
    return vector(number), lambda context, builder, _s, args: _broadcast(context, builder, args[0], number, vector)


@intrinsic
def mask_of_first(_context, n):
    """Mask of the first `n` lanes."""

    def generate(context, builder, sig, args):
        index = ir.Constant(I64.llvm, list(range(VECTOR_SIZE)))
        return builder.icmp_signed("<", index, _broadcast(context, builder, args[0], sig.args[0], I64))

    return MASK(types.int64), generate


@intrinsic
def first_some(_context, n):
    """Mask of the first `n` of width() lanes; `n` may be negative."""
    vector = Vector(types.int64, _width())

    def generate(context, builder, sig, args):
        index = ir.Constant(vector.llvm, list(range(vector.width)))
        return builder.icmp_signed("<", index, _broadcast(context, builder, args[0], sig.args[0], vector))

    return vector.of(types.boolean)(types.int64), generate


@intrinsic
def count(_context, mask):
    """Number of set lanes of a mask."""

    def generate(_context, builder, _sig, args):
        return builder.zext(builder.ctpop(builder.bitcast(args[0], ir.IntType(mask.width))), ir.IntType(64))

    return types.int64(mask), generate


@intrinsic
def add_where(_context, mask, total, one):
    """Add `one`, a broadcast 1, to the int32 lanes where the mask is set."""

    def generate(_context, builder, _sig, args):
        if primitives.target_has("avx512f"):  # one masked instruction, unless LLVM knows that `one` is 1
            return builder.select(args[0], builder.add(args[1], args[2]), args[1])
        return builder.sub(args[1], builder.sext(args[0], total.llvm))  # a comparison gives -1

    return total(mask, total, one), generate


@intrinsic
def bits_of_mask(_context, mask):
    """Return a mask as an integer: lane k is bit k."""

    def generate(_context, builder, _sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(VECTOR_SIZE)), ir.IntType(64))

    return types.int64(mask), generate


@intrinsic
def lowest_bit(_context, number):
    """Index of the lowest set bit of a nonzero int64."""

    def generate(_context, builder, _sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


def _fold(combine: Emit) -> Any:
    """Return an intrinsic that reduces the lanes, far half onto near half until one is left: a fixed tree."""

    @intrinsic
    def call(_context, v):
        def generate(_c, builder, _sig, args):
            (vector,) = args
            width = VECTOR_SIZE
            while width > 1:
                width //= 2
                near, far = (
                    ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
                    for first in (0, width)
                )
                vector = combine(
                    builder,
                    v,
                    builder.shuffle_vector(vector, vector, near),
                    builder.shuffle_vector(vector, vector, far),
                )
            return builder.extract_element(vector, _int32(0))

        return v.scalar(v), generate

    return call


def _keep(sign: str) -> Emit:
    def emit(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
        return builder.select(_compare(sign)(builder, vector, a, b), a, b)

    return emit


def _fold_pairs(keep: Emit) -> Any:
    """Return an intrinsic of two vectors that keeps one of each pair of neighbours: those of `a`, then of `b`."""

    @intrinsic
    def call(_context, a, b):
        def generate(_c, builder, _sig, args):
            evens, odds = (
                builder.shuffle_vector(*args, ir.Constant(I32.llvm, list(range(first, 2 * VECTOR_SIZE, 2))))
                for first in (0, 1)
            )
            return keep(builder, a, evens, odds)

        return a(a, b), generate

    return call


@intrinsic
def any_true(_context, mask):
    """Tell whether any lane of the mask is set."""

    def generate(_context, builder, _sig, args):
        bits = builder.bitcast(args[0], ir.IntType(VECTOR_SIZE))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(VECTOR_SIZE), 0))

    return types.boolean(mask), generate


pairwise_sum = _fold(_float_or_int("fadd", "add"))
"""Sum of the lanes: k and k + 8, then k and k + 4, k and k + 2, k and k + 1."""
least = _fold(_keep("<"))
"""Smallest lane."""
greatest = _fold(_keep(">"))
"""Largest lane."""

least_of_pairs = _fold_pairs(_keep("<"))
"""Smaller of each pair of neighbouring lanes: eight results from `a`, then eight from `b`."""
greatest_of_pairs = _fold_pairs(_keep(">"))
"""Larger of each pair of neighbouring lanes: eight results from `a`, then eight from `b`."""


def smaller(a: ir.Value, b: ir.Value) -> ir.Value:
    """Per lane, `a` where it is less than `b`, else `b`; also for two integers."""
    raise NotImplementedError("for compiled code")


def larger(a: ir.Value, b: ir.Value) -> ir.Value:
    """Per lane, `a` where it is greater than `b`, else `b`; also for two integers."""
    raise NotImplementedError("for compiled code")


def _define_for_integers(function: Callable[..., object], emit: Emit) -> None:
    """Make `function(a, b)` accept signed integers. Numba compiles Python's own `min` to a function with a loop."""

    @intrinsic_for(function)
    def _typed(context, a, b):
        if a not in types.signed_domain or b not in types.signed_domain:
            return None
        kind = context.unify_types(a, b)

        def generate(context, builder, sig, args):
            numbers = (context.cast(builder, *each, kind) for each in zip(args, sig.args, strict=True))
            return emit(builder, Vector(kind), *numbers)

        return kind(a, b), generate


for _function, _sign in (smaller, "<"), (larger, ">"):
    _define(_function, _keep(_sign))
    _define_for_integers(_function, _keep(_sign))
