"""What CUDA's compiler makes of the kernels, for which it needs no device: one rounding per operation, none flushed.

The arguments are those of the real launches. Needs the extra `cuda`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest

from qdqcli.op.columns import empty_sums
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.params import FLOAT_TYPE, STORAGE, op_and_codes
from qdqcli.op.spec import ComputeDType, QuantSpec

pytestmark = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs the extra cuda")

COMPUTE_CAPABILITY = (8, 0)
ARITHMETICS = [(dtype, ComputeDType.NATIVE) for dtype in STORAGE] + [
    ("BF16", ComputeDType.FLOAT32),
    ("F16", ComputeDType.FLOAT32),
]
KERNELS = {
    "qdqcli.op.cuda.ranges": (
        "clear_order_keys",
        "measure_runs",
        "measure_columns",
        "decode_order_keys",
        "make_qparams",
    ),
    "qdqcli.op.cuda.quantize": ("quantize", "quantize_and_sum", "differentiate"),
}


class Compiled:
    """Stands where a kernel stands and compiles it for the arguments that it is launched with."""

    def __init__(self, kernel: Any, texts: dict[str, str]) -> None:
        self._kernel, self._texts = kernel, texts

    def __getitem__(self, _shape: Any) -> Any:
        return self._compile

    def _compile(self, *arguments: Any) -> None:
        from numba.cuda import compile_ptx

        function = self._kernel.py_func
        signature = tuple(map(numba.typeof, arguments))
        self._texts[function.__name__], _ = compile_ptx(function, signature, cc=COMPUTE_CAPABILITY)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The PTX of the kernels launched so far, by name."""
    from numba.cuda import dispatcher

    from qdqcli.op.cuda import quantize as cuda_quantize
    from qdqcli.op.cuda import ranges as cuda_range

    found: dict[str, str] = {}
    # Functions that kernels call are compiled for the current device, and there may be none.
    device = SimpleNamespace(compute_capability=COMPUTE_CAPABILITY)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    modules: list[ModuleType] = [cuda_range, cuda_quantize]
    for module in modules:
        for name in KERNELS[module.__name__]:
            monkeypatch.setattr(module, name, Compiled(getattr(module, name), found))
    return found


def launch_all(dtype: str, compute_dtype: ComputeDType) -> None:
    """Every kernel once, with arrays in host memory in place of the device's: nothing runs."""
    from qdqcli.op.cuda import launch

    spec = QuantSpec(axis=1, compute_dtype=compute_dtype)
    x = np.zeros(4 * 6, STORAGE[dtype])
    layout, number = Layout.of((4, 6), spec), FLOAT_TYPE[dtype]
    order_keys, ranges = np.zeros((2, 6), launch.KEY[dtype]), np.zeros((2, 6), number)
    qparams = launch.device_qparams(np.zeros((4, 6), number), np.zeros((3, 6), np.bool_))
    op, codes = op_and_codes(spec, dtype)
    everything, params = Elements(0, 0, x.size), launch.DeviceParams(layout, 0, qparams, op)
    launch.measure(x, everything, layout, 0, order_keys, dtype, None)
    launch.measure(x, everything, Layout.of((4, 6), QuantSpec(axis=0)), 0, order_keys, dtype, None)
    launch.decode_order_keys(order_keys, ranges, dtype, None)
    launch.make_qparams(ranges, codes, op, qparams, None)
    launch.quantize(x, x, everything, params, None)
    launch.quantize_and_sum(x, x, 0, params, number(0), empty_sums(1), None, keep=True)
    launch.differentiate(x, x, x, 0, layout, ranges, dtype, np.zeros(1, np.int64), None)


@pytest.mark.parametrize(("dtype", "compute_dtype"), ARITHMETICS)
def test_every_operation_rounds_for_itself(dtype: str, compute_dtype: ComputeDType, texts: dict[str, str]) -> None:
    launch_all(dtype, compute_dtype)
    assert set(texts) == {name for names in KERNELS.values() for name in names}
    for name, text in texts.items():
        assert not re.findall(r"\bfma\.\S+|\bmad\.\S*f\d\d\b", text), name
        assert ".ftz" not in text, name
        assert ".approx" not in text, name
        assert not list(contractible(text)), name


def contractible(text: str) -> Iterator[str]:
    """Sums of which ptxas may make a multiply-add: of a product, and without a rounding of their own.

    A product stays one through moves, choices and changes of bits.
    """
    products: set[str] = set()
    lines = [match.groups() for match in re.finditer(r"^\s*(?:@\S+\s+)?([a-z]\S*)\s+(%\w+),\s*(.*);", text, re.M)]
    size = -1
    while size < len(products):  # until loops bring nothing new
        size = len(products)
        for operation, result, operands in lines:
            is_product = re.fullmatch(r"mul(\.rn)?\.f\d\d", operation)
            passes = re.match(r"(mov|selp|and|or|xor|neg|abs|cvt|copysign)\b", operation)
            if is_product or (passes and products & set(re.findall(r"%\w+", operands))):
                products.add(result)
    for operation, result, operands in lines:
        if re.fullmatch(r"(add|sub)\.f\d\d", operation) and products & set(re.findall(r"%\w+", operands)):
            yield f"{operation} {result}, {operands}"


def test_a_sum_that_may_be_contracted_is_found() -> None:
    text = "\tmul.f32 \t%f1, %f2, %f3;\n\tand.b32 \t%r1, %f1, 7;\n\tadd.f32 \t%f4, %r1, %f5;\n"
    assert list(contractible(text)) == ["add.f32 %f4, %r1, %f5"]
    assert not list(contractible(text.replace("add.f32", "add.rn.f32")))


def test_small_launches_are_not_warned_of() -> None:
    """pytest makes every warning an error."""
    from numba import cuda
    from numba.cuda.core.errors import NumbaPerformanceWarning

    from qdqcli.op.cuda import quantize as cuda_quantize

    assert cuda_quantize.quantize[1, 256].griddim == (1, 1, 1)
    with pytest.raises(NumbaPerformanceWarning, match="Grid size"):  # others' kernels still are
        _ = cuda.jit(cuda_quantize.quantize.py_func)[1, 256]
