"""Scales on a grid over a weight: one for the tensor, a row, a group of columns or a block of rows and columns."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from qdqcli.tensors.packed.decoder import Floats, Parts, Stored, check_shape, damaged
from qdqcli.tensors.packed.format import GLOBAL_SCALE, GROUP_INDEX, SCALE, PackedWeight, codes_per_scale, grid_shape
from qdqcli.tensors.packed.storage import Block
from qdqcli.tensors.packed.values import as_float32
from qdqcli.tensors.tensor import plain_shape

_TILE_ROWS, _TILE_GROUPS = 128, 4


@dataclass(frozen=True, kw_only=True)
class ScaleGrid:
    """Scales, or zero points, of a weight seen as matrices of its last two dimensions."""

    role: str
    height: int
    """Rows of one matrix."""
    width: int
    block: Block
    """Rows and columns that share a scale; the last block may be smaller."""
    dtype: str
    """Dtype of the elements, which may be stored as bytes."""
    is_tiled: bool = False
    """Stored in tiles of 128 rows and 4 groups, padded, in the order of cuBLAS's block scales."""

    @property
    def groups(self) -> int:
        """Scales of one row."""
        return -(-self.width // self.block[1])

    @classmethod
    def of(
        cls,
        weight: PackedWeight,
        shape: tuple[int, ...],
        role: str = SCALE,
        *,
        block: Block | None = None,
        dtype: str | None = None,
    ) -> "ScaleGrid":
        """Find the grid over a weight of that shape, of blocks of that size where it is known.

        `dtype` is that of scales stored as bytes, by default powers of two (E8M0).

        Raises:
            MalformedError: the shape of the scales does not fit that of the weight; names the tensor.
        """
        info = weight.parts[role]
        found, height, width = grid_shape(shape, info.shape), shape[-2] if len(shape) > 1 else 1, shape[-1]
        if dtype is None:
            dtype = "F8_E8M0" if role == SCALE and info.dtype.name == "U8" else info.dtype.name
        matrices = prod(shape[:-2])

        def grid(*block: int) -> "ScaleGrid":
            tall, wide = min(block[0], height), min(block[1], width)
            return cls(role=role, height=height, width=width, block=(tall, wide), dtype=dtype)

        if prod(found) == 1:
            return cls(role=role, height=height * matrices, width=width, block=(height * matrices, width), dtype=dtype)
        if found in (shape[:-1], (*shape[:-1], 1), (height * matrices, 1)):
            return grid(1, width)
        if len(found) > 1 and prod(found[:-2]) == matrices:
            if found[-2:] == (1, 1):
                return grid(height, width)
            if block is None and all(0 < n <= m for n, m in zip(found[-2:], (height, width), strict=True)):
                block = codes_per_scale(height, found[-2]), codes_per_scale(width, found[-1])
            if block is not None and found[-2:] == (-(-height // block[0]), -(-width // block[1])):
                return grid(*block)
        of = f"one per block of {block[0]}x{block[1]}" if block is not None else "one for the tensor, a row or a block"
        fitting = f"which does not fit a weight of {plain_shape(shape)} ({of})"
        raise damaged(weight, role, f"its shape is {plain_shape(info.shape)}, {fitting}")

    @classmethod
    def tiled(cls, weight: PackedWeight, shape: tuple[int, ...], group: int, dtype: str) -> "ScaleGrid":
        """Return the grid of a matrix of that shape, whose scales of groups are stored in tiles.

        Raises:
            MalformedError: the shape of the scales does not fit that of the weight; names the tensor.
        """
        grid = cls(role=SCALE, height=shape[0], width=shape[1], block=(1, group), dtype=dtype, is_tiled=True)
        check_shape(
            weight, SCALE, (-(-shape[0] // _TILE_ROWS) * _TILE_ROWS, -(-grid.groups // _TILE_GROUPS) * _TILE_GROUPS)
        )
        return grid

    def _untiled(self, parts: Parts, start: int, stop: int) -> Stored:
        """Return the stored scales of rows [start, stop); 32 rows of a tile have their four groups side by side."""
        row, group = np.arange(start, stop)[:, None], np.arange(self.groups)
        tile = row // _TILE_ROWS * -(-self.groups // _TILE_GROUPS) + group // _TILE_GROUPS
        within = row % 32 * 16 + row % _TILE_ROWS // 32 * 4 + group % _TILE_GROUPS
        found: Stored = parts.whole(self.role).reshape(-1)[tile * _TILE_ROWS * _TILE_GROUPS + within]
        return found

    def rows(self, parts: Parts, start: int, stop: int) -> Floats:
        """Return the scales of rows [start, stop): (rows, groups), or (1, 1) where the tensor has one.

        Raises:
            MalformedError: a scale is NaN or infinite; names the tensor.
        """
        tall = self.block[0]
        if self.is_tiled:
            stored = self._untiled(parts, start, stop)
        elif tall == 1:
            stored = parts.rows(self.role, start, stop, self.groups)
        else:
            whole = parts.whole(self.role).reshape(-1, self.groups)
            rows = np.arange(start, stop)
            stored = whole[rows // self.height * -(-self.height // tall) + rows % self.height // tall]
            if len(whole) == 1:
                stored = stored[:1]
        return parts.check_finite(as_float32(stored.reshape(len(stored), -1), self.dtype), self.role)


def global_scale(parts: Parts) -> np.float32:
    """Return the scale of the whole weight.

    Raises:
        MalformedError: it is not one finite number; names the tensor.
    """
    if parts.info(GLOBAL_SCALE).num_elements != 1:
        raise parts.damaged(GLOBAL_SCALE, f"it has {parts.info(GLOBAL_SCALE).num_elements} elements, expected 1")
    return np.float32(parts.check_finite(parts.floats(GLOBAL_SCALE).reshape(-1), GLOBAL_SCALE)[0])


def group_index(parts: Parts, groups: int, size: int) -> NDArray[np.int32] | None:
    """Return the group of each column, as act-order permutes them; None where groups are `size` neighbours.

    Raises:
        MalformedError: an index has no group; names the tensor.
    """
    if GROUP_INDEX not in parts:
        return None
    index = parts.whole(GROUP_INDEX)
    if (index == -1).all() or np.array_equal(index, np.arange(len(index)) // size):
        return None
    if index.min() < 0 or index.max() >= groups:
        found = index.max() if index.max() >= groups else index.min()
        raise parts.damaged(GROUP_INDEX, f"index {found} of a group; there are {groups}")
    return index
