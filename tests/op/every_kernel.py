"""Call every kernel; print hashes of the arrays that each read and wrote.

python -m tests.op.every_kernel FOLDER jit      beside each kernel runs what Numba compiles for Python
python -m tests.op.every_kernel FOLDER          Numba and LLVM cannot be imported
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from qdqcli import quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad
from qdqcli.measure.workers import Workers
from qdqcli.op import arrays, kernels
from qdqcli.op.arrays import PARALLEL_ELEMENTS
from qdqcli.op.jit.kernel import Kernel, describe, watch_compiling
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.warm_up import _estimate
from qdqcli.run.warm_up import _SHAPES, _compare, _quantize
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.packed.bits import dequantize

SPECS = {
    "F32": [QuantSpec(), QuantSpec(axis=1)],
    "BF16": [QuantSpec()],
}


def main(folder: Path, *, with_jit: bool) -> None:
    np.empty, np.empty_like = np.zeros, np.zeros_like  # scratch buffers are compared, too
    ThreadPoolExecutor.submit = in_turn  # type: ignore[method-assign, assignment]
    called = watch_kernels(with_jit=with_jit)
    path = folder / "x.safetensors"
    for dtype, specs in SPECS.items():
        write(path, dtype)
        checkpoint = open_checkpoint(path)
        with Workers(1) as workers:
            for spec in specs:
                _quantize(checkpoint, spec, workers)
            _compare(checkpoint, workers)
        for estimator in ("percentile", "mse"):
            _estimate(QuantSpec(estimator=estimator), dtype)
    call_op()
    missing = {kernel.source for kernel in vars(kernels).values() if isinstance(kernel, Kernel)} - called
    assert not missing, missing


def in_turn(_pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
    """Call a function at once that is for a thread."""
    future: Future[Any] = Future()
    future.set_result(function(*arguments))
    return future


def write(path: Path, dtype: str) -> None:
    """Write a safetensors file of normal numbers, one of which is not finite."""
    header: dict[str, Any] = {}
    data = b""
    for seed, (name, shape) in enumerate(_SHAPES.items()):
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        x[0, 0] = np.inf if name == "not finite" else 0
        stored = x if dtype == "F32" else (x.view(np.uint32) >> 16).astype(np.uint16)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + stored.nbytes]}
        data += stored.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def call_op() -> None:
    """Call the op on arrays in memory, whose parts follow one another here."""
    arrays.run_parts = lambda function, num_parts: [function(part) for part in range(num_parts)]
    x = np.random.default_rng(0).standard_normal((PARALLEL_ELEMENTS // 32, 32)).astype(np.float32)
    quantize_and_dequantize_v4(x, axis=0)
    quantize_and_dequantize_v4(x, axis=1)
    quantize_and_dequantize_v4_grad(x, x, -1.0, 1.0)
    dequantize(np.zeros((2, 4), np.uint8), np.ones(16, np.float32), x[:2, :2], size=4, out=np.zeros((2, 8), np.float32))
    kernels.gather_columns(x.reshape(-1), 32, 3, 20, np.zeros(20 * len(x), np.float32), 0, len(x))


def watch_kernels(*, with_jit: bool) -> set[str]:
    """Make kernels report their first call with each set of argument types; return the sources of those called."""
    call = Kernel.__call__
    seen: set[Any] = set()
    sources: set[str] = set()

    def watched(kernel: Kernel, *args: Any) -> int:
        key = kernel.source, describe(args, [])
        if key in seen:
            return call(kernel, *args)
        seen.add(key)
        is_first = kernel.source not in sources
        sources.add(kernel.source)
        copies = copied(args, {})
        result = call(kernel, *args)
        if with_jit and is_first:
            from qdqcli.op.jit.compiler import jitted

            assert int(jitted(kernel.source)(*copies) or 0) == result, key
            assert list(bits(copies)) == list(bits(args)), key
        print(*key, result, hashlib.sha256(b"".join(bits(args))).hexdigest()[:16], flush=True)
        return result

    Kernel.__call__ = watched  # type: ignore[method-assign]
    return sources


def copied(values: tuple[Any, ...], memory: dict[int, Any]) -> tuple[Any, ...]:
    """Copy arrays, of which some share memory, by the address of that `memory`."""

    def copy(value: Any) -> Any:
        if isinstance(value, tuple):
            inside = copied(value, memory)
            return type(value)(*inside) if hasattr(value, "_fields") else inside
        if not isinstance(value, np.ndarray):
            return value
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        begin = root.ctypes.data
        if begin not in memory:
            memory[begin] = bytearray(root.tobytes())
        return np.ndarray(value.shape, value.dtype, memory[begin], value.ctypes.data - begin)

    return tuple(map(copy, values))


def bits(values: tuple[Any, ...]) -> Iterator[bytes]:
    for value in values:
        if isinstance(value, tuple):
            yield from bits(value)
        elif isinstance(value, np.ndarray):
            yield value.tobytes()


if __name__ == "__main__":
    if sys.argv[2:] == ["jit"]:
        main(Path(sys.argv[1]), with_jit=True)
    else:
        with watch_compiling(lambda _: sys.exit("a kernel is compiled")):
            main(Path(sys.argv[1]), with_jit=False)
        assert not {"numba", "llvmlite"} & set(sys.modules)
