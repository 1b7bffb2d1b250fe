"""QuantizeAndDequantizeV4 on arrays and on parts of tensors; knows no file formats."""
