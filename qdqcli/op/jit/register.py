"""Helpers and intrinsics callable from compiled code only: no CPython or C wrappers."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba.extending
from numba.core import types

from qdqcli.op.jit.pipeline import KernelCompiler

Function = TypeVar("Function", bound=Callable[..., Any])

_INTERNAL: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def overload(function: Callable[..., Any]) -> Callable[[Function], Function]:
    """Return the `numba.extending.overload` decorator, using `pipeline.py` for the CPU and Numba's own for others."""

    def register(choose: Function) -> Function:
        reduced = _INTERNAL | {"pipeline_class": KernelCompiler}
        numba.extending.overload(function, reduced, strict=False, target="cpu")(choose)
        numba.extending.overload(function, _INTERNAL, strict=False)(choose)
        return choose

    return register


def inlined(function: Function) -> Function:
    """Make `function` callable from compiled code; it stays an ordinary Python function."""
    if function not in _inlined:
        _inlined.add(function)
        overload(function)(lambda *_args: function)
    return function


_inlined: set[Callable[..., Any]] = set()


def scalar(function: Function) -> Function:
    """Make `function` callable from compiled code with numbers; `vector.py` defines what it does with vectors."""
    overload(function)(lambda *kinds: None if any(map(is_vector, kinds)) else function)
    return function


def is_vector(kind: types.Type) -> bool:
    """Tell whether a Numba type is one of `vector.py`."""
    return hasattr(kind, "scalar")
