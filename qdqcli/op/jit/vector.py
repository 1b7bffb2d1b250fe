"""Vectors of sixteen elements: LLVM vectors that Numba code can use like numbers.

A small vocabulary: `load`, `store`, `store_nontemporal`, arithmetic and comparison operators (scalars are broadcast),
`abs`, and the operations of `primitives.py`; across lanes `pairwise_sum`, `least`, `greatest`, `count` and
`mask_of_first`. The functions of `value.py` accept vectors wherever they accept numbers.

Why: LLVM's vectorizer gives up on loops with sums in a fixed order and on loops with a float minimum (5 to 8 times
slower; see `tests/benchmarks/vectors_against_loops.py`). Explicit vectors perform the same additions in the same
order on SSE, AVX2, AVX-512 and NEON, so the bits are the same. Multiply and add are never contracted.

What `instruction` decorates is not run by a kernel: it says what type the result has and how LLVM gets it.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import islice
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.base import BaseContext
from numba.core.typeconv.castgraph import Conversion
from numba.extending import lower_builtin, lower_cast, models, register_model, type_callable

from qdqcli.op import primitives
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined

_ELEMENTS = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int16: ir.IntType(16),
    types.uint16: ir.IntType(16),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.boolean: ir.IntType(1),
}
_WORD = ir.IntType(64)


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

    def can_convert_from(self, _context: object, other: types.Type) -> Conversion | None:
        """Accept numbers, which are broadcast."""
        return Conversion.unsafe if isinstance(other, types.Number | types.Boolean) else None

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(_ELEMENTS[self.scalar], self.width)

    @property
    def suffix(self) -> str:
        """Type suffix of LLVM's intrinsics."""
        return f"v{self.width}{self.llvm.element.intrinsic_name}"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: object, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


@lower_cast(types.Number, Vector)
@lower_cast(types.Boolean, Vector)
def _broadcast_number(context, builder, kind, vector, value):
    number, undefined = context.cast(builder, value, kind, vector.scalar), ir.Constant(vector.llvm, ir.Undefined)
    one = builder.insert_element(undefined, number, _int32(0))
    return builder.shuffle_vector(one, undefined, _lanes([0] * vector.width))


Emit = Callable[..., ir.Value | None]
"""Generates instructions, from a builder and the values of the arguments."""
Intrinsic = Any
"""A function for compiled code, which mypy knows as untyped."""
Width = Callable[[], int]
"""Number of elements of a vector, asked when a kernel is compiled."""


def lowered(function: Callable[..., object]) -> Callable[[Intrinsic], Intrinsic]:
    """Lower calls of `function` to instructions, as the decorated function says.

    It takes the types of the arguments, and returns the signature that they are converted to, and an `Emit`; None for
    types that it does not know. An array and the index after it become a pointer to that element. An overload would be
    a function, which costs some milliseconds for each set of argument types.
    """

    def register(choose: Intrinsic) -> Intrinsic:
        @wraps(choose)  # Numba asks for the names of the parameters
        def typed(*kinds):
            found = choose(*kinds)
            if found is None:
                return None
            signature, emit = found

            def generate(context, builder, signature, values):
                value = emit(builder, *_operands(context, builder, signature.args, values))
                return context.get_dummy_value() if value is None else value

            lower_builtin(function, *signature.args)(generate)
            return signature

        type_callable(function)(lambda _context: typed)
        return choose

    return register


def instruction(choose: Intrinsic) -> Intrinsic:
    """Make the decorated function itself one for compiled code, see `lowered`."""
    return lowered(choose)(choose)


def _operands(
    context: BaseContext, builder: ir.IRBuilder, kinds: Sequence[types.Type], values: Sequence[ir.Value]
) -> Iterator[ir.Value]:
    """Yield the values of arguments as an `Emit` takes them."""
    pairs = zip(kinds, values, strict=True)
    for kind, value in pairs:
        if isinstance(kind, types.Array):
            data = context.make_array(kind)(context, builder, value).data
            yield from (builder.gep(data, [index]) for _, index in islice(pairs, 1))
        else:
            yield value


