"""Vectors of sixteen elements (lanes): LLVM vectors that Numba code can use like numbers.

A small vocabulary: `load`, `store`, `stream`, arithmetic and comparison operators (scalars are broadcast), `select`,
`rint`, `floor`, `abs` and the bit patterns of `primitives.py`; across lanes `tree_sum`, `least`, `greatest`, `count`
and `first_lanes`. The functions of `value.py` accept vectors wherever they accept numbers.

Why: LLVM's vectorizer gives up on loops with sums in a fixed order and on loops with a float minimum (5 to 8 times
slower; see `tests/benchmarks/lanes_against_loops.py`). Sixteen explicit lanes perform the same additions in the same
order on SSE, AVX2, AVX-512 and NEON, so the bits are the same. Multiply and add are never contracted.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

from qdqcli.op import primitives
from qdqcli.op.jit.register import TRIED_FIRST, inlined, intrinsic_for

LANES = 16

_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int16: ir.IntType(16),
    types.uint16: ir.IntType(16),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.boolean: ir.IntType(1),
}


class Lanes(types.Type):
    """Type of a vector of sixteen values of the Numba type `scalar`; with booleans it is a mask."""

    def __init__(self, scalar: Any, width: int = 16) -> None:
        self.scalar = scalar
        self.width = width
        super().__init__(name=f"Lanes({scalar}, {width})")

    def of(self, scalar: Any) -> "Lanes":
        """Return the type with the same number of lanes of another scalar."""
        return Lanes(scalar, self.width)

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


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, kind.llvm)


MASK = Lanes(types.boolean)
I32, I64 = Lanes(types.int32), Lanes(types.int64)
F32, F64 = Lanes(types.float32), Lanes(types.float64)


def _spread(context: Any, builder: Any, value: Any, kind: Any, lanes: Lanes) -> Any:
    """Return `value` as a vector: unchanged, or a number, converted to the scalar type, broadcast to all lanes."""
    if isinstance(kind, Lanes):
        return value
    number = context.cast(builder, value, kind, lanes.scalar)
    one = builder.insert_element(ir.Constant(lanes.llvm, ir.Undefined), number, _int32(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.width), [0] * lanes.width)
    return builder.shuffle_vector(one, ir.Constant(lanes.llvm, ir.Undefined), zeros)


def _int32(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), number)


def _lanes_of(*kinds: Any) -> Lanes | None:
    """Return the vector type among the operands; None if all are scalars."""
    return next((kind for kind in kinds if isinstance(kind, Lanes)), None)


# ------------------------------------------------------------------ operators

_FREQUENT = {(kind, kind) for kind in (types.int64, types.float32, types.float64)}
"""Pairs of numbers whose sum has their own type; they too can skip Numba's dozen templates for numbers."""


def _define(
    function: Callable[..., Any],
    emit: Callable[[Any, Lanes, Any, Any], Any],
    *,
    compares: bool = False,
    scalars: bool = False,
) -> None:
    """Make `function(a, b)` accept vectors: `emit(builder, lanes, a, b)` generates the instruction.

    With `scalars`, `_FREQUENT` operands get their result type at once; the instruction stays Numba's.
    """

    @infer_global(function)
    class _Template(AbstractTemplate):
        metadata = TRIED_FIRST

        def generic(self, args: Any, kws: Any) -> Any:
            lanes = _lanes_of(*args)
            if lanes is not None and len(args) == 2:
                return signature(lanes.of(types.boolean) if compares else lanes, *args)
            if args in _FREQUENT and scalars:
                return signature(types.boolean if compares else args[0], *args)
            return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = _lanes_of(*sig.args)
        assert lanes is not None  # ensured by the template
        a, b = (_spread(context, builder, value, kind, lanes) for value, kind in zip(args, sig.args, strict=True))
        return emit(builder, lanes, a, b)

    for pair in ((Lanes, Lanes), (Lanes, types.Any), (types.Any, Lanes)):
        lower_builtin(function, *pair)(lower)


