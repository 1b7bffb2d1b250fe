"""Factors per input channel of packed weights, as AWQ and SmoothQuant move them into the layer before.

They cancel only where all weights of one input have the same factors and the norm or linear layer before has their
inverse. Both are looked for in the same block of the model.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qdqcli.recipe.pairing import Entry
from qdqcli.result.result import Row, TensorResult
from qdqcli.run.packing import sample_of
from qdqcli.run.slips import SCALED_INPUTS, input_factors
from qdqcli.tensors.open_shards import OpenShards

Pairs = Sequence[tuple[Entry, Entry | None]]
"""Tensors of the original, each with its counterpart."""
Floats = NDArray[np.float64]

_SAMPLE_ELEMENTS = 1 << 20
_CLOSE = 0.1
"""Median deviation from 1 of the product of a factor and its inverse, below which these belong together."""
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Modules that take the same input."""
IN_NORM = f"{SCALED_INPUTS}; its inverse is in the norm before"
IN_LINEAR = f"{SCALED_INPUTS}; its inverse is in the linear layer before"
NOWHERE = f"{SCALED_INPUTS}, but no norm or linear layer has its inverse"
UNEQUAL = f"{SCALED_INPUTS}, but weights of one input have other factors"
_BLOCK = re.compile(r"(?P<block>.*\.\d+)\.", re.ASCII | re.DOTALL)


def checked(rows: Sequence[Row], pairs: Pairs) -> list[Row]:
    """Return the rows; those with factors per input channel say where the inverse is."""
    found = list(rows)
    scaled = [number for number, row in enumerate(rows) if _slip(row) == SCALED_INPUTS]
    if not scaled:
        return found
    with OpenShards() as readers:
        factors = {number: input_factors(*_samples(*pairs[number], readers)) for number in scaled}
        names = {entry.name: number for number, (entry, _) in enumerate(pairs)}
        for number in scaled:
            text = _verdict(number, factors, names, rows, pairs, readers)
            row = found[number]
            if text is not None and isinstance(row, TensorResult) and row.packing is not None:
                found[number] = row._replace(packing=row.packing._replace(slip=text))
    return found


def _slip(row: Row) -> str | None:
    return row.packing.slip if isinstance(row, TensorResult) and row.packing is not None else None


def _samples(entry: Entry, other: Entry | None, readers: OpenShards) -> tuple[Floats, Floats]:
    """Return the first rows of both sides."""
    assert other is not None
    one, two = (
        sample_of(side.tensor, readers.reader_of(side.plan.shard), _SAMPLE_ELEMENTS).astype(np.float64)
        for side in (entry, other)
    )
    return one, two


def _verdict(
    number: int,
    factors: Mapping[int, Floats],
    names: Mapping[str, int],
    rows: Sequence[Row],
    pairs: Pairs,
    readers: OpenShards,
) -> str | None:
    """Return the slip with what was found of it; None where the block's other tensors are not compared."""
    own, entry = factors[number], pairs[number][0]
    for other in _of_same_input(entry.name, names):
        if isinstance(rows[other], TensorResult) and not (other in factors and _is_one(factors[other] / own)):
            return UNEQUAL
    sizes = [n for n in names.values() if _is_before(pairs[n], entry)]
    for norm in (n for n in sizes if len(pairs[n][0].tensor.shape) == 1):
        x, y = (values[0] for values in _samples(*pairs[norm], readers))
        if any(_is_one(own * (y + one) / np.where(x + one, x + one, 1)) for one in (0, 1)):  # gemma's norms hold w - 1
            return IN_NORM
    for linear in (n for n in sizes if len(pairs[n][0].tensor.shape) == 2):
        x, y = _samples(*pairs[linear], readers)
        if _is_one(own[: len(x)] * (x * y).sum(1) / np.maximum((x * x).sum(1), np.finfo(float).tiny)):
            return IN_LINEAR
    return NOWHERE if sizes else None


def _of_same_input(name: str, names: Mapping[str, int]) -> Iterator[int]:
    """Yield the other weights that take the same input."""
    parent, _, rest = name.rpartition(".weight")[0].rpartition(".")
    for modules in _SAME_INPUT:
        if rest in modules:
            yield from (names[f"{parent}.{other}.weight"] for other in modules
                        if other != rest and f"{parent}.{other}.weight" in names)  # fmt: skip


def _is_before(pair: tuple[Entry, Entry | None], entry: Entry) -> bool:
    """Tell whether a tensor of the same block has an output per input channel of the weight."""
    tensor, other = pair[0].tensor, pair[1]
    block, own = _BLOCK.match(pair[0].name), _BLOCK.match(entry.name)
    return (
        other is not None
        and other.tensor.shape == tensor.shape
        and tensor.dtype.is_floating
        and other.tensor.dtype.is_floating
        and 0 < len(tensor.shape) <= 2
        and tensor.shape[0] == entry.tensor.shape[-1]
        and pair[0].name != entry.name
        and not pair[0].name.endswith(".bias")
        and (block and block["block"]) == (own and own["block"])
    )


def _is_one(ratios: Floats) -> bool:
    """Tell whether most are near 1."""
    return bool(np.median(np.abs(ratios - 1)) < _CLOSE)
