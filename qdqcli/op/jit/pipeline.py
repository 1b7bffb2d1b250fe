"""Reduced Numba pass pipelines for kernels and the helpers that only kernels call, where Numba allows them.

Passes that find nothing to do in a kernel are left out, which saves a quarter of the time to compile. The pass list
comes from Numba and is only filtered, so passes that a new version adds are run. Custom pipelines are documented in
Numba's manual; where a version lacks their parts, its own pipeline does the same work.
"""

from typing import Any

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

try:
    from numba.core.compiler import CompilerBase, DefaultPassBuilder
    from numba.core.compiler_machinery import PassManager
except ImportError:
    _compiler_class: Any = None
else:

    class KernelCompiler(CompilerBase):
        """Numba's pipeline without the `_NEEDLESS` passes."""

        def define_pipelines(self) -> list[Any]:
            builder: Any = DefaultPassBuilder
            passes: Any = PassManager("kernels")  # type: ignore[no-untyped-call]
            for step, description in builder.define_nopython_pipeline(self.state).passes:
                if step.name() not in _NEEDLESS:
                    passes.add_pass(step, description)
            passes.finalize()
            return [passes]

    _compiler_class = KernelCompiler


def options() -> dict[str, Any]:
    """Return the options of `numba.njit` that choose the pipeline."""
    return {"pipeline_class": _compiler_class} if _compiler_class else {}