def _float_or_int(float_name: str, int_name: str) -> Callable[[Any, Lanes, Any, Any], Any]:
    return lambda builder, lanes, a, b: getattr(builder, float_name if lanes.is_float else int_name)(a, b)


def _compare(sign: str) -> Callable[[Any, Lanes, Any, Any], Any]:
    def emit(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
        if not lanes.is_float:
            return builder.icmp_signed(sign, a, b)
        return builder.fcmp_unordered(sign, a, b) if sign == "!=" else builder.fcmp_ordered(sign, a, b)

    return emit


_define(operator.add, _float_or_int("fadd", "add"), scalars=True)
_define(operator.sub, _float_or_int("fsub", "sub"), scalars=True)
_define(operator.mul, _float_or_int("fmul", "mul"), scalars=True)
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
    _define(_function, _compare(_sign), compares=True, scalars=True)


# ------------------------------------------------------------------ functions of each lane


def _llvm_call(name: str, builder: Any, lanes: Lanes, *arguments: Any) -> Any:
    full = f"{name}.{lanes.suffix}"
    declared = builder.module.globals.get(full)
    if declared is None:
        kind = ir.FunctionType(lanes.llvm, [lanes.llvm] * len(arguments))
        declared = ir.Function(builder.module, kind, full)
    return builder.call(declared, arguments)


def _unary(function: Callable[..., Any], name: str) -> None:
    """Lower `function(v)` to LLVM's intrinsic `name`."""

    @intrinsic_for(function)
    def _typed(_context, v):
        if not isinstance(v, Lanes):
            return None
        return v(v), lambda _c, builder, _s, args: _llvm_call(name, builder, v, *args)


_unary(primitives.rint, "llvm.rint")
_unary(primitives.floor, "llvm.floor")
_unary(abs, "llvm.fabs")


@intrinsic_for(primitives.select)
def _select(_context, mask, yes, no):
    if not isinstance(mask, Lanes) or not (_lanes_of(yes, no) or yes == no):
        return None
    lanes = _lanes_of(yes, no) or mask.of(yes)

    def generate(context, builder, sig, args):
        a, b = (_spread(context, builder, v, kind, lanes) for v, kind in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], a, b)

    return lanes(mask, yes, no), generate


@intrinsic_for(primitives.constant)
def _constant(_context, number, v):
    if not isinstance(v, Lanes):
        return None
    return v.scalar(number, v), lambda context, builder, _s, args: context.cast(builder, args[0], number, v.scalar)


def _cast(lanes: Lanes, result: Lanes, instruction: str) -> Any:
    """Signature and generator of an intrinsic that converts every lane."""
    return result(lanes), lambda _c, builder, _s, args: getattr(builder, instruction)(args[0], result.llvm)


@intrinsic_for(primitives.bits_of)
def _bits_of(_context, v):
    return (
        _cast(v, v.of(types.int32 if v.scalar == types.float32 else types.int64), "bitcast")
        if isinstance(v, Lanes)
        else None
    )


@intrinsic_for(primitives.float32_of)
def _float32_of(_context, bits):
    return _cast(bits, bits.of(types.float32), "bitcast") if isinstance(bits, Lanes) else None


@intrinsic_for(primitives.widen)
def _widen(_context, stored):
    if not isinstance(stored, Lanes):
        return None
    return _cast(stored, stored.of(types.int32), "sext" if stored.scalar == types.int16 else "zext")


@intrinsic_for(primitives.narrow)
def _narrow(_context, bits, stored):
    if not isinstance(stored, Lanes):
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

    return (stored.of(types.float32)(stored), generate) if isinstance(stored, Lanes) else None


@intrinsic_for(primitives.half_of_float32)
def _half_of_float32(_context, v):
    def generate(_c, builder, _s, args):
        half = builder.fptrunc(args[0], ir.VectorType(ir.HalfType(), v.width))
        return builder.zext(builder.bitcast(half, v.of(types.uint16).llvm), v.of(types.int32).llvm)

    return (v.of(types.int32)(v), generate) if isinstance(v, Lanes) else None


