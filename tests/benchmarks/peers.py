"""What TensorFlow, torch, ONNX Runtime and NumPy take for the same work, as multiples of qdq's time in one run.

    pip install -e '.[bench]'
    python tests/benchmarks/peers.py [--rounds 5] [--rows 4096] [--size 2.2GB]

In memory: a float32 matrix, quantized to int8 and dequantized, and its statistics (largest and mean absolute error,
mean squared error, SQNR, cosine, bias, zeros), as somebody would write it with each library. A checkpoint: the same for
every tensor of BF16 shards, through safetensors and torch, against `qdq stats`, and against `qdq run`, which, unlike
torch, flushes what it writes to the disk. All libraries get the
same number of threads. Results differ: torch and ONNX Runtime round other products than the op, and torch adds in
float32 here, because its float64 sums take twice as long; only TensorFlow's op and qdq agree to the bit.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.op.threads import available_threads
from tests.benchmarks.in_memory import COLUMNS, Matrix
from tests.benchmarks.make_checkpoint import parse_size, temporary_llama
from tests.benchmarks.on_files import qdq
from tests.benchmarks.ratios import Work, compare

GOALS = {"TensorFlow, op + statistics": 25, "torch, op + statistics": 40, "NumPy, op + statistics": 50,
         "TensorFlow, last axis, op": 80, "torch, BF16 checkpoint, statistics": 25}  # fmt: skip
"""Target ratio of the other library's time to qdq's."""


class NumPy:
    """NumPy only, float64 sums."""

    name = "NumPy"

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def op(self, axis: int) -> np.ndarray:
        others = tuple(k for k in range(self.x.ndim) if k != axis)
        lo, hi = self.x.min(axis=others, keepdims=True), self.x.max(axis=others, keepdims=True)
        scale = np.minimum(np.float32(-128) / lo, np.float32(127) / hi)
        return np.rint(self.x * scale) * (np.float32(1) / scale)

    def op_and_statistics(self) -> list[Any]:
        x, y = self.x.astype(np.float64).ravel(), self.op(-1).astype(np.float64).ravel()
        e = y - x
        mse, power = np.mean(e * e), np.mean(x * x)
        cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
        return [np.abs(e).max(), np.abs(e).mean(), mse, 10 * np.log10(power / mse), cosine, e.mean(), np.mean(y == 0)]


class TensorFlow:
    """The op itself, and its sums in float64."""

    name = "TensorFlow"

    def __init__(self, x: np.ndarray) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(available_threads())
        tf.config.threading.set_intra_op_parallelism_threads(available_threads())
        self.tf, self.x = tf, tf.constant(x)

    def op(self, axis: int) -> Any:
        ends = self.tf.zeros([] if axis < 0 else [self.x.shape[axis]])
        return self.tf.raw_ops.QuantizeAndDequantizeV4(input=self.x, input_min=ends, input_max=ends, axis=axis)

    def op_and_statistics(self) -> list[Any]:
        tf = self.tf
        x, y = tf.cast(self.x, tf.float64), tf.cast(self.op(-1), tf.float64)
        e = y - x
        mse, power, dot = tf.reduce_mean(e * e), tf.reduce_mean(x * x), tf.reduce_sum(x * y)
        cosine = dot / tf.sqrt(tf.reduce_sum(x * x) * tf.reduce_sum(y * y))
        absolute = tf.abs(e)
        values = [tf.reduce_max(absolute), tf.reduce_mean(absolute), mse, power / mse, cosine, tf.reduce_mean(e)]
        return [float(value) for value in [*values, tf.reduce_mean(tf.cast(y == 0, tf.float64))]]


class Torch:
    """`fake_quantize`, and sums in float32."""

    name = "torch"

    def __init__(self, x: np.ndarray) -> None:
        import torch

        torch.set_num_threads(available_threads())
        self.torch, self.x = torch, torch.from_numpy(x)

    def op(self, axis: int, x: Any = None) -> Any:
        torch = self.torch
        x = self.x if x is None else x
        if axis < 0:
            lo, hi = torch.aminmax(x)
            scale = float(torch.maximum(-lo.float() / 128, hi.float() / 127))
            return torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127)
        lo, hi = torch.aminmax(x, dim=1 - axis)
        scales = torch.maximum(-lo.float() / 128, hi.float() / 127)
        zeros = torch.zeros(scales.numel(), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(x, scales, zeros, axis, -128, 127)

    def op_and_statistics(self) -> list[float]:
        return self.statistics(self.x, self.op(-1))

    def statistics(self, x: Any, y: Any) -> list[float]:
        torch = self.torch
        x, y = x.float().ravel(), y.float().ravel()
        e = y - x
        mse, power = (e * e).mean(), (x * x).mean()
        cosine = torch.dot(x, y) / (x.norm() * y.norm())
        values = (e.abs().max(), e.abs().mean(), mse, 10 * torch.log10(power / mse), cosine, e.mean())
        return [float(value) for value in (*values, (y == 0).float().mean())]

    def job(self, model: Path, output: Path | None) -> None:
        """Quantize and measure every tensor of the shards and, with an output, write it."""
        from safetensors import safe_open
        from safetensors.torch import save_file

        for path in sorted(model.glob("*.safetensors")):
            written = {}
            with safe_open(path, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118  # not a dict
                    x = shard.get_tensor(name)
                    written[name] = self.op(-1, x)
                    self.statistics(x, written[name])
            if output is not None:
                save_file(written, output / path.name)


class OnnxRuntime:
    """QuantizeLinear and DequantizeLinear; NumPy finds the ranges."""

    name = "ONNX Runtime"

    def __init__(self, x: np.ndarray) -> None:
        import onnx
        import onnxruntime

        self.x, self.sessions = x, {}
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = available_threads()
        for axis in (-1, 0, 1):
            shape = [] if axis < 0 else [x.shape[axis]]
            inputs = [("x", 1, x.shape), ("scale", 1, shape), ("zero", 3, shape)]
            attributes = {} if axis < 0 else {"axis": axis}
            graph = onnx.helper.make_graph(
                [
                    onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], **attributes),
                    onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **attributes),
                ],
                "qdq",
                [onnx.helper.make_tensor_value_info(*info) for info in inputs],
                [onnx.helper.make_tensor_value_info("y", 1, x.shape)],
            )
            opset = onnx.helper.make_opsetid("", 17)
            model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset])
            self.sessions[axis] = onnxruntime.InferenceSession(model.SerializeToString(), settings)

    def op(self, axis: int) -> np.ndarray:
        others = tuple(k for k in range(2) if k != axis)
        lo, hi = self.x.min(axis=others), self.x.max(axis=others)
        scale = np.asarray(np.maximum(-lo / np.float32(128), hi / np.float32(127)), np.float32)
        feed = {"x": self.x, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
        return self.sessions[axis].run(None, feed)[0]


PEERS = (NumPy, TensorFlow, Torch, OnnxRuntime)
AXES = {"": -1, "axis 0, ": 0, "last axis, ": 1}


def in_memory(rounds: int, rows: int) -> None:
    with Workers() as workers:
        matrix = Matrix(rows, workers)
        x = matrix.x.reshape(rows, COLUMNS)
        peers = [peer for peer in (_made(make, x) for make in PEERS) if peer is not None]
        for title, axis in AXES.items():
            spec = QuantSpec(axis=axis)
            report(
                f"{title}op", rounds, lambda s=spec: matrix.op(s), {p.name: lambda p=p, a=axis: p.op(a) for p in peers}
            )
        measured = {p.name: p.op_and_statistics for p in peers if hasattr(p, "op_and_statistics")}
        report("op + statistics", rounds, lambda: matrix.op_and_sums(QuantSpec()), measured)


def _made(make: Callable[[np.ndarray], Any], x: np.ndarray) -> Any:
    try:
        return make(x)
    except ImportError as error:
        print(f"left out: {error}")
        return None


def report(title: str, rounds: int, ours: Work, theirs: dict[str, Work]) -> None:
    t = compare(rounds, ours=ours, **theirs)
    for name in theirs:
        say(f"{name}, {title}", t[name] / t["ours"])


def say(what: str, ratio: float) -> None:
    goal = GOALS.get(what)
    print(f"{what:<40} {ratio:8.1f} x  {'' if goal is None else f'goal {goal}'}".rstrip(), flush=True)


def on_files(nbytes: int) -> None:
    """Measure each once, after a warm-up on a small checkpoint: torch takes a minute."""
    torch = _made(Torch, np.zeros((2, 2), np.float32))
    if torch is None:
        return

    def ratios(size: int) -> tuple[float, float]:
        with temporary_llama(size, shards=3) as model, TemporaryDirectory(dir=model.parent) as folder:
            ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
            theirs.mkdir()
            for path in model.glob("*.safetensors"):
                path.read_bytes()  # into the page cache, for both
            measured = seconds(lambda: torch.job(model, None)) / seconds(lambda: qdq("stats", model))
            return measured, seconds(lambda: torch.job(model, theirs)) / seconds(lambda: qdq("run", model, "-o", ours))

    ratios(50_000_000)
    measured, written = ratios(nbytes)
    say("torch, BF16 checkpoint, statistics", measured)
    say("torch, BF16 checkpoint, written too", written)


def seconds(work: Work) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--size", default="2.2GB", help="of the BF16 checkpoint; 0 leaves it out")
    options = parser.parse_args()
    print(f"{available_threads()} threads; how many times qdq's time each takes")
    in_memory(options.rounds, options.rows)
    if parse_size(options.size):
        on_files(parse_size(options.size))


if __name__ == "__main__":
    main()
