"""Simulate the quantization of model weights exactly as TensorFlow's QuantizeAndDequantizeV4 does."""

__version__ = "0.1.0"