@intrinsic
def as_elements(_context, bits, array):
    """Reinterpret patterns as elements of `array`; a view of the source array takes Numba a third of a second."""
    lanes = Lanes(array.dtype)
    return lanes(bits, array), lambda _c, builder, _s, args: builder.bitcast(args[0], lanes.llvm)


@intrinsic
def as_wide(_context, v, like):
    """Convert a vector of floats to float64 if `like` is a vector of float64."""
    instruction = "bitcast" if v == like else "fpext"
    return like(v, like), lambda _c, builder, _s, args: getattr(builder, instruction)(args[0], like.llvm)


@intrinsic_for(primitives.widen_to_double)
def _widen_to_double(_context, v):
    if not isinstance(v, Lanes):
        return None
    if v.scalar == types.int32:
        return _cast(v, v.of(types.float64), "sitofp")
    return (
        (v(v), lambda _c, _b, _s, args: args[0])
        if v.scalar == types.float64
        else _cast(v, v.of(types.float64), "fpext")
    )


# ------------------------------------------------------------------ memory


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, width: int = LANES) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), Lanes(array_type.dtype, width).llvm.as_pointer())


@intrinsic
def load(_context, array, i):
    """Load the elements [i, i + LANES) of a contiguous array."""
    lanes = Lanes(array.dtype)

    def generate(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=array.dtype.bitwidth // 8)

    return lanes(array, types.intp), generate


def _width() -> int:
    """Vector width where many sums are kept: wider vectors would not fit into the registers."""
    return LANES if primitives.target_has("avx512f") else LANES // 2


@intrinsic
def width(_context):
    """Width of the vectors of `load_some` and `splat_some`: LANES or half of it."""
    return types.intp(), lambda _c, _b, _s, _a: ir.Constant(ir.IntType(64), _width())


@intrinsic
def load_some(_context, array, i):
    """Load the elements [i, i + width()) of a contiguous array."""
    lanes = Lanes(array.dtype, _width())

    def generate(context, builder, sig, args):
        return builder.load(
            _pointer(context, builder, sig.args[0], *args, lanes.width), align=array.dtype.bitwidth // 8
        )

    return lanes(array, types.intp), generate


@intrinsic
def splat_some(_context, number):
    """Broadcast a number to width() lanes."""
    lanes = Lanes(number, _width())
    return lanes(number), lambda context, builder, _s, args: _spread(context, builder, args[0], number, lanes)


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


def _store(*, past_the_caches: bool) -> Any:
    @intrinsic
    def call(_context, array, i, v):
        lanes = v if isinstance(v, Lanes) else Lanes(array.dtype)
        lanes = lanes.of(array.dtype)
        itemsize = array.dtype.bitwidth // 8

        def generate(context, builder, sig, args):
            pointer = _pointer(context, builder, sig.args[0], args[0], args[1], lanes.width)
            value = _spread(context, builder, args[2], sig.args[2], lanes)
            written = builder.store(value, pointer, align=itemsize * (lanes.width if past_the_caches else 1))
            if past_the_caches:
                written.set_metadata("nontemporal", builder.module.add_metadata([_int32(1)]))
            return context.get_dummy_value()

        return types.void(array, types.intp, v), generate

    return call


store = _store(past_the_caches=False)
"""store(array, i, v): write a vector to [i, i + LANES) of a contiguous array."""
stream = _store(past_the_caches=True)
"""stream(array, i, v): non-temporal `store`; the address must be aligned to LANES elements."""


@intrinsic
def _masked_load(_context, array, i, mask, others):
    lanes = mask.of(array.dtype)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], lanes.width)
        others = _spread(context, builder, args[3], sig.args[3], lanes)
        kind = ir.FunctionType(lanes.llvm, [pointer.type, ir.IntType(32), mask.llvm, lanes.llvm])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{lanes.suffix}.p0")
        return builder.call(function, [pointer, _int32(array.dtype.bitwidth // 8), args[2], others])

    return lanes(array, types.intp, mask, others), generate


@intrinsic
def _masked_store(_context, array, i, v, mask):
    lanes = Lanes(array.dtype)

    def generate(context, builder, sig, args):
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [lanes.llvm, pointer.type, ir.IntType(32), MASK.llvm])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.{lanes.suffix}.p0")
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
    """Load the elements [i, i + n), at most LANES; the remaining lanes repeat element `i`."""
    if n >= LANES:
        return load(array, i)
    return _masked_load(array, i, first_lanes(n), _element(array, i))


@inlined
def load_first(array, i, n):
    """Load the elements [i, i + n) into the first of width() lanes, zeros elsewhere; `n` may be negative."""
    return _masked_load(array, i, _first_some(n), 0)


@inlined
def store_part(array, i, v, n):
    """Write the first `n` lanes, at most LANES, to [i, i + n)."""
    if n >= LANES:
        store(array, i, v)
    else:
        _masked_store(array, i, v, first_lanes(n))


@intrinsic
def store_mask(_context, array, i, mask):
    """Write a mask to [i, i + LANES) of a contiguous array of booleans."""
    octets = ir.VectorType(ir.IntType(8), LANES)

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), octets.as_pointer())
        builder.store(builder.zext(args[2], octets), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, mask), generate