def _int32(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), number)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    """Return the lanes that a shuffle takes."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def _vector_of(*kinds: types.Type) -> Vector | None:
    """Return the vector type among the operands; None if all are scalars."""
    return next((kind for kind in kinds if isinstance(kind, Vector)), None)


def _is_float(value: ir.Value) -> bool:
    """Tell whether a number is a float, or the elements of a vector are."""
    return not isinstance(getattr(value.type, "element", value.type), ir.IntType)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call an intrinsic of LLVM."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


# ------------------------------------------------------------------ operators


def _arithmetic(name: str) -> Emit:
    """Return what generates the instruction of that name, with an f before it for floats."""
    return lambda builder, a, b: getattr(builder, f"f{name}" if _is_float(a) else name)(a, b)


def _compare(sign: str) -> Emit:
    def emit(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
        if not _is_float(a):
            return builder.icmp_signed(sign, a, b)
        return builder.fcmp_unordered(sign, a, b) if sign == "!=" else builder.fcmp_ordered(sign, a, b)

    return emit


def _keep(sign: str) -> Emit:
    return lambda builder, a, b: builder.select(_compare(sign)(builder, a, b), a, b)


def _define(function: Callable[..., object], emit: Emit, *, compares: bool = False) -> None:
    """Make `function(a, b)` accept vectors."""

    @lowered(function)
    def _typed(a, b):
        vector = _vector_of(a, b)
        if vector is None:
            return None
        return (vector.of(types.boolean) if compares else vector)(vector, vector), emit


for _function, _emit in (
    (operator.add, _arithmetic("add")), (operator.sub, _arithmetic("sub")), (operator.mul, _arithmetic("mul")),
    (operator.truediv, _arithmetic("div")), (operator.and_, ir.IRBuilder.and_), (operator.or_, ir.IRBuilder.or_),
    (operator.xor, ir.IRBuilder.xor), (operator.lshift, ir.IRBuilder.shl), (operator.rshift, ir.IRBuilder.ashr),
    (primitives.add, _arithmetic("add")),
):  # fmt: skip
    _define(_function, _emit)
for _function, _sign in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="), (operator.eq, "=="),
    (operator.ne, "!="),
):  # fmt: skip
    _define(_function, _compare(_sign), compares=True)


def _kept(sign: str) -> Intrinsic:
    """Return an intrinsic of two vectors or integers; Numba compiles Python's own `min` to a function with a loop."""

    @instruction
    def call(a, b):
        kind = _vector_of(a, b) or (types.int64 if {a, b} <= types.signed_domain else None)
        return kind and (kind(kind, kind), _keep(sign))

    return call


smaller = _kept("<")
"""smaller(a, b): per lane, `a` where it is less than `b`, else `b`; also for two integers."""
larger = _kept(">")
"""larger(a, b): per lane, `a` where it is greater than `b`, else `b`; also for two integers."""


# ------------------------------------------------------------------ functions of each element


def _unary(function: Callable[..., object], name: str) -> None:
    """Lower `function(v)` to LLVM's intrinsic `name`."""

    @lowered(function)
    def _typed(v):
        if not isinstance(v, Vector):
            return None
        return v(v), lambda builder, value: _call(builder, f"{name}.{v.suffix}", v.llvm, value)


_unary(primitives.rint, "llvm.rint")
_unary(primitives.floor, "llvm.floor")
_unary(abs, "llvm.fabs")


@lowered(primitives.select)
def _select(mask, yes, no):
    if not isinstance(mask, Vector) or not (_vector_of(yes, no) or yes == no):
        return None
    vector = _vector_of(yes, no) or mask.of(yes)
    return vector(mask, vector, vector), ir.IRBuilder.select


@lowered(primitives.constant)
def _constant(number, v):
    return (v.scalar(v.scalar, v), lambda _builder, value, _v: value) if isinstance(v, Vector) else None


def _convert(v: Vector, result: Vector) -> Emit:
    """Return what converts numbers to those of another size; for those of the same size, what keeps their bits."""
    name = "sext" if v.scalar in types.signed_domain else "zext"
    if v.scalar.bitwidth == result.scalar.bitwidth:
        name = "bitcast"
    elif v.scalar.bitwidth > result.scalar.bitwidth:
        name = "trunc"
    elif result.scalar in types.real_domain:
        name = "fpext" if v.scalar in types.real_domain else "sitofp"
    return lambda builder, value, *_: getattr(builder, name)(value, result.llvm)


def _conversion(function: Callable[..., object], choose: Callable[[Scalar], Scalar]) -> None:
    """Make `function(v)` convert a vector: `choose` names the scalar of the result."""

    @lowered(function)
    def _typed(v):
        if not isinstance(v, Vector):
            return None
        result = v.of(choose(v.scalar))
        return result(v), _convert(v, result)


_conversion(primitives.bits_of, {types.float32: types.int32, types.float64: types.int64}.__getitem__)
_conversion(primitives.float32_of, lambda _: types.float32)
_conversion(primitives.widen, lambda scalar: types.int32 if scalar in (types.int16, types.uint16) else scalar)
_conversion(primitives.widen_to_double, lambda _: types.float64)


@lowered(primitives.narrow)
def _narrow(bits, stored):
    return (stored(bits, stored), _convert(bits, stored)) if isinstance(stored, Vector) else None


@instruction
def as_elements(bits, array):
    """Reinterpret patterns as elements of `array`; a view of the source array takes Numba a third of a second."""
    vector = Vector(array.dtype)
    return vector(bits, array), _convert(bits, vector)


