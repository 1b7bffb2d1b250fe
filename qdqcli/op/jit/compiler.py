"""Reduced Numba pass pipelines for kernels and the helpers that only kernels call.

By default, every function that a kernel calls, however small, runs through all passes, is optimized, compiled to
machine code, and then optimized again inside each caller. Here passes without effect are skipped and helpers stay LLVM
IR: only a kernel is optimized and compiled to machine code.

The pass list comes from Numba and is only filtered, so passes that a new version adds are run.
"""

from functools import cache, partial
from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager

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

_NEEDLESS_FOR_HELPERS = _NEEDLESS | {
    "ir_processing",  # variable lifetimes, which the pass `reconstruct_ssa` computes again
    "ir_legalization",  # ends of lifetimes, for array reference counts, which helpers do not use
}


class HelperLibrary(JITCodeLibrary):
    """Code of a helper, neither optimized nor made executable: that is left to the libraries it is linked into."""

    def get_pointer_to_function(self, _name: str) -> int:
        """Numba asks for the wrapper that Python would call; helpers have none."""
        return 0

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None: ...

    def _finalize_final_module(self) -> None:
        self._finalized = True


class KernelLibrary(JITCodeLibrary):
    """Code of a kernel, optimized once, together with its helpers.

    Numba's own library first optimizes each function by itself, and then, cheaply, the whole module so that reference
    counts cancel: helpers have none.
    """

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        codegen: Any = self._codegen
        manager = codegen._module_pass_manager()
        passes, *builder = manager if isinstance(manager, tuple) else (manager,)  # a builder from Numba 0.62 on
        passes.run(self._final_module, *builder)


class KernelCompiler(CompilerBase):
    """Compiler of a kernel."""

    needless = _NEEDLESS
    library: Any = KernelLibrary

    def define_pipelines(self) -> list[Any]:
        """Return Numba's passes without the `needless` ones; code goes into a `library`."""
        context = self.state.targetctx
        self.state.targetctx = context.subtarget(get_abi_sizeof=partial(_size, context.target_data))
        self.state.library = self.library(context.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        builder: Any = DefaultPassBuilder
        passes: Any = PassManager("thinned out")  # type: ignore[no-untyped-call]
        for step, description in builder.define_nopython_pipeline(self.state).passes:
            if step.name() not in self.needless:
                passes.add_pass(step, description)
        passes.finalize()
        return [passes]


class HelperCompiler(KernelCompiler):
    """Compiler of a helper: called from compiled code only, neither creates nor returns arrays."""

    needless = _NEEDLESS_FOR_HELPERS
    library = HelperLibrary

    def define_pipelines(self) -> list[Any]:
        """Return the kernel's pipelines, with an entry point that cannot be called."""
        passes = super().define_pipelines()
        self.state.targetctx = self.state.targetctx.subtarget(get_executable=_entry_point)
        return passes


@cache
def _size(target_data: Any, llvm_type: Any) -> Any:
    """Return the size of a type in bytes. Numba would ask LLVM through a new module for every variable."""
    return llvm_type.get_abi_size(target_data)


def _entry_point(library: Any, fndesc: Any, env: Any) -> Any:
    """Placeholder entry point; helpers are never called from Python."""
    return _dynfunc.make_function(fndesc.lookup_module(), fndesc.qualname, "", 0, env, (library,))
