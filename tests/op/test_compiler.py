"""This version of Numba lets kernels be compiled the short way: otherwise they come out the same, seconds later."""

import numpy as np
import pytest
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import DefaultPassBuilder, Flags, StateDict

from qdqcli.op.jit.cache import kernel
from qdqcli.op.jit.compiler import HelperCompiler
from qdqcli.op.jit.register import inlined


@inlined
def weighted(v, weight):
    return v * weight if weight is not None else v


@inlined
def weighted_sum(x, weight):
    total = 0.0
    for v in x:
        total += weighted(v, weight)
    return total


def test_only_kernels_become_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = []
    finalize = JITCodeLibrary._finalize_specific
    monkeypatch.setattr(
        JITCodeLibrary, "_finalize_specific", lambda library: (executable.append(library.name), finalize(library))
    )

    @kernel()
    def loop(x, weight):
        return weighted_sum(x, weight) + weighted(1.0, weight)

    loop._cache = NullCache()
    x = np.arange(5.0)
    assert loop(x, 2.0) == 22.0
    assert loop(x, None) == 11.0
    assert [name.split(".")[-1] for name in executable if name != "nrt"] == ["loop", "loop"]  # nrt: Numba's own


def test_numba_knows_the_passes_that_are_left_out() -> None:
    flags = Flags()
    flags.enable_ssa = True
    passes = DefaultPassBuilder.define_nopython_pipeline(StateDict(func_ir=None, flags=flags)).passes
    assert HelperCompiler.needless <= {step.name() for step, _ in passes}
