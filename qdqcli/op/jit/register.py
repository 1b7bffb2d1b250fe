"""Helpers and intrinsics callable from compiled code only: no CPython or C wrappers."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import numba.extending
from numba.core import types
from numba.extending import lower_builtin, type_callable

from qdqcli.op.jit.pipeline import KernelCompiler

Function = TypeVar("Function", bound=Callable[..., Any])

_INTERNAL: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def overload(function: Callable[..., Any], *, strict: bool = True, **options: object) -> Callable[[Function], Function]:
    """Return the `numba.extending.overload` decorator, using `pipeline.py` for the CPU and Numba's own for others."""

    def register(choose: Function) -> Function:
        own = _INTERNAL | options
        numba.extending.overload(function, own | {"pipeline_class": KernelCompiler}, strict, target="cpu")(choose)
        numba.extending.overload(function, own, strict)(choose)
        return choose

    return register


def inlined(function: Function) -> Function:
    """Make `function` callable from compiled code; it stays an ordinary Python function."""
    if function not in _inlined:
        _inlined.add(function)
        overload(function, strict=False)(lambda *_args: function)
    return function


_inlined: set[Callable[..., Any]] = set()


def scalar(function: Function) -> Function:
    """Make `function` callable from compiled code with numbers; `vector.py` defines what it does with vectors."""
    overload(function, strict=False)(lambda *kinds: None if any(map(is_vector, kinds)) else function)
    return function


def is_vector(kind: types.Type) -> bool:
    """Tell whether a Numba type is one of `vector.py`."""
    return hasattr(kind, "scalar")


def intrinsic_for(function: Callable[..., Any]) -> Callable[[Function], Function]:
    """Lower `function` to an instruction on the CPU; the decorated function returns a signature and its generator.

    It takes a context and the argument types, like a Numba `intrinsic`, and may return None. An overload would be a
    function, which costs some milliseconds for each set of argument types.
    """

    def register(define: Function) -> Function:
        @wraps(define)  # Numba asks for the names of the parameters
        def typed(*args: Any) -> Any:
            found = define(*args)
            if found is None:
                return None
            lower_builtin(function, *found[0].args)(found[1])  # type: ignore[no-untyped-call]
            return found[0]

        type_callable(function)(lambda context: partial(typed, context))
        return define

    return register
