"""Vectors of sixteen elements: LLVM vectors that Numba code can use like numbers.

A small vocabulary: `load`, `store`, `store_nontemporal`, arithmetic and comparison operators (scalars are broadcast),
`abs`, and the operations of `primitives.py`; across lanes `pairwise_sum`, `least`, `greatest`, `count` and
`mask_of_first`. The functions of `value.py` accept vectors wherever they accept numbers.

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


Scalar = Any
"""Numba's type of a number or of a boolean."""


class Vector(types.Type):
    """Type of a vector of sixteen values of the Numba type `scalar`; with booleans it is a mask."""

    def __init__(self, scalar: Scalar, width: int = VECTOR_SIZE) -> None:
        self.scalar = scalar
        self.width = width
        super().__init__(name=f"Vector({scalar}, {width})")

    def of(self, scalar: Scalar) -> "Vector":
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
Intrinsic = Any
"""A function for compiled code, which mypy knows as untyped."""
Width = Callable[[], int]
"""Number of elements of a vector, asked when a kernel is compiled."""


def _all() -> int:
    return VECTOR_SIZE


def _some() -> int:
    """Vector width where many sums are kept: wider vectors would not fit into the registers."""
    return VECTOR_SIZE if primitives.target_has("avx512f") else VECTOR_SIZE // 2


@intrinsic
def width(_context):
    """Width of the vectors of `load_some`, `broadcast_some` and `first_some`: VECTOR_SIZE or half of it."""
    return types.intp(), lambda _c, _b, _s, _a: ir.Constant(ir.IntType(64), _some())


def _as_vector(
    context: BaseContext, builder: ir.IRBuilder, value: ir.Value, kind: types.Type, vector: Vector
) -> ir.Value:
    """Return `value` as a vector: unchanged, or a number, converted to the scalar type, broadcast to all elements."""
    if isinstance(kind, Vector):
        return value
    number = context.cast(builder, value, kind, vector.scalar)
    one = builder.insert_element(ir.Constant(vector.llvm, ir.Undefined), number, _int32(0))
    return builder.shuffle_vector(one, ir.Constant(vector.llvm, ir.Undefined), _lanes([0] * vector.width))


def _as_vectors(
    context: BaseContext, builder: ir.IRBuilder, values: Sequence[ir.Value], kinds: Sequence[types.Type], vector: Vector
) -> list[ir.Value]:
    return [_as_vector(context, builder, *each, vector) for each in zip(values, kinds, strict=True)]


def _int32(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), number)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    """Return the lanes that a shuffle takes."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def _vector_of(*kinds: types.Type) -> Vector | None:
    """Return the vector type among the operands; None if all are scalars."""
    return next((kind for kind in kinds if isinstance(kind, Vector)), None)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call an intrinsic of LLVM."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


# ------------------------------------------------------------------ operators


def _define(function: Callable[..., object], emit: Emit, *, compares: bool = False) -> None:
    """Make `function(a, b)` accept vectors: `emit(builder, vector, a, b)` generates the instruction."""

    @intrinsic_for(function)
    def _typed(_context, a, b):
        vector = _vector_of(a, b)
        if vector is None:
            return None

        def generate(context, builder, sig, args):
            return emit(builder, vector, *_as_vectors(context, builder, args, sig.args, vector))

        return (vector.of(types.boolean) if compares else vector)(a, b), generate


def _float_or_int(float_name: str, int_name: str) -> Emit:
    return lambda builder, vector, a, b: getattr(builder, float_name if vector.is_float else int_name)(a, b)


def _compare(sign: str) -> Emit:
    def emit(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
        if not vector.is_float:
            return builder.icmp_signed(sign, a, b)
        return builder.fcmp_unordered(sign, a, b) if sign == "!=" else builder.fcmp_ordered(sign, a, b)

    return emit


def _keep(sign: str) -> Emit:
    def emit(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
        return builder.select(_compare(sign)(builder, vector, a, b), a, b)

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
_define(primitives.add, _float_or_int("fadd", "add"))


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


# ------------------------------------------------------------------ functions of each element


def _unary(function: Callable[..., object], name: str) -> None:
    """Lower `function(v)` to LLVM's intrinsic `name`."""

    @intrinsic_for(function)
    def _typed(_context, v):
        if not isinstance(v, Vector):
            return None
        return v(v), lambda _c, builder, _s, args: _call(builder, f"{name}.{v.suffix}", v.llvm, *args)


