"""Scales on a grid over a weight: one for the tensor, a row, a group of columns or a block of rows and columns."""

from dataclasses import dataclass
from math import prod

import numpy as np

from qdqcli.tensors.packed.decoder import Floats, Parts, damaged
from qdqcli.tensors.packed.format import SCALE, PackedWeight, codes_per_scale
from qdqcli.tensors.packed.storage import Block
from qdqcli.tensors.packed.values import as_float32


@dataclass(frozen=True, kw_only=True)
class ScaleGrid:
    """Scales, or zero points, of a weight seen as matrices of its last two dimensions."""

    role: str
    height: int
    """Rows of one matrix."""
    width: int
    block: Block
    """Rows and columns that share a scale; the last block may be smaller."""

    @property
    def groups(self) -> int:
        """Scales of one row."""
        return -(-self.width // self.block[1])

    @classmethod
    def of(
        cls, weight: PackedWeight, shape: tuple[int, ...], role: str = SCALE, block: Block | None = None
    ) -> "ScaleGrid":
        """Find the grid of a weight of that shape, of blocks of that size where it is known.

        Raises:
            InputError: the shape of the scales does not fit that of the weight; names the tensor.
        """
        found = weight.parts[role].shape
        height, width = (shape[-2] if len(shape) > 1 else 1), (shape[-1] if shape else 1)
        matrices, lead = prod(shape[:-2]), found[:-2] if len(found) > 1 else ()
        if prod(found) == 1:
            return cls(role=role, width=width, height=height * matrices, block=(height * matrices, width))
        if found == shape[:-1] or found in ((*shape[:-1], 1), (height * matrices, 1)):
            return cls(role=role, width=width, height=height, block=(1, width))
        if prod(lead) == matrices and found[-2:] == (1, 1):
            return cls(role=role, width=width, height=height, block=(height, width))
        if block is None and len(found) > 1 and all(0 < n <= m for n, m in zip(found[-2:], shape[-2:], strict=True)):
            block = codes_per_scale(height, found[-2]), codes_per_scale(width, found[-1])
        sizes = None if block is None else (-(-height // block[0]), -(-width // block[1]))
        if block is not None and len(found) > 1 and prod(lead) == matrices and found[-2:] == sizes:
            return cls(role=role, width=width, height=height, block=block)
        of = f"one per block of {block[0]}x{block[1]}" if block is not None else "one for the tensor, a row or a block"
        text = "x".join(map(str, found)) or "scalar"
        raise damaged(
            weight, role, f"its shape is {text}, which does not fit a weight of {'x'.join(map(str, shape))} ({of})"
        )

    def rows(self, parts: Parts, start: int, stop: int) -> Floats:
        """Return the scales of rows [start, stop): (rows, groups), or (1, 1) where the tensor has one.

        Raises:
            InputError: a scale is NaN or infinite; names the tensor.
        """
        dtype, tall = parts.info(self.role).dtype.name, self.block[0]
        if tall == 1:
            stored = parts.rows(self.role, start, stop, self.groups)
        else:
            whole = parts.whole(self.role)
            width = whole.shape[-1] if whole.ndim > 1 else 1
            whole = whole.reshape(-1, width)
            rows = np.arange(start, stop)
            stored = whole[rows // self.height * -(-self.height // tall) + rows % self.height // tall]
            if len(whole) == 1:
                stored = stored[:1]
        if dtype == "U8" and self.role == SCALE:
            dtype = "F8_E8M0"
        return parts.check_finite(as_float32(stored.reshape(len(stored), -1), dtype), self.role)
