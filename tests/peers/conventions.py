"""Golden values of `qdq conventions`: what PyTorch, compressed-tensors, ONNX Runtime and gguf make of some rows.

    python tests/peers/environment.py tests/peers/conventions.py

Writes tests/study/conventions.npz: the rows, and for each convention what its library gives, with the versions.
"""

from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnxruntime
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from onnx import TensorProto, helper
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType
from torch.ao.quantization import PerChannelMinMaxObserver

GOLDEN = Path(__file__).parents[1] / "study" / "conventions.npz"
ONNX_TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8}


def rows(size: int) -> np.ndarray:
    """Rows of all kinds: normal, with outliers, of one sign, constant, zero, ties, tiny, large, BF16."""
    rng = np.random.default_rng(size)
    normal = rng.normal(0, 0.05, (8, size))
    outliers = rng.standard_t(2, (6, size)) * 0.02
    ties = rng.integers(-15, 16, (4, size)) * 0.5
    ties[:, 0] = [7, 7.5, -8, -7]
    special = [abs(normal[0]), -abs(normal[1]), np.full(size, 0.3), np.full(size, -0.3), np.zeros(size),
               np.eye(size)[3], -np.eye(size)[5], normal[2] * 1e-9, normal[3] * 1e-42, normal[4] * 1e5]  # fmt: skip
    found = np.concatenate([normal, outliers, ties, special]).astype(np.float32)
    rounded = found[:4].view(np.uint32) & np.uint32(0xFFFF0000)
    return np.concatenate([found, rounded.view(np.float32)])


def by_torch(x: np.ndarray, bits: int, scheme: torch.qscheme) -> np.ndarray:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    observer = PerChannelMinMaxObserver(ch_axis=0, dtype=torch.qint8, qscheme=scheme, quant_min=low, quant_max=high)
    tensor = torch.from_numpy(x)
    observer(tensor)
    scale, zero = observer.calculate_qparams()
    return torch.fake_quantize_per_channel_affine(tensor, scale, zero.to(torch.int32), 0, low, high).numpy()


def by_compressed_tensors(x: np.ndarray, bits: int, *, symmetric: bool) -> np.ndarray:
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="channel")
    tensor = torch.from_numpy(x)
    scale, zero = calculate_qparams(tensor.amin(1, keepdim=True), tensor.amax(1, keepdim=True), args)
    return fake_quantize(tensor, scale, zero, args).numpy()


def by_onnx(x: np.ndarray, bits: int) -> np.ndarray:
    """The scales of ONNX Runtime's quantizer, and its QuantizeLinear and DequantizeLinear."""
    kind = ONNX_TYPES[bits]
    low, high = get_qmin_qmax_for_qType(kind, reduce_range=False, symmetric=True)
    scales = np.array([compute_scale_zp(row.min(), row.max(), low, high, symmetric=True)[1] for row in x])
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=0),
             helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=0)]  # fmt: skip
    zeros = helper.make_tensor("zero", kind, [len(x)], [0] * len(x))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [onnx.numpy_helper.from_array(scales.astype(np.float32), "scale"), zeros])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def by_gguf(x: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    return gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)


def main() -> None:
    found: dict[str, np.ndarray] = {}
    for size in (32, 48):
        x = found[f"x/{size}"] = rows(size)
        for bits in (4, 8):
            key = f"{bits}/{size}"
            found[f"full-torch/{key}"] = by_torch(x, bits, torch.per_channel_symmetric)
            found[f"zero-point-torch/{key}"] = by_torch(x, bits, torch.per_channel_affine)
            found[f"full-compressed-tensors/{key}"] = by_compressed_tensors(x, bits, symmetric=True)
            found[f"zero-point-compressed-tensors/{key}"] = by_compressed_tensors(x, bits, symmetric=False)
        found[f"full-onnx/4/{size}"] = by_onnx(x, 4)
        found[f"narrow-onnx/8/{size}"] = by_onnx(x, 8)
    found["gguf-q4_0/4/32"] = by_gguf(found["x/32"], gguf.GGMLQuantizationType.Q4_0)
    found["gguf-q4_1/4/32"] = by_gguf(found["x/32"], gguf.GGMLQuantizationType.Q4_1)
    packages = ("torch", "compressed-tensors", "onnxruntime", "gguf")
    versions = [f"{name} {version(name)}" for name in packages]
    np.savez_compressed(GOLDEN, versions=np.array(versions), **found)
    print(f"{GOLDEN}: {len(found)} arrays; {', '.join(versions)}")


if __name__ == "__main__":
    main()
