"""CPU loop that gathers the columns of a matrix: a transposition in tiles of VECTOR_SIZE x VECTOR_SIZE elements.

Sixteen rows are read and written at once, which stays close to memory speed where the row stride in bytes is a power of
two: element by element, rows would evict each other from the cache (four times slower).
"""

from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.vector import transpose_tile


def gather_columns(x, row, first, num_columns, out, begin, size):
    """Gather columns of `x` (whole rows of `row` elements), from `first` on: column c to out[c * size + begin:]."""
    num_rows = x.size // row
    tiled_rows, tiled_columns = num_rows // VECTOR_SIZE * VECTOR_SIZE, num_columns // VECTOR_SIZE * VECTOR_SIZE
    for c in range(0, tiled_columns, VECTOR_SIZE):
        for r in range(0, tiled_rows, VECTOR_SIZE):
            transpose_tile(x, r * row + first + c, row, out, c * size + begin + r, size)
    for c in range(num_columns):
        for r in range(tiled_rows if c < tiled_columns else 0, num_rows):
            out[c * size + begin + r] = x[r * row + first + c]
