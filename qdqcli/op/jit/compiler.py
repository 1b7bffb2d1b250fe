"""Numba's compiler with less to do: for kernels, and for the functions that only kernels call.

Ordinarily each function that a kernel calls, however small, goes through all passes, is optimized, made into machine
code, and then optimized once more inside every caller. Here passes without effect are left out, and helpers stay LLVM's
intermediate code: only a kernel is optimized and made into machine code.

What Numba runs is asked of Numba and only thinned out: a pass that another version adds is run, too.
"""

from functools import cache, partial
from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager

_NEEDLESS = {
    "with_lifting",  # there is no `with` in our kernels
    "inline_closure_likes",  # nor are there closures
    "make_function_op_code_to_jit_function",
    "generic_rewrites",  # nor exceptions, or tuples of several types
    "Rewrite dynamic raises",
    "inline_inlinables",  # nor functions with Numba's option `inline`
    "inline_overloads",
    "find_literally",  # nor `literally` and `literal_unroll`
    "literal_unroll",
    "LiteralPropagation",
    "nopython_rewrites",  # nor expressions of whole arrays
    "nopython_supported_feature_validation",
    "annotate_types",  # nobody asks for the annotation
    "dump_parfor_diagnostics",
}
"""Names of Numba's passes that would find nothing to do. What needs one of them does not compile without it."""

_NEEDLESS_FOR_HELPERS = _NEEDLESS | {
    "ir_processing",  # lifetimes, which the pass `reconstruct_ssa` finds again
    "ir_legalization",  # ends of lifetimes, for counting references to arrays, which helpers do not
}


class HelperLibrary(JITCodeLibrary):
    """The code of a helper, neither optimized nor made executable: the libraries that it is linked into see to that."""

    def get_pointer_to_function(self, _name: str) -> int:
        """Numba asks for the wrapper that Python would call, and there is none."""
        return 0

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None: ...

    def _finalize_final_module(self) -> None:
        self._finalized = True


class KernelLibrary(JITCodeLibrary):
    """The code of a kernel, optimized once, together with its helpers.

    Numba's own is optimized function by function first, and quickly as a whole so that counts of references meet and
    cancel: helpers have none.
    """

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        codegen: Any = self._codegen
        manager = codegen._module_pass_manager()
        passes, *builder = manager if isinstance(manager, tuple) else (manager,)  # a builder from Numba 0.62 on
        passes.run(self._final_module, *builder)


class KernelCompiler(CompilerBase):
    """Compiles a kernel."""

    needless = _NEEDLESS
    library: Any = KernelLibrary

    def define_pipelines(self) -> list[Any]:
        """Numba's list of passes without those that are `needless`, into a `library`."""
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
    """Compiles a function that only compiled code calls, and that neither makes nor returns arrays."""

    needless = _NEEDLESS_FOR_HELPERS
    library = HelperLibrary

    def define_pipelines(self) -> list[Any]:
        """The same, and nothing that could be called."""
        passes = super().define_pipelines()
        self.state.targetctx = self.state.targetctx.subtarget(get_executable=_entry_point)
        return passes


@cache
def _size(target_data: Any, llvm_type: Any) -> Any:
    """The bytes of a type; Numba asks LLVM, by a module of its own each time, for every variable."""
    return llvm_type.get_abi_size(target_data)


def _entry_point(library: Any, fndesc: Any, env: Any) -> Any:
    """What Numba knows a compiled function by, of a helper: it cannot be called."""
    return _dynfunc.make_function(fndesc.lookup_module(), fndesc.qualname, "", 0, env, (library,))