_unary(primitives.rint, "llvm.rint")
_unary(primitives.floor, "llvm.floor")
_unary(abs, "llvm.fabs")


@intrinsic_for(primitives.select)
def _select(_context, mask, yes, no):
    if not isinstance(mask, Vector) or not (_vector_of(yes, no) or yes == no):
        return None
    vector = _vector_of(yes, no) or mask.of(yes)

    def generate(context, builder, sig, args):
        return builder.select(args[0], *_as_vectors(context, builder, args[1:], sig.args[1:], vector))

    return vector(mask, yes, no), generate


@intrinsic_for(primitives.constant)
def _constant(_context, number, v):
    if not isinstance(v, Vector):
        return None
    return v.scalar(number, v), lambda context, builder, _s, args: context.cast(builder, args[0], number, v.scalar)


def _conversion(function: Callable[..., object], choose: Callable[[Scalar], tuple[Scalar, str]]) -> None:
    """Make `function(v)` convert a vector: `choose` names the scalar of the result and the instruction."""

    @intrinsic_for(function)
    def _typed(_context, v):
        if not isinstance(v, Vector):
            return None
        scalar, instruction = choose(v.scalar)
        result = v.of(scalar)
        return result(v), lambda _c, builder, _s, args: getattr(builder, instruction)(args[0], result.llvm)


_INTEGERS = {types.float32: types.int32, types.float64: types.int64}
_WIDENED: dict[Scalar, tuple[Scalar, str]] = {types.int16: (types.int32, "sext"), types.uint16: (types.int32, "zext")}
_DOUBLED = {types.int32: "sitofp", types.float32: "fpext", types.float64: "bitcast"}

_conversion(primitives.bits_of, lambda scalar: (_INTEGERS[scalar], "bitcast"))
_conversion(primitives.float32_of, lambda _: (types.float32, "bitcast"))
_conversion(primitives.widen, lambda scalar: _WIDENED.get(scalar, (scalar, "bitcast")))
_conversion(primitives.widen_to_double, lambda scalar: (types.float64, _DOUBLED[scalar]))


@intrinsic_for(primitives.narrow)
def _narrow(_context, bits, stored):
    if not isinstance(stored, Vector):
        return None

    def generate(_c, builder, _s, args):
        return args[0] if stored.is_float else builder.trunc(args[0], stored.llvm)

    return stored(bits, stored), generate


def _halves(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir.HalfType(), vector.width)


@intrinsic_for(primitives.float32_of_half)
def _float32_of_half(_context, stored):
    floats = stored.of(types.float32)
    return floats(stored), lambda _c, builder, _s, args: builder.fpext(
        builder.bitcast(args[0], _halves(stored)), floats.llvm
    )


@intrinsic_for(primitives.half_of_float32)
def _half_of_float32(_context, v):
    patterns = v.of(types.int32)

    def generate(_c, builder, _s, args):
        half = builder.bitcast(builder.fptrunc(args[0], _halves(v)), v.of(types.uint16).llvm)
        return builder.zext(half, patterns.llvm)

    return patterns(v), generate


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


# ------------------------------------------------------------------ memory


