"""Packed side of a comparison: how the weight is stored, and what plain rounding to the same grid would lose."""

from typing import NamedTuple

from qdqcli.plain import Parsed
from qdqcli.stats.metrics import MetricValue
from qdqcli.tensors.packed.storage import CodeGrid, Scales, Storage, Values


class Packing(NamedTuple):
    """Findings on a weight that is packed in one of two checkpoints."""

    storage: Storage
    expected_sqnr_db: MetricValue = None
    """SQNR of the op on the weight in float, with the same bits and groups; None where the op has no such grid."""
    is_idempotent: bool | None = None
    """True if the op, at the same bits and groups, gives the decoded weight back; None where it has no such grid."""
    slip: str | None = None
    """Slip of a writer or reader that explains a low SQNR."""
    slip_sqnr_db: float | None = None
    """SQNR of a sample of rows once the slip is undone."""
    is_candidate: bool = True
    """False where the reference alone is packed, and the candidate is in float."""


def packing_to_json(packing: Packing) -> dict[str, object]:
    """Return the key `packed` of a row."""
    grid = packing.storage.grid
    return {
        "format": packing.storage.format,
        "bits": grid.bits,
        "block_rows": grid.block[0],
        "block_columns": grid.block[1],
        "values": grid.values.value,
        "scales": grid.scales.value,
        "is_symmetric": grid.is_symmetric,
        "num_bytes": packing.storage.nbytes,
        "expected_sqnr_db": packing.expected_sqnr_db,
        "is_idempotent": packing.is_idempotent,
        "slip": packing.slip,
        "slip_sqnr_db": packing.slip_sqnr_db,
        "is_candidate": packing.is_candidate,
    }


def packing_from_json(data: Parsed) -> Packing:
    """Parse the key `packed` of a row that matches the schema."""
    block = data["block_rows"], data["block_columns"]
    kinds = Values(data["values"]), Scales(data["scales"])
    grid = CodeGrid(data["bits"], block, *kinds, is_symmetric=data["is_symmetric"])
    storage = Storage(data["format"], grid, data["num_bytes"])
    return Packing(storage, *(data[key] for key in Packing._fields[1:]))


PACKING_KEYS = tuple(packing_to_json(Packing(Storage("", CodeGrid(1, (1, 1)), 0))))
"""Keys of the object `packed`."""
