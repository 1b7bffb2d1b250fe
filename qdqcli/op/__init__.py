"""QuantizeAndDequantizeV4 on arrays; no idea of files."""
