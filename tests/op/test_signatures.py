"""Signatures of compiled functions: few parameters, which belong together in named tuples."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qdqcli.op
from qdqcli.op import kernels
from qdqcli.op.jit.kernel import Kernel

MAX_PARAMETERS = 8
COMPILED = {"inlined", "device_kernel"}
KERNELS = {kernel.source for kernel in vars(kernels).values() if isinstance(kernel, Kernel)}
FOLDER = Path(qdqcli.op.__file__).parent


def compiled_functions() -> Iterator[tuple[str, int]]:
    """Yield the name and the number of parameters of each kernel, and of each function that a decorator compiles."""
    for path in sorted(FOLDER.rglob("*.py")):
        module = ".".join(("qdqcli", "op", *path.relative_to(FOLDER).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (
                f"{module}:{node.name}" in KERNELS or any(_name(each) in COMPILED for each in node.decorator_list)
            ):
                yield f"{path.relative_to(FOLDER)}:{node.name}", len(node.args.args) + len(node.args.kwonlyargs)


def _name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.id if isinstance(called, ast.Name) else ""


@pytest.mark.parametrize(("function", "count"), list(compiled_functions()))
def test_a_compiled_function_has_few_parameters(function: str, count: int) -> None:
    assert count <= MAX_PARAMETERS, function