@instruction
def as_wide(v, compute_type):
    """Convert a vector of floats to float64 if `compute_type` is a vector of float64."""
    return compute_type(v, compute_type), _convert(v, compute_type)


def _halves(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir.HalfType(), vector.width)


@lowered(primitives.float32_of_half)
def _float32_of_half(wide):
    floats, stored = wide.of(types.float32), wide.of(types.uint16)

    def emit(builder, value):
        return builder.fpext(builder.bitcast(builder.trunc(value, stored.llvm), _halves(wide)), floats.llvm)

    return floats(wide), emit


@lowered(primitives.half_of_float32)
def _half_of_float32(v):
    stored, wide = v.of(types.uint16), v.of(types.int32)

    def emit(builder, value):
        return builder.zext(builder.bitcast(builder.fptrunc(value, _halves(v)), stored.llvm), wide.llvm)

    return wide(v), emit


# ------------------------------------------------------------------ memory


def _all() -> int:
    return VECTOR_SIZE


def _some() -> int:
    """Vector width where many sums are kept: wider vectors would not fit into the registers."""
    return VECTOR_SIZE if primitives.target_has("avx512f") else VECTOR_SIZE // 2


@instruction
def width():
    """Width of the vectors of `load_some`, `broadcast_some` and `first_some`: VECTOR_SIZE or half of it."""
    return types.intp(), lambda _builder: _WORD(_some())


def _load(width_of: Width) -> Intrinsic:
    @instruction
    def call(array, i):
        vector = Vector(array.dtype, width_of())

        def emit(builder, pointer):
            return builder.load(builder.bitcast(pointer, vector.llvm.as_pointer()), align=1)

        return vector(array, types.intp), emit

    return call


load = _load(_all)
"""load(array, i): the elements [i, i + VECTOR_SIZE) of a contiguous array."""
load_some = _load(_some)
"""load_some(array, i): the elements [i, i + width())."""


@instruction
def _element(array, i):
    """Element `i` of a contiguous array of any rank, in C order."""
    return array.dtype(array, types.intp), ir.IRBuilder.load


@instruction
def prefetch(array, i):
    """Prefetch element `i` into the L1 cache; it may lie beyond the array's end."""

    def emit(builder, pointer):
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, _int32(0), _int32(3), _int32(1))

    return types.void(array, types.intp), emit


def _store(*, nontemporal: bool) -> Intrinsic:
    @instruction
    def call(array, i, v):
        vector = v.of(array.dtype) if isinstance(v, Vector) else Vector(array.dtype)

        def emit(builder, pointer, value):
            if array.dtype == types.boolean:
                value = builder.zext(value, ir.VectorType(ir.IntType(8), vector.width))
            alignment = vector.width * vector.scalar.bitwidth // 8 if nontemporal else 1
            written = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=alignment)
            if nontemporal:
                written.set_metadata("nontemporal", builder.module.add_metadata([_int32(1)]))

        return types.void(array, types.intp, vector), emit

    return call


store = _store(nontemporal=False)
"""store(array, i, v): write a vector, or a mask, to [i, i + its width) of a contiguous array."""
store_nontemporal = _store(nontemporal=True)
"""store_nontemporal(array, i, v): non-temporal `store`; the address must be aligned to VECTOR_SIZE elements."""


@instruction
def load_where(array, i, mask, others):
    """Load the lanes of `mask` from [i, i + the mask's width); the remaining ones are `others`."""
    vector = mask.of(array.dtype)

    def emit(builder, pointer, *mask_and_others):
        pointer = builder.bitcast(pointer, vector.llvm.as_pointer())
        name = f"llvm.masked.load.{vector.suffix}.p0"
        return _call(builder, name, vector.llvm, pointer, _int32(1), *mask_and_others)

    return vector(array, types.intp, mask, vector), emit


@instruction
def store_where(array, i, v, mask):
    """Write the lanes of `mask` to [i, i + the mask's width)."""
    vector = mask.of(array.dtype)

    def emit(builder, pointer, value, lanes):
        pointer = builder.bitcast(pointer, vector.llvm.as_pointer())
        name = f"llvm.masked.store.{vector.suffix}.p0"
        _call(builder, name, ir.VoidType(), value, pointer, _int32(1), lanes)

    return types.void(array, types.intp, v, mask), emit


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