def _pointer(
    context: BaseContext, builder: ir.IRBuilder, kind: types.Array, array: ir.Value, i: ir.Value, target: ir.Type
) -> ir.Value:
    """Return the address of element `i` of a contiguous array, in C order, as a pointer to `target`."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [i]), target.as_pointer())


def _itemsize(array: types.Array) -> int:
    dtype: Scalar = array.dtype
    return int(dtype.bitwidth) // 8


def _load(width_of: Width) -> Intrinsic:
    @intrinsic
    def call(_context, array, i):
        vector = Vector(array.dtype, width_of())

        def generate(context, builder, sig, args):
            return builder.load(_pointer(context, builder, sig.args[0], *args, vector.llvm), align=_itemsize(array))

        return vector(array, types.intp), generate

    return call


load = _load(_all)
"""load(array, i): the elements [i, i + VECTOR_SIZE) of a contiguous array."""
load_some = _load(_some)
"""load_some(array, i): the elements [i, i + width())."""


@intrinsic
def _element(_context, array, i):
    """Element `i` of a contiguous array of any rank, in C order."""

    def generate(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], *args, _ELEMENTS[array.dtype]))

    return array.dtype(array, types.intp), generate


@intrinsic
def prefetch(_context, array, i):
    """Prefetch element `i` into the L1 cache; it may lie beyond the array's end."""

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], *args, _ELEMENTS[array.dtype])
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, _int32(0), _int32(3), _int32(1))
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _store(*, nontemporal: bool) -> Intrinsic:
    @intrinsic
    def call(_context, array, i, v):
        vector = v.of(array.dtype) if isinstance(v, Vector) else Vector(array.dtype)

        def generate(context, builder, sig, args):
            pointer = _pointer(context, builder, sig.args[0], *args[:2], vector.llvm)
            value = _as_vector(context, builder, args[2], sig.args[2], vector)
            written = builder.store(value, pointer, align=_itemsize(array) * (vector.width if nontemporal else 1))
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
        pointer = _pointer(context, builder, sig.args[0], *args[:2], vector.llvm)
        others = _as_vector(context, builder, args[3], sig.args[3], vector)
        name = f"llvm.masked.load.{vector.suffix}.p0"
        return _call(builder, name, vector.llvm, pointer, _int32(_itemsize(array)), args[2], others)

    return vector(array, types.intp, mask, others), generate


