"""Functions that only compiled code calls: without the wrappers that Python needs, which take a third of compiling."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba.extending import register_jitable

Function = TypeVar("Function", bound=Callable[..., Any])

INTERNAL: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options for `numba.extending.overload`."""


def inlined(function: Function) -> Function:
    """Let compiled code call `function`; it stays an ordinary function besides."""
    registered: Function = register_jitable(**INTERNAL)(function)
    return registered


def always_inlined(function: Function) -> Function:
    """The same, without a call: pairs of lanes are returned through memory otherwise, four times slower."""
    registered: Function = register_jitable(forceinline=True, **INTERNAL)(function)
    return registered
