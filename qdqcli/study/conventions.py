"""Convention lab: the same tensors under the scale conventions of other libraries, beside this op."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, inf, isfinite, log10

import numpy as np

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.measure.blocks import read_floats
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.plan import Plan, inputs_of, notes_of
from qdqcli.recipe.sweep import Setting
from qdqcli.result.result import Headed, Source
from qdqcli.study.convention import CONVENTIONS, F32, OP, Convention
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

BLOCK_ELEMENTS = 1 << 18
"""Elements of a block, whole slices: sums are added in its order, whatever the number of threads."""
BYTES_PER_ELEMENT = 64
"""Peak bytes for each element of a block: float64 for sums, and the intermediates of a convention."""
NOT_FINITE = "has NaN or infinity in float32, of which each library makes something else"
NOT_CONTIGUOUS = "is stored so that the elements that share a scale are no neighbours"


@dataclass(kw_only=True)
class Loss:
    """Sums over the elements of one or more tensors under one convention; they add up."""

    squares: float = 0.0
    """Sum of x^2."""
    errors: float = 0.0
    """Sum of (y - x)^2."""
    different: int = 0
    """Number of elements that this op gives another value."""
    count: int = 0

    def add(self, other: "Loss") -> None:
        """Add the sums of other elements."""
        self.squares += other.squares
        self.errors += other.errors
        self.different += other.different
        self.count += other.count

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB; infinite without an error, minus infinity where the output is not finite."""
        if self.errors == 0:
            return inf
        return 10 * log10(self.squares / self.errors) if self.squares and isfinite(self.errors) else -inf

    @property
    def share_different(self) -> float:
        return self.different / max(self.count, 1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One tensor under one setting: the loss under this op, and under each convention that has the setting."""

    source: Source
    losses: Sequence[tuple[Convention, Loss]]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A tensor that was not measured."""

    source: Source
    reason: str


@dataclass(kw_only=True)
class Comparison:
    """One convention beside this op, over all tensors of one setting."""

    convention: Convention
    total: Loss = field(default_factory=Loss)
    gains: list[float] = field(default_factory=list)
    """SQNR less that of this op, in dB, for each tensor for which both are finite."""

    @property
    def mean_gain(self) -> float | None:
        return fsum(self.gains) / len(self.gains) if self.gains else None


@dataclass(frozen=True, kw_only=True)
class Lab(Headed):
    """The tensors of a model under several settings and all conventions that have them."""

    columns: Sequence[Setting]
    rows: Sequence[Sequence[Measured | Skipped]]
    """For each setting a row per tensor."""
    command: str = "conventions"

    def comparisons(self, number: int) -> list[Comparison]:
        """Return this op, and the conventions that have setting `number`."""
        found: dict[str, Comparison] = {}
        for row in self.rows[number]:
            if isinstance(row, Measured):
                own = row.losses[0][1].sqnr_db
                for convention, loss in row.losses:
                    comparison = found.setdefault(convention.name, Comparison(convention=convention))
                    comparison.total.add(loss)
                    if isfinite(own) and isfinite(loss.sqnr_db):
                        comparison.gains.append(loss.sqnr_db - own)
        return list(found.values())


def run_lab(
    columns: Sequence[Sequence[Plan]],
    settings: Sequence[Setting],
    workers: Workers,
    described: Mapping[str, object],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Lab:
    """Measure all conventions on every tensor under every setting; `columns` are the plans of each setting.

    `described` are the options for the report.

    Raises:
        UsageError: the elements that share a scale do not fit into memory.
        InputError: the system refuses.
    """
    rows: list[list[Measured | Skipped]] = [[] for _ in settings]
    for plans in zip(*columns, strict=True):
        with plans[0].shard.open() as reader:
            for decided in zip(*(plan.tensors for plan in plans), strict=True):
                for own, (info, decision) in zip(rows, decided, strict=True):
                    source = plans[0].source_of(info)
                    if isinstance(decision, Skip):
                        own.append(Skipped(source=source, reason=decision.reason))
                    else:
                        own.append(_measured(reader, info, decision, source, workers))
                on_bytes(decided[0][0].nbytes)
    own_keys = settings[0].to_json()
    return Lab(
        columns=settings,
        rows=rows,
        inputs=inputs_of(columns[0]),
        settings={key: value for key, value in described.items() if key not in own_keys},
        notes=notes_of(columns[0]),
    )


def _measured(
    reader: ShardReader, info: TensorInfo, spec: QuantSpec, source: Source, workers: Workers
) -> Measured | Skipped:
    """Return the losses of one tensor under this op and each convention."""
    layout = layout_of(info, spec)
    if not layout.is_contiguous:
        return Skipped(source=source, reason=NOT_CONTIGUOUS)
    size = layout.size_of(0) if layout.num_slices else 1
    step = max(BLOCK_ELEMENTS // size, 1) * size
    needed = step * BYTES_PER_ELEMENT * workers.num_threads
    if size > BLOCK_ELEMENTS and needed > workers.max_memory:
        least = -(-needed // (1 << 20))
        raise UsageError(
            f"'{escape_name(info.name)}': {size:,} elements share a scale, for which {least} MiB of memory are needed; "
            f"choose groups or channels, or give --max-memory {least}MiB"
        )
    conventions = [OP, *(known for known in CONVENTIONS if known.fits(spec.num_bits, spec.group_size))]

    def measure(start: int) -> list[Loss] | None:
        stop = min(start + step, info.num_elements)
        with np.errstate(over="ignore"):  # of float64; not finite, it is left out
            x = read_floats(reader, info, (start, stop)).astype(np.float32).reshape(-1, size)
        return _losses(x, spec.num_bits, conventions) if np.isfinite(x).all() else None

    totals = [Loss() for _ in conventions]
    for losses in workers.map(measure, range(0, info.num_elements, step)):
        if losses is None:
            return Skipped(source=source, reason=NOT_FINITE)
        for total, loss in zip(totals, losses, strict=True):
            total.add(loss)
    return Measured(source=source, losses=list(zip(conventions, totals, strict=True)))


def _losses(x: F32, num_bits: int, conventions: Sequence[Convention]) -> list[Loss]:
    """Return the losses of a block, of which this op is the first convention."""
    exact = x.astype(np.float64)
    squares = float(np.square(exact).sum())
    own = None
    losses = []
    for convention in conventions:
        y = convention.apply(x, num_bits)
        own = y if own is None else own
        errors = float(np.square(y - exact).sum())
        losses.append(Loss(squares=squares, errors=errors, different=int((y != own).sum()), count=x.size))
    return losses