@intrinsic
def store_where(_context, array, i, v, mask):
    """Write the lanes of `mask` to [i, i + the mask's width)."""
    vector = mask.of(array.dtype)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], *args[:2], vector.llvm)
        name = f"llvm.masked.store.{vector.suffix}.p0"
        _call(builder, name, ir.VoidType(), args[2], pointer, _int32(_itemsize(array)), args[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, v, mask), generate


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
        pointer = _pointer(context, builder, sig.args[0], *args[:2], octets)
        builder.store(builder.zext(args[2], octets), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, mask), generate


@intrinsic
def transpose_tile(_context, x, i, row, out, j, step):
    """Transpose a tile of VECTOR_SIZE rows of VECTOR_SIZE elements: out[j + c * step + r] is x[i + r * row + c].

    Both arrays have one type. Four rounds of shuffles: each deals rows k and k + 8 into rows 2 k and 2 k + 1.
    """
    deals = [
        _lanes([k // 2 + k % 2 * VECTOR_SIZE for k in range(first, first + VECTOR_SIZE)]) for first in (0, VECTOR_SIZE)
    ]

    def generate(context, builder, sig, args):
        def pointer(first: int, k: int) -> ir.Value:
            """Pointer to row `k` of the array `args[first]`, whose start and row step are the next two arguments."""
            array, begin, step = args[first : first + 3]
            index = builder.add(begin, builder.mul(step, ir.Constant(step.type, k)))
            return _pointer(context, builder, sig.args[first], array, index, Vector(x.dtype).llvm)

        rows = [builder.load(pointer(0, k), align=_itemsize(x)) for k in range(VECTOR_SIZE)]
        for _ in range(4):
            pairs = [(rows[k], rows[k + VECTOR_SIZE // 2]) for k in range(VECTOR_SIZE // 2)]
            rows = [builder.shuffle_vector(*pair, deal) for pair in pairs for deal in deals]
        for k in range(VECTOR_SIZE):
            builder.store(rows[k], pointer(3, k), align=_itemsize(x))
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, out, types.intp, types.intp), generate


# ------------------------------------------------------------------ across elements


def _broadcast(width_of: Width) -> Intrinsic:
    @intrinsic
    def call(_context, number):
        vector = Vector(number, width_of())
        return vector(number), lambda context, builder, _s, args: _as_vector(context, builder, *args, number, vector)

    return call


broadcast = _broadcast(_all)
"""broadcast(number): VECTOR_SIZE times a number."""
broadcast_some = _broadcast(_some)
"""broadcast_some(number): width() times a number."""


def _mask_of_first(width_of: Width) -> Intrinsic:
    @intrinsic
    def call(_context, n):
        vector = Vector(types.int64, width_of())

        def generate(context, builder, sig, args):
            index = ir.Constant(vector.llvm, list(range(vector.width)))
            return builder.icmp_signed("<", index, _as_vector(context, builder, *args, *sig.args, vector))

        return vector.of(types.boolean)(types.int64), generate

    return call


mask_of_first = _mask_of_first(_all)
"""mask_of_first(n): mask of the first `n` of VECTOR_SIZE lanes; `n` may be negative."""
first_some = _mask_of_first(_some)
"""first_some(n): mask of the first `n` of width() lanes."""


@intrinsic
def bits_of_mask(_context, mask):
    """Return a mask as an integer: lane k is bit k."""

    def generate(_context, builder, _sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.width)), ir.IntType(64))

    return types.int64(mask), generate


@inlined
def any_true(mask):
    """Tell whether any lane of the mask is set."""
    return bits_of_mask(mask) != 0


@intrinsic
def count(_context, mask):
    """Number of set lanes of a mask."""

    def generate(_context, builder, _sig, args):
        return builder.zext(builder.ctpop(builder.bitcast(args[0], ir.IntType(mask.width))), ir.IntType(64))

    return types.int64(mask), generate


@intrinsic
def lowest_bit(_context, number):
    """Index of the lowest set bit of a nonzero int64."""

    def generate(_context, builder, _sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def add_where(_context, mask, total, one):
    """Add `one`, a broadcast 1, to the int32 lanes where the mask is set."""

    def generate(_context, builder, _sig, args):
        if primitives.target_has("avx512f"):  # one masked instruction, unless LLVM knows that `one` is 1
            return builder.select(args[0], builder.add(args[1], args[2]), args[1])
        return builder.sub(args[1], builder.sext(args[0], total.llvm))  # a comparison gives -1

    return total(mask, total, one), generate


def _fold(combine: Emit) -> Intrinsic:
    """Return an intrinsic that reduces the lanes, far half onto near half until one is left: a fixed tree."""

    @intrinsic
    def call(_context, v):
        def generate(_c, builder, _sig, args):
            (vector,) = args
            width = VECTOR_SIZE
            while width > 1:
                width //= 2
                near, far = (
                    builder.shuffle_vector(vector, vector, _lanes(range(first, first + width))) for first in (0, width)
                )
                vector = combine(builder, v, near, far)
            return builder.extract_element(vector, _int32(0))

        return v.scalar(v), generate

    return call


def _fold_pairs(combine: Emit) -> Intrinsic:
    """Return an intrinsic of two vectors that combines each pair of neighbours: those of `a`, then of `b`."""

    @intrinsic
    def call(_context, a, b):
        def generate(_c, builder, _sig, args):
            pairs = (builder.shuffle_vector(*args, _lanes(range(first, 2 * VECTOR_SIZE, 2))) for first in (0, 1))
            return combine(builder, a, *pairs)

        return a(a, b), generate

    return call


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