@intrinsic
def transpose_tile(_context, x, i, row, out, j, step):
    """Transpose a tile of LANES rows of LANES elements: out[j + c * step + r] is x[i + r * row + c].

    Both arrays have one type. Four rounds of shuffles: each deals rows k and k + 8 into rows 2 k and 2 k + 1.
    """
    deals = [
        ir.Constant(I32.llvm, [k // 2 + k % 2 * LANES for k in range(first, first + LANES)]) for first in (0, LANES)
    ]

    def generate(context, builder, sig, args):
        def pointer(first: int, k: int) -> Any:
            """Pointer to row `k` of the array `args[first]`, whose start and row step are the next two arguments."""
            array, begin, step = args[first : first + 3]
            index = builder.add(begin, builder.mul(step, ir.Constant(step.type, k)))
            return _pointer(context, builder, sig.args[first], array, index)

        align = x.dtype.bitwidth // 8
        rows = [builder.load(pointer(0, k), align=align) for k in range(LANES)]
        for _ in range(4):
            pairs = [(rows[k], rows[k + LANES // 2]) for k in range(LANES // 2)]
            rows = [builder.shuffle_vector(*pair, deal) for pair in pairs for deal in deals]
        for k in range(LANES):
            builder.store(rows[k], pointer(3, k), align=align)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, out, types.intp, types.intp), generate


# ------------------------------------------------------------------ across lanes


@intrinsic
def splat(_context, number):
    """Broadcast a number to all lanes."""
    lanes = Lanes(number)
    return lanes(number), lambda context, builder, _s, args: _spread(context, builder, args[0], number, lanes)


@intrinsic
def first_lanes(_context, n):
    """Mask of the first `n` lanes."""

    def generate(context, builder, sig, args):
        index = ir.Constant(I64.llvm, list(range(LANES)))
        return builder.icmp_signed("<", index, _spread(context, builder, args[0], sig.args[0], I64))

    return MASK(types.int64), generate


@intrinsic
def _first_some(_context, n):
    """Mask of the first `n` of width() lanes."""
    lanes = Lanes(types.int64, _width())

    def generate(context, builder, sig, args):
        index = ir.Constant(lanes.llvm, list(range(lanes.width)))
        return builder.icmp_signed("<", index, _spread(context, builder, args[0], sig.args[0], lanes))

    return lanes.of(types.boolean)(types.int64), generate


@intrinsic
def count(_context, mask):
    """Number of set lanes of a mask."""

    def generate(_context, builder, _sig, args):
        return builder.zext(builder.ctpop(builder.bitcast(args[0], ir.IntType(mask.width))), ir.IntType(64))

    return types.int64(mask), generate


@intrinsic
def no_count(_context):
    """Zeros in width() int32 lanes, for `minus_mask`."""
    lanes = Lanes(types.int32, _width())
    return lanes(), lambda _c, _b, _s, _a: ir.Constant(lanes.llvm, [0] * lanes.width)


@intrinsic
def minus_mask(_context, total, mask):
    """Add 1 to the int32 lanes where the mask is set: a comparison gives -1, which is subtracted."""

    def generate(_context, builder, _sig, args):
        return builder.sub(args[0], builder.sext(args[1], total.llvm))

    return total(total, mask), generate


@intrinsic
def bits_of_mask(_context, mask):
    """Return a mask as an integer: lane k is bit k."""

    def generate(_context, builder, _sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(64))

    return types.int64(mask), generate


@intrinsic
def lowest_bit(_context, number):
    """Index of the lowest set bit of a nonzero int64."""

    def generate(_context, builder, _sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


def _fold(combine: Callable[[Any, Lanes, Any, Any], Any]) -> Any:
    """Return an intrinsic that reduces the lanes, far half onto near half until one is left: a fixed tree."""

    @intrinsic
    def call(_context, v):
        def generate(_c, builder, _sig, args):
            (lanes,) = args
            width = LANES
            while width > 1:
                width //= 2
                near, far = (
                    ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(first, first + width)))
                    for first in (0, width)
                )
                lanes = combine(
                    builder, v, builder.shuffle_vector(lanes, lanes, near), builder.shuffle_vector(lanes, lanes, far)
                )
            return builder.extract_element(lanes, _int32(0))

        return v.scalar(v), generate

    return call


def _keep(sign: str) -> Callable[[Any, Lanes, Any, Any], Any]:
    def emit(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
        return builder.select(_compare(sign)(builder, lanes, a, b), a, b)

    return emit


def _fold_pairs(keep: Callable[[Any, Lanes, Any, Any], Any]) -> Any:
    """Return an intrinsic of two vectors that keeps one of each pair of neighbours: those of `a`, then of `b`."""

    @intrinsic
    def call(_context, a, b):
        def generate(_c, builder, _sig, args):
            evens, odds = (
                builder.shuffle_vector(*args, ir.Constant(I32.llvm, list(range(first, 2 * LANES, 2))))
                for first in (0, 1)
            )
            return keep(builder, a, evens, odds)

        return a(a, b), generate

    return call


@intrinsic
def any_lane(_context, mask):
    """Tell whether any lane of the mask is set."""

    def generate(_context, builder, _sig, args):
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), generate


tree_sum = _fold(_float_or_int("fadd", "add"))
"""Sum of the lanes: k and k + 8, then k and k + 4, k and k + 2, k and k + 1."""
least = _fold(_keep("<"))
"""Smallest lane."""
greatest = _fold(_keep(">"))
"""Largest lane."""

least_of_pairs = _fold_pairs(_keep("<"))
"""Smaller of each pair of neighbouring lanes: eight results from `a`, then eight from `b`."""
greatest_of_pairs = _fold_pairs(_keep(">"))
"""Larger of each pair of neighbouring lanes: eight results from `a`, then eight from `b`."""


def smaller(a: Any, b: Any) -> Any:
    """Per lane, `a` where it is less than `b`, else `b`; also for two integers."""
    raise NotImplementedError("for compiled code")


def larger(a: Any, b: Any) -> Any:
    """Per lane, `a` where it is greater than `b`, else `b`; also for two integers."""
    raise NotImplementedError("for compiled code")


def _define_for_integers(function: Callable[..., Any], emit: Callable[[Any, Lanes, Any, Any], Any]) -> None:
    """Make `function(a, b)` accept signed integers. Numba compiles Python's own `min` to a function with a loop."""

    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if not all(kind in types.signed_domain for kind in args):
                return None
            kind = self.context.unify_types(*args)
            return signature(kind, kind, kind)

    def lower(_context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, Lanes(sig.return_type), *args)

    lower_builtin(function, types.Integer, types.Integer)(lower)


for _function, _sign in (smaller, "<"), (larger, ">"):
    _define(_function, _keep(_sign))
    _define_for_integers(_function, _keep(_sign))
