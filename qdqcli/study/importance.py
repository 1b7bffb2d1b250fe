"""Importance: factors of the losses of tensors, from a Hessian, gradients or activations that somebody measured.

A number counts for a whole tensor. A vector has a number per input channel (the last dimension), as llama.cpp's
imatrix: squared errors and squared elements are weighted by it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, lcm
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.measure.arrays import fake_quantize_and_measure
from qdqcli.measure.blocks import read_block, read_floats
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op.arrays import aligned
from qdqcli.op.layout import Layout
from qdqcli.op.params import floats_of
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec
from qdqcli.recipe.patterns import compile_pattern, listed, nearest_names
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.sweep import Sweep
from qdqcli.result.result import TensorResult
from qdqcli.tensors.checkpoint import ShardReader, open_checkpoint
from qdqcli.tensors.input_file import read_file
from qdqcli.tensors.strict_json import parse_object
from qdqcli.tensors.tensor import TensorInfo

MAX_BYTES = 16 << 20
MAX_FACTOR = 1e30
"""Maximum factor: beyond it a loss could leave the range of float64."""
BLOCK_ELEMENTS = 1 << 20
_EXPECTED = "expected JSON {PATTERN: number}, or .npz or .safetensors with a number or a vector per tensor"

Weighted = Mapping[tuple[int, int], tuple[float, float]]
"""(row, candidate) -> sums of squared errors and of squared elements, weighted by input channel."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Factors by tensor."""

    factors: Mapping[str, float] = field(default_factory=dict)
    """Pattern -> factor; the last match counts."""
    channels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Tensor -> factor per input channel."""
    names_all: bool = False
    """True where each tensor must have a factor: one without would weigh as much as if it had been measured."""

    def of(self, name: str) -> float:
        """Return the factor of a tensor as a whole; 1 for one with factors per channel."""
        if name in self.channels or not self.factors:
            return 1.0
        found = [factor for pattern, factor in self.factors.items() if compile_pattern(pattern)(name)]
        return found[-1] if found else 1.0

    def check(self, names: Sequence[str]) -> None:
        """Check that every key matches a tensor and, with `names_all`, every tensor a key.

        Raises:
            UsageError: one does not.
        """
        known = set(names)
        tests = {pattern: compile_pattern(pattern) for pattern in self.factors}
        for key in (*self.channels, *tests):
            if key not in known and not (key in tests and any(map(tests[key], known))):
                raise UsageError(
                    f"--importance: '{escape_name(key)}' matches no planned tensor{nearest_names(key, known)}"
                )
        missing = [n for n in names if n not in self.channels and not any(matches(n) for matches in tests.values())]
        if missing and self.names_all:
            raise UsageError(
                f"--importance: has nothing for {listed(missing)} ({len(missing)} of {len(names)} planned tensors); "
                'add them, or "*" for all others'
            )

    def weighted(self, plans: Sequence[Plan], sweep: Sweep, workers: Workers) -> Weighted:
        """Return the sums, weighted by input channel, of the tensors that have such factors; reads each once.

        `plans` are those of any candidate.

        Raises:
            UsageError: a vector has not the length of the tensor's last dimension.
        """
        found: dict[tuple[int, int], tuple[float, float]] = {}
        first = 0
        for plan in plans:
            chosen = [k for k, tensor in enumerate(plan.shard.tensors) if tensor.name in self.channels]
            if chosen:
                with plan.shard.open() as reader:
                    for k in chosen:
                        tensor = plan.shard.tensors[k]
                        weights = _fitting(self.channels[tensor.name], tensor)
                        for candidate, result in enumerate(sweep.results):
                            row = result.rows[first + k]
                            if isinstance(row, TensorResult):
                                found[first + k, candidate] = _weigh(reader, tensor, row, weights, workers)
            first += len(plan.shard.tensors)
        return found


def _fitting(weights: NDArray[np.float64], tensor: TensorInfo) -> NDArray[np.float64]:
    width = tensor.shape[-1] if tensor.shape else 1
    if len(weights) != width or tensor.fortran_order:
        raise UsageError(
            f"--importance: '{escape_name(tensor.name)}' has {len(weights)} numbers; its last dimension has {width}"
        )
    return weights


def _weigh(
    reader: ShardReader, tensor: TensorInfo, row: TensorResult, weights: NDArray[np.float64], workers: Workers
) -> tuple[float, float]:
    """Return the weighted sums of squared errors and of squared elements, over blocks of whole rows and slices."""
    assert row.spec is not None
    spec, layout, width = row.spec, layout_of(tensor, row.spec), len(weights)
    given = None
    if layout.num_slices == 1:
        spec, given = replace(spec, axis=WHOLE_TENSOR, range_given=True), (row.input_min or 0.0, row.input_max or 0.0)
        piece = width
    elif not layout.is_contiguous:
        raise UsageError(
            f"--importance: '{escape_name(tensor.name)}' has ranges across its rows, which numbers per input channel "
            "do not support; give it one number"
        )
    else:
        piece = layout.row if layout.advance else lcm(layout.inner, width)
    dtype = tensor.dtype.name
    step = max(BLOCK_ELEMENTS // piece, 1) * piece
    errors, energies = [], []
    for start in range(0, layout.num_elements, step):
        workers.interruption.check()
        x = read_block(reader, tensor, workers, "input", (start, min(start + step, layout.num_elements)))
        y = aligned(x.size, x.dtype)
        shape = (x.size // width, width) if layout.advance or given else (x.size // layout.inner, layout.inner)
        fake_quantize_and_measure(x, y, Layout.of(shape, _by_row(spec)), _by_row(spec), given, dtype, workers)
        before, after = (floats_of(part).astype(np.float64).reshape(-1, width) for part in (x, y))
        is_finite = np.isfinite(before) & np.isfinite(after)
        before, after = np.where(is_finite, before, 0.0), np.where(is_finite, after, 0.0)
        errors.append(_sum((after - before) ** 2, weights))
        energies.append(_sum(before * before, weights))
    return fsum(errors), fsum(energies)


def _by_row(spec: QuantSpec) -> QuantSpec:
    """Return the settings for a matrix whose rows are the slices, where slices follow an axis."""
    return spec if spec.axis == WHOLE_TENSOR else replace(spec, axis=0)


def _sum(squares: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the weighted sum, in an order that depends on the shape alone."""
    return fsum((squares.sum(axis=0) * weights).tolist())


