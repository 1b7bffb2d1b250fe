"""Numba's pipeline for kernels, with less to do.

By default, every function that a kernel calls, however small, runs through all passes, is optimized, compiled to
machine code, and then optimized again inside each caller. Here passes without effect are skipped and functions stay
LLVM IR: only a whole kernel is optimized, by `compiler.py`. That takes a third of the time.

The pass list comes from Numba and is only filtered, so passes that a new version adds are run. Custom pipelines are
documented in Numba's manual, but not their library of code and not `no_compile`: `compiler.py` tries them once, on a
small kernel, and sets `is_reduced` to false where they fail.
"""

from collections.abc import Callable
from typing import Any

from llvmlite.binding import ModuleRef
from numba.core.codegen import Codegen
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager

is_reduced = True
"""False: kernels are compiled by Numba's own pipeline; those that clear buffers are not stored."""

_NEEDLESS = {
    "with_lifting",  # kernels have no `with` blocks
    "inline_closure_likes",  # no closures
    "make_function_op_code_to_jit_function",
    "generic_rewrites",  # no exceptions, no tuples of mixed types
    "Rewrite dynamic raises",
    "inline_inlinables",  # no functions with Numba's option `inline`
    "inline_overloads",
    "find_literally",  # no `literally` or `literal_unroll`
    "literal_unroll",
    "LiteralPropagation",
    "nopython_rewrites",  # no whole-array expressions
    "nopython_supported_feature_validation",
    "annotate_types",  # the annotation is unused
    "dump_parfor_diagnostics",
}
"""Numba passes that would find nothing to do. Code that needs one of them fails to compile."""


class KernelCompiler(CompilerBase):
    """Compiler of a kernel and of the functions that it calls."""

    def __init__(self, *context: Any) -> None:
        *_, flags, _ = context
        if is_reduced:
            flags.no_compile, flags.nrt = True, False
        super().__init__(*context)  # type: ignore[no-untyped-call]

    def define_pipelines(self) -> list[PassManager]:
        """Return Numba's pipeline, without the `_NEEDLESS` passes and machine code where that is possible."""
        whole: PassManager = DefaultPassBuilder.define_nopython_pipeline(self.state)  # type: ignore[no-untyped-call]
        if is_reduced:
            self.state.library = _linked(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
            whole.passes = [step for step in whole.passes if step[0].name() not in _NEEDLESS]
            whole.finalize()  # type: ignore[no-untyped-call]
        return [whole]

    def compile_extra(self, func: Callable[..., object]) -> Any:
        """Compile a function; others can call it, but not Python."""
        result: Any = super().compile_extra(func)  # type: ignore[no-untyped-call]
        if not is_reduced:
            return result
        entry = list[
            object
        ]().append  # a dispatcher stores a built-in function, and finds the code by it: no other is equal
        result.target_context.insert_user_function(entry, result.fndesc, [result.library])
        return result._replace(entry_point=entry)


def _linked(codegen: Codegen, name: str) -> Any:
    """Return a library of LLVM IR that is neither optimized nor made executable."""
    library = codegen.create_library(name)  # type: ignore[no-untyped-call]
    base: Any = type(library)

    class Linked(base):  # type: ignore[misc]
        def get_pointer_to_function(self, _name: str) -> int:
            return 0

        def finalize(self) -> None:
            self._finalized = True

        def _optimize_functions(self, module: ModuleRef) -> None:
            module.data_layout = self._codegen._data_layout

        def get_llvm_str(self) -> str:
            self._link()
            return str(self._final_module)

        def _get_module_for_linking(self) -> ModuleRef:
            self._link()
            return super()._get_module_for_linking()

        def _link(self) -> None:
            """Link all functions that are called, directly or indirectly, each once."""
            libraries, seen = self._linking_libraries, {self}
            self._linking_libraries: list[Any] = []
            self._shared_module = None
            for library in libraries:
                if library not in seen:
                    seen.add(library)
                    libraries += library._linking_libraries
                    self._final_module.link_in(base._get_module_for_linking(library), preserve=True)

    library.__class__ = Linked
    return library
