"""Simulate the quantization of model weights exactly as TensorFlow's QuantizeAndDequantizeV4 does."""

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all the rest here
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "quantize_and_dequantize_v4": "qdqcli.op.arrays",
    "quantize_and_dequantize_v4_grad": "qdqcli.op.arrays",
    "quantize_and_measure": "qdqcli.measure.arrays",
    "QuantSpec": "qdqcli.op.spec",
    "RoundMode": "qdqcli.op.spec",
    "ComputeDType": "qdqcli.op.spec",
    "ErrorSums": "qdqcli.stats.sums",
    "METRICS": "qdqcli.stats.metrics",
    "open_checkpoint": "qdqcli.tensors.checkpoint",
    "QdqError": "qdqcli.errors",
}
"""Public name -> where it is defined; imported when it is first used."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> "Any":
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