@instruction
def transpose_tile(x, i, row, out, j, step):
    """Transpose a tile of VECTOR_SIZE rows of VECTOR_SIZE elements: out[j + c * step + r] is x[i + r * row + c].

    Both arrays have one type. Four rounds of shuffles: each deals rows k and k + 8 into rows 2 k and 2 k + 1.
    """
    kind = Vector(x.dtype).llvm.as_pointer()
    deals = [
        _lanes([k // 2 + k % 2 * VECTOR_SIZE for k in range(first, first + VECTOR_SIZE)]) for first in (0, VECTOR_SIZE)
    ]

    def emit(builder, source, row, target, step):
        def pointer(begin: ir.Value, distance: ir.Value, k: int) -> ir.Value:
            return builder.bitcast(builder.gep(begin, [builder.mul(distance, _WORD(k))]), kind)

        rows = [builder.load(pointer(source, row, k), align=1) for k in range(VECTOR_SIZE)]
        for _ in range(4):
            pairs = [(rows[k], rows[k + VECTOR_SIZE // 2]) for k in range(VECTOR_SIZE // 2)]
            rows = [builder.shuffle_vector(*pair, deal) for pair in pairs for deal in deals]
        for k in range(VECTOR_SIZE):
            builder.store(rows[k], pointer(target, step, k), align=1)

    return types.void(x, types.intp, types.intp, out, types.intp, types.intp), emit


# ------------------------------------------------------------------ across elements


def _broadcast(width_of: Width) -> Intrinsic:
    @instruction
    def call(number):
        vector = Vector(number, width_of())
        return vector(vector), lambda _builder, value: value

    return call


broadcast = _broadcast(_all)
"""broadcast(number): VECTOR_SIZE times a number."""
broadcast_some = _broadcast(_some)
"""broadcast_some(number): width() times a number."""


def _mask_of_first(width_of: Width) -> Intrinsic:
    @instruction
    def call(n):
        vector = Vector(types.int64, width_of())
        indices = ir.Constant(vector.llvm, list(range(vector.width)))
        return vector.of(types.boolean)(vector), lambda builder, number: builder.icmp_signed("<", indices, number)

    return call


mask_of_first = _mask_of_first(_all)
"""mask_of_first(n): mask of the first `n` of VECTOR_SIZE lanes; `n` may be negative."""
first_some = _mask_of_first(_some)
"""first_some(n): mask of the first `n` of width() lanes."""


def _bits(builder: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    return builder.bitcast(mask, ir.IntType(mask.type.count))


@instruction
def bits_of_mask(mask):
    """Return a mask as an integer: lane k is bit k."""
    return types.int64(mask), lambda builder, lanes: builder.zext(_bits(builder, lanes), _WORD)


@inlined
def any_true(mask):
    """Tell whether any lane of the mask is set."""
    return bits_of_mask(mask) != 0


@instruction
def count(mask):
    """Number of set lanes of a mask."""
    return types.int64(mask), lambda builder, lanes: builder.zext(builder.ctpop(_bits(builder, lanes)), _WORD)


@instruction
def lowest_bit(number):
    """Index of the lowest set bit of a nonzero int64."""
    return types.int64(types.int64), lambda builder, bits: builder.cttz(bits, ir.IntType(1)(1))


@instruction
def add_where(mask, total, one):
    """Add `one`, a broadcast 1, to the int32 lanes where the mask is set."""

    def emit(builder, lanes, numbers, ones):
        if primitives.target_has("avx512f"):  # one masked instruction, unless LLVM knows that `one` is 1
            return builder.select(lanes, builder.add(numbers, ones), numbers)
        return builder.sub(numbers, builder.sext(lanes, total.llvm))  # a comparison gives -1

    return total(mask, total, one), emit


def _fold(combine: Emit) -> Intrinsic:
    """Return an intrinsic that reduces the lanes, far half onto near half until one is left: a fixed tree."""

    def emit(builder, vector):
        width = VECTOR_SIZE
        while width > 1:
            width //= 2
            near, far = (
                builder.shuffle_vector(vector, vector, _lanes(range(first, first + width))) for first in (0, width)
            )
            vector = combine(builder, near, far)
        return builder.extract_element(vector, _int32(0))

    return instruction(lambda v: (v.scalar(v), emit))


def _fold_pairs(combine: Emit) -> Intrinsic:
    """Return an intrinsic of two vectors that combines each pair of neighbours: those of `a`, then of `b`."""

    def emit(builder, *vectors):
        pairs = (builder.shuffle_vector(*vectors, _lanes(range(first, 2 * VECTOR_SIZE, 2))) for first in (0, 1))
        return combine(builder, *pairs)

    return instruction(lambda a, b: (a(a, b), emit))


pairwise_sum = _fold(_arithmetic("add"))
"""Sum of the lanes: k and k + 8, then k and k + 4, k and k + 2, k and k + 1."""
least = _fold(_keep("<"))
"""Smallest lane."""
greatest = _fold(_keep(">"))
"""Largest lane."""
least_of_pairs = _fold_pairs(_keep("<"))
"""Smaller of each pair of neighbouring lanes: eight results from `a`, then eight from `b`."""
greatest_of_pairs = _fold_pairs(_keep(">"))
"""Larger of each pair of neighbouring lanes: eight results from `a`, then eight from `b`."""
