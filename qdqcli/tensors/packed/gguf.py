"""Blocks of GGUF: codes with their scales, decoded by the package `gguf`."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from qdqcli.errors import UnavailableError
from qdqcli.tensors.gguf import QUANTIZED
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, damaged
from qdqcli.tensors.packed.format import CODES, PackedWeight
from qdqcli.tensors.packed.storage import CodeGrid


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """Rows of whole blocks of one ggml type."""

    shape: tuple[int, ...]
    grid: CodeGrid
    kind: str

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        package = _package()
        stored, kind = parts.row_bytes(CODES, start, stop), package.GGMLQuantizationType[self.kind]
        out[:] = parts.check_finite(package.quants.dequantize(stored, kind), CODES)


def blocks(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of a quantized ggml type.

    Raises:
        MalformedError: the package does not decode the type; names the tensor.
        UnavailableError: the package is not installed.
    """
    del parts
    codes = weight.parts[CODES]
    if codes.dtype.name not in _decoded_types():
        raise damaged(weight, CODES, f"the package gguf does not decode {codes.dtype.name}")
    grid = QUANTIZED[codes.dtype.name].grid
    assert grid is not None
    return _Blocks(shape=codes.shape, grid=grid, kind=codes.dtype.name)


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise UnavailableError(
            f"GGUF's blocks are decoded by the package gguf ({error}); install it: pip install 'qdqcli[gguf]'"
        ) from error
    return gguf


@cache
def _decoded_types() -> frozenset[str]:
    package = _package()
    import numpy as np

    found = set()
    for name, kind in QUANTIZED.items():
        try:
            package.quants.dequantize(np.zeros((1, kind.nbytes), np.uint8), package.GGMLQuantizationType[name])
        except (NotImplementedError, KeyError):
            continue
        found.add(name)
    return frozenset(found)
