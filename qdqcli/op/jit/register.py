"""Helpers and intrinsics callable from compiled code only: no CPython or C wrappers."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba.extending
from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, make_overload_template

from qdqcli.op.jit.pipeline import KernelCompiler

Function = TypeVar("Function", bound=Callable[..., Any])

TRIED_FIRST = {"target": "cpu"}
"""Metadata of a CPU-only template: Numba tries it before the generic ones, of which sums of numbers have a dozen."""

_INTERNAL: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_ON_CPU: Any = {"_nrt": False, "pipeline_class": KernelCompiler}


def overload(function: Callable[..., Any], *, strict: bool = True, **options: Any) -> Callable[[Function], Function]:
    """Return the `numba.extending.overload` decorator, using `pipeline.py` for the CPU and Numba's own for others."""

    def register(choose: Function) -> Function:
        template = make_overload_template(  # type: ignore[no-untyped-call]
            function, choose, _INTERNAL | _ON_CPU | options, strict, "never", target="cpu"
        )
        infer_global(function, types.Function(_remembering(template)))  # type: ignore[no-untyped-call]
        numba.extending.overload(function, _INTERNAL | options, strict)(choose)
        return choose

    return register


def _remembering(template: Any) -> Any:
    """Make an overload's template resolve each set of argument types only once.

    Numba's own template compiles a function again for callers with other options and queries the compiler at each call.
    """
    signatures: dict[Any, Any] = {}

    def generic(self: Any, args: Any, kws: Any) -> Any:
        if kws:
            return template.generic(self, args, kws)
        if args not in signatures:
            signatures[args] = template.generic(self, args, kws)
        return signatures[args]

    return type(template.__name__, (template,), {"generic": generic})


def inlined(function: Function) -> Function:
    """Make `function` callable from compiled code; it stays an ordinary Python function."""
    if function not in _inlined:
        _inlined.add(function)
        overload(function, strict=False)(lambda *_args: function)
    return function


_inlined: set[Any] = set()


def always_inlined(function: Function) -> Function:
    """Make `function` inlined at every call: otherwise pairs of vectors are returned through memory, 4 times slower."""
    overload(function, strict=False, forceinline=True)(lambda *_args: function)
    return function


def intrinsic_for(function: Callable[..., Any]) -> Callable[[Function], Function]:
    """Lower `function` to an instruction on the CPU; the decorated function returns a signature and its generator.

    It takes a context and the argument types, like a Numba `intrinsic`, and may return None. An overload would be a
    function, which costs some milliseconds for each set of argument types.
    """

    def register(define: Function) -> Function:
        generators: dict[Any, Any] = {}

        class Template(AbstractTemplate):
            key = function
            metadata = TRIED_FIRST

            def generic(self, args: Any, _kws: Any) -> Any:
                typed = define(self.context, *args)
                if typed is None:
                    return None
                found, generate = typed
                generators[found.args] = generate
                return found

            def get_impl_key(self, _sig: Any) -> Any:
                return define

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return generators[sig.args](context, builder, sig, args)

        infer_global(function, types.Function(Template))  # type: ignore[no-untyped-call]
        lower_builtin(define, types.VarArg(types.Any))(lower)  # type: ignore[no-untyped-call]
        return define

    return register