NO_IMPORTANCE = Importance()
"""Every tensor counts once."""


def read_importance(path: Path) -> Importance:
    """Read factors: JSON {PATTERN: number}, or a number or a vector per tensor from .npz or .safetensors.

    Raises:
        UsageError: missing or malformed, or a factor is not a number from 0 to `MAX_FACTOR`.
    """
    try:
        if path.suffix.lower() in (".npz", ".safetensors"):
            return _from_arrays(path)
        return importance_from(parse_object(read_file(path, MAX_BYTES)), show_path(path))
    except InputError as error:
        raise UsageError(f"{error}; {_EXPECTED}") from None
    except MalformedError as error:
        raise UsageError(f"{show_path(path)}: {error}; {_EXPECTED}") from None


def importance_from(data: Mapping[str, object], source: str) -> Importance:
    """Return the importance from pattern -> factor.

    Raises:
        UsageError: a factor is not a number from 0 to `MAX_FACTOR`.
    """
    factors = {}
    for pattern, number in data.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= MAX_FACTOR:
            raise UsageError(f"{source}: '{escape_name(pattern)}': expected a number from 0 to {MAX_FACTOR:g}")
        factors[pattern] = float(number)
    return Importance(factors=factors)


def _from_arrays(path: Path) -> Importance:
    factors, channels = {}, {}
    for shard in open_checkpoint(path).shards:
        with shard.open() as reader:
            for info in shard.tensors:
                if not info.dtype.is_floating or len(info.shape) > 1:
                    raise UsageError(
                        f"{show_path(path)}: '{escape_name(info.name)}' is {info.dtype.name} {list(info.shape)}; "
                        "expected a number, or a vector of one per input channel"
                    )
                values = read_floats(reader, info, (0, info.num_elements))
                if not ((values >= 0) & (values <= MAX_FACTOR)).all():
                    raise UsageError(
                        f"{show_path(path)}: '{escape_name(info.name)}': expected numbers from 0 to {MAX_FACTOR:g}"
                    )
                if info.shape:
                    channels[info.name] = values
                else:
                    factors[info.name] = float(values[0])
    return Importance(factors=factors, channels=channels, names_all=True)
