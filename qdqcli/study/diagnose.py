"""Diagnosis: causes of the error of the worst tensors, and the measured gain of changed settings.

Every change is measured by the op on all elements, on the same read as the profile of the data; each number equals that
of `qdq stats` with the changed setting. Nothing is estimated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from math import fsum, inf, isfinite, log10
from typing import Any

import numpy as np

from qdqcli.errors import UsageError
from qdqcli.measure.blocks import QPARAM_BYTES
from qdqcli.measure.layout import layout_of
from qdqcli.measure.tensor import measure_settings
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import DEFAULT_ESTIMATOR, MAX_SIGNED_BITS, WHOLE_TENSOR, QuantSpec
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.toml_text import plans_like
from qdqcli.result.result import Row, RunResult, TensorResult, with_shares
from qdqcli.run.pipeline import Measuring, ShardJob
from qdqcli.stats.sums import value_of
from qdqcli.study.allocation import duplicates_of
from qdqcli.study.causes import OUTLIER_ROWS, SMALLEST_SLICE, CauseFound, Seen, find_causes, level
from qdqcli.study.float_grid import GROUP_SIZES, ROUNDING
from qdqcli.study.grid import INTEGERS, FoundGrid, find_grid
from qdqcli.study.neighbours import Neighbour, unlike_neighbours
from qdqcli.study.plan_recipe import check_recipe, difference, recipe_text
from qdqcli.study.profile import Profile, db, fits, gaussian_peak, profile, total_of
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

ERROR_SHARE = 0.8
"""Share of the squared error to diagnose, in the tensors with the largest errors."""
MIN_GAIN_DB = 0.1
"""Minimum gain of a remedy: a sixtieth of a bit."""
FREE_BITS = 0.1
"""Most bits per weight added by a change that ranks as free: a scale of 16 bits for each row of 160 elements."""
LOSSLESS_DB = 120.0
"""SQNR beyond which nothing is gained: float32 has 144 dB."""
ROUNDINGS_DB = 3.0
"""Room for two roundings to the tensor's dtype, of values and of the scale, where codes stay as they are."""
MAX_REMEDIES = 3
MAX_ROWS_SHARE = 0.01
"""Most rows to leave in float."""
PERCENTILE = 99.9
EXTRA_BITS = (1, 2)
_SIDE_BY_SIDE_BYTES = 8 << 20
"""Tensors of up to this size are diagnosed side by side, larger ones by all workers together."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A measured change of a tensor's settings."""

    row: TensorResult
    changes: dict[str, object]
    """Recipe key -> value."""
    gain_db: float
    """Infinite where the change makes the tensor exact, or measurable at all."""
    bits_added: float
    """Bits per weight."""

    @property
    def is_useful(self) -> bool:
        """True where it gains, or saves bits without a loss."""
        return self.gain_db >= MIN_GAIN_DB or (self.is_lossless and self.bits_added < -FREE_BITS)

    @property
    def is_lossless(self) -> bool:
        """True where only rounding of the tensor's dtype is left."""
        return level(self.row) >= LOSSLESS_DB

    @property
    def worth(self) -> float:
        """The SQNR in dB, capped at `LOSSLESS_DB`."""
        return min(level(self.row), LOSSLESS_DB)


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """SQNR = bits + 4.77 - peak + rest, in dB; the peak is peak over RMS, both as the root of a mean."""

    bits_db: float
    peak_db: float
    gaussian_peak_db: float
    """Peak of Gaussian data in slices of this size."""
    rest_db: float | None
    """None where there is no SQNR."""

    @property
    def formula_db(self) -> float:
        """The SQNR of fine quantization with errors uniform over a step."""
        return self.bits_db + UNIFORM_DB - self.peak_db


UNIFORM_DB = 10 * log10(3)


@dataclass(frozen=True, kw_only=True)
class RowsInFloat:
    """The tensor with its outstanding rows left in float, which no recipe can say; measured by the op."""

    rows: Sequence[int]
    sqnr_db: float
    gain_db: float
    bits_added: float
    """Bits per weight."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Diagnosis of one tensor."""

    number: int
    """Index among the rows of the run."""
    row: TensorResult
    findings: Sequence[CauseFound]
    """Findings, the verdict first."""
    accounting: Accounting
    remedies: Sequence[Remedy]
    together: Remedy | None
    """The best combination of changes that adds no more bits than allowed."""
    rows_in_float: RowsInFloat | None = None
    """Set where a few outstanding rows are the cause."""

    @property
    def cause(self) -> str:
        """The verdict."""
        return self.findings[0].cause


@dataclass(frozen=True, kw_only=True)
class DiagnosedRun:
    """A run, the diagnoses of some of its tensors, and the run with their best changes."""

    before: RunResult
    after: RunResult
    diagnoses: Sequence[Diagnosis]
    max_bits_added: float

    @property
    def share(self) -> float:
        """Share of the squared error in the diagnosed tensors."""
        return fsum(float(d.row.share or 0.0) for d in self.diagnoses)

    def shares(self) -> list[tuple[str, int, float]]:
        """Return (cause, tensors, share of the squared error), the largest first."""
        found: dict[str, list[float]] = {}
        for diagnosis in self.diagnoses:
            found.setdefault(diagnosis.cause, []).append(float(diagnosis.row.share or 0.0))
        rows = [(cause, len(parts), fsum(parts)) for cause, parts in found.items()]
        return sorted(rows, key=lambda row: (-row[2], row[0]))

    @cached_property
    def neighbours(self) -> list[Neighbour]:
        """Tensors of the whole run that differ from those of their kind in the layers around."""
        return unlike_neighbours(self.before.quantized)

    def notes(self) -> dict[QuantSpec | None, str]:
        """Describe, for comments, the tensors that each changed setting applies to: their causes and gains."""
        found: dict[QuantSpec | None, list[Diagnosis]] = {}
        for diagnosis in self.diagnoses:
            if diagnosis.together is not None:
                found.setdefault(diagnosis.together.row.spec, []).append(diagnosis)
        return {spec: _note(own) for spec, own in found.items()}


def _note(diagnoses: Sequence[Diagnosis]) -> str:
    """Return `3 tensors, heavy-tails: +0.85 to +0.97 dB`."""
    gains = [d.together.gain_db for d in diagnoses if d.together is not None and isfinite(d.together.gain_db)]
    ends = dict.fromkeys(f"{gain:+.2f}" for gain in (min(gains), max(gains))) if gains else {}
    causes = ", ".join(dict.fromkeys(d.cause for d in diagnoses))
    count = f"{len(diagnoses)} tensor{'s' * (len(diagnoses) > 1)}"
    return f"{count}, {causes}" + (f": {' to '.join(ends)} dB" if ends else "")


def choose(rows: Sequence[Row], worst: int | None = None, *, takes_all: bool = False) -> list[int]:
    """Return the indices of the rows to diagnose, ascending.

    With `worst`, that many with the lowest SQNR; else those that hold `ERROR_SHARE` of the squared error, and all with
    non-finite elements or degenerate scales.
    """
    measured = [(number, row) for number, row in enumerate(rows) if isinstance(row, TensorResult) and row.num_elements]
    if worst is not None:
        return sorted(n for n, _ in sorted(measured, key=lambda pair: (level(pair[1]), pair[1].source))[:worst])
    if takes_all:
        return [number for number, _ in measured]
    ranked = sorted(measured, key=lambda pair: (-value_of(pair[1].sums.sq_error), pair[1].source))
    errors = [value_of(row.sums.sq_error) for _, row in ranked]
    total, held, chosen = total_of(errors), 0.0, set()
    for (number, _), error in zip(ranked, errors, strict=True):
        if held < ERROR_SHARE * total:
            chosen.add(number)
            held += error
    spoilt = {n for n, row in measured if row.sums.num_nonfinite or row.sums.num_nonfinite_output
              or row.num_spoilt_slices}  # fmt: skip
    return sorted(chosen | spoilt)


def diagnose(
    plans: Sequence[Plan],
    before: RunResult,
    numbers: Sequence[int],
    measuring: Measuring,
    workers: Workers,
    max_bits_added: float = FREE_BITS,
) -> DiagnosedRun:
    """Find causes and measure changes for the rows `numbers` of a run over `plans`.

    `measuring` receives the bytes of each diagnosed tensor once.

    Raises:
        UsageError: `max_bits_added` is negative or NaN.
    """
    if not max_bits_added >= 0:
        raise UsageError(f"max_bits_added is {max_bits_added}; it must be a number from 0")
    equal = _equal_names(plans, before.rows)
    diagnoses: list[Diagnosis] = []
    first = 0
    for plan in plans:
        count = len(plan.shard.tensors)
        own = [number - first for number in numbers if first <= number < first + count]
        if own:
            rows = before.rows[first : first + count]
            diagnoses += _diagnose_shard(plan, rows, own, first, equal, measuring, workers, max_bits_added)
        first += count
    after = list(before.rows)
    for found in diagnoses:
        if found.together is not None:
            after[found.number] = found.together.row
    diagnoses.sort(key=lambda d: (-float(d.row.share or 0.0), d.row.source))
    changed = replace(before, rows=with_shares(after))
    return DiagnosedRun(before=before, after=changed, diagnoses=diagnoses, max_bits_added=max_bits_added)


def recipe_of(found: DiagnosedRun, plans: Sequence[Plan], *, command: str, min_ndim: int | None) -> str:
    """Return the TOML text of the settings with the best changes; it decides the same for every tensor.

    Raises:
        UsageError: no pattern can tell some tensors from others.
    """
    rows = found.after.rows
    decided = [number for number, row in enumerate(rows) if isinstance(row, TensorResult)]
    about = [f"Settings with the best changes found by: {command}"]
    text = recipe_text(rows, decided, plans, about, min_ndim, found.notes())
    check_recipe(rows, plans_like(text, plans))
    return text


def _equal_names(plans: Sequence[Plan], rows: Sequence[Row]) -> dict[int, list[str]]:
    """Return row index -> names of the other tensors with the same bytes."""
    return {
        number: [rows[other].source.name for other in equal if other != number]
        for equal in duplicates_of(plans, rows)
        for number in equal
    }


def _diagnose_shard(
    plan: Plan,
    rows: Sequence[Row],
    own: Sequence[int],
    first: int,
    equal: dict[int, list[str]],
    measuring: Measuring,
    workers: Workers,
    max_bits_added: float,
) -> Iterator[Diagnosis]:
    reader: ShardReader
    with plan.shard.open() as reader:

        @np.errstate(over="ignore", invalid="ignore")  # of float64 near its limit: squares are infinite
        def diagnosed(k: int) -> Diagnosis:
            info, row = plan.shard.tensors[k], rows[k]
            assert isinstance(row, TensorResult)
            check = workers.interruption.check
            looked = profile(reader, info, _from_data(_spec(row)), check), find_grid(reader, info, check)
            trials = _Trials.of(info, row, looked, max_bits_added, workers)
            job = ShardJob(plan=plan, measuring=measuring, workers=workers, reader=reader)
            settings = [(spec, measuring.range_of(plan, info, spec)) for spec in trials.specs]
            measured = measure_settings(info, settings, reader, workers, measuring.on_bytes)
            found = [job.row_of(info, spec, each) for spec, each in zip(trials.specs, measured, strict=True)]
            diagnosis = trials.conclude(first + k, found, equal.get(first + k, []), max_bits_added)
            if diagnosis.cause != OUTLIER_ROWS:
                return diagnosis
            return replace(diagnosis, rows_in_float=_rows_in_float(reader, info, row, looked[0], workers))

        for is_small, group in groupby(own, lambda k: plan.shard.tensors[k].nbytes <= _SIDE_BY_SIDE_BYTES):
            numbers = list(group)
            yield from workers.map(diagnosed, numbers) if is_small else map(diagnosed, numbers)


def _rows_in_float(
    reader: ShardReader, info: TensorInfo, row: TensorResult, found: Profile, workers: Workers
) -> RowsInFloat | None:
    """Measure the tensor without its outstanding rows, at most 1 % of all: zeros in their place widen no range."""
    rows = [] if found.rows is None else found.rows.standing_out()
    if not rows or len(rows) > max(MAX_ROWS_SHARE * info.shape[0], 1) or info.fortran_order:
        return None
    spec = _from_data(_spec(row))
    (measured,) = measure_settings(info, [(spec, None)], _WithoutRows(reader, info, rows), workers)
    energy, error = value_of(row.sums.sq_input), value_of(measured.sums.sq_error)
    after = db(energy / error) if error else inf
    share = len(rows) / info.shape[0]
    return RowsInFloat(
        rows=rows, sqnr_db=after, gain_db=after - level(row), bits_added=share * (info.dtype.bits - spec.num_bits)
    )


class _WithoutRows:
    """Reader of a tensor with zeros in the place of some rows."""

    def __init__(self, reader: ShardReader, info: TensorInfo, rows: Sequence[int]) -> None:
        self._reader = reader
        size = info.nbytes // info.shape[0]
        self._spans = [(row * size, (row + 1) * size) for row in rows]

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        self._reader.read_into(tensor, start, buffer)
        data = np.frombuffer(buffer, np.uint8)
        for first, last in self._spans:
            data[max(first - start, 0) : max(last - start, 0)] = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def _spec(row: TensorResult) -> QuantSpec:
    assert row.spec is not None
    return row.spec


def _from_data(spec: QuantSpec) -> QuantSpec:
    """Return the setting with a range taken from the data."""
    return replace(spec, range_given=False, given_range=None)


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """Settings tried on one tensor."""

    info: TensorInfo
    row: TensorResult
    profile: Profile
    grid: FoundGrid | None
    specs: Sequence[QuantSpec]
    singles: frozenset[QuantSpec]
    """Settings that differ in one change."""

    @classmethod
    def of(
        cls,
        info: TensorInfo,
        row: TensorResult,
        looked: tuple[Profile, FoundGrid | None],
        max_bits_added: float,
        workers: Workers,
    ) -> "_Trials":
        found, grid = looked
        own = _spec(row)
        base = _from_data(own)
        granularities = [base, *(spec for spec in _granularities(base, info, workers) if spec != base)]
        estimators = dict.fromkeys((base.estimator, DEFAULT_ESTIMATOR, "mse", "percentile"))
        signs = [True, False] if base.signed_input and found.low >= 0 else [base.signed_input]
        bits = [base.num_bits + extra for extra in (0, *EXTRA_BITS) if base.num_bits + extra <= MAX_SIGNED_BITS]
        singles = [
            *granularities,
            *(_estimated(base, name) for name in estimators),
            *(replace(base, signed_input=sign) for sign in signs),
            *(replace(base, num_bits=number) for number in bits),
            *([] if grid is None else _of_grid(base, grid, info)),
        ]
        combined = [
            replace(_estimated(spec, name), signed_input=sign, num_bits=number)
            for spec, name, sign, number in product(granularities, estimators, signs, bits)
        ]
        rate = _rate(info, own, row.scale_bits)
        affordable = [spec for spec in combined if _rate(info, spec, row.scale_bits) - rate <= max_bits_added]
        specs = [spec for spec in dict.fromkeys([*singles, *affordable]) if spec != own]
        return cls(info=info, row=row, profile=found, grid=grid, specs=specs, singles=frozenset(singles))

    def conclude(
        self, number: int, found: Sequence[TensorResult], duplicates: Sequence[str], max_bits_added: float
    ) -> Diagnosis:
        """Find the causes and rank the remedies."""
        own = _spec(self.row)
        base = _from_data(own)
        others = [
            (row, max(round(self.info.num_elements / row.num_slices), 1))
            for row in found
            if replace(_spec(row), axis=base.axis, group_size=base.group_size, ragged_groups=base.ragged_groups) == base
            and _spec(row) != base
        ]
        on_grid = () if self.grid is None else tuple(_of_grid(base, self.grid, self.info))
        rounded = min(db(ROUNDING[self.info.dtype.name] ** -2) - ROUNDINGS_DB, LOSSLESS_DB)
        again = [level(row) >= rounded for row in (self.row, *found) if _spec(row) in on_grid]
        seen = Seen(
            row=self.row, spec=base, profile=self.profile, grid=self.grid, others=others, duplicates=duplicates,
            is_idempotent=any(again) if again else None,
        )  # fmt: skip
        tried = [self._remedy(row) for row in found]
        singles = [remedy for remedy in tried if _spec(remedy.row) in self.singles]
        fitting = [remedy for remedy in tried if remedy.bits_added <= max_bits_added]
        best = _simplest(fitting)
        return Diagnosis(
            number=number,
            row=self.row,
            findings=find_causes(seen),
            accounting=self._accounting(base),
            remedies=_ranked(singles),
            together=best if best is not None and best.is_useful else None,
        )

    def _remedy(self, row: TensorResult) -> Remedy:
        before, after = level(self.row), level(row)
        gain = 0.0 if before == after else after - before
        added = (row.bits_per_weight or 0.0) - (self.row.bits_per_weight or 0.0)
        return Remedy(row=row, changes=_changes(_spec(self.row), _spec(row)), gain_db=gain, bits_added=added)

    def _accounting(self, spec: QuantSpec) -> Accounting:
        bits = spec.num_bits + (not spec.signed_input)  # a single sign uses all codes
        bits_db, peak = bits * 20 * log10(2), self.profile.slices.peak_db
        measured = level(self.row)
        rest = measured - (bits_db + UNIFORM_DB - peak) if isfinite(measured) and isfinite(peak) else None
        gaussian = db(gaussian_peak(self.profile.slice_size) ** 2)
        return Accounting(bits_db=bits_db, peak_db=peak, gaussian_peak_db=gaussian, rest_db=rest)


def _granularities(base: QuantSpec, info: TensorInfo, workers: Workers) -> Iterator[QuantSpec]:
    """Yield no axis, each axis with sufficiently long slices, and groups, if their ranges fit into memory."""
    plain = replace(base, axis=WHOLE_TENSOR, group_size=None, ragged_groups=False)
    found = [plain, *(replace(plain, axis=axis) for axis in range(len(info.shape)))]
    found += [replace(plain, axis=(0, 1))] if len(info.shape) > 2 else []
    found += [replace(plain, group_size=size) for size in GROUP_SIZES]
    for spec in found:
        if fits(info, spec):
            layout = layout_of(info, spec)
            is_held = layout.is_contiguous or layout.num_slices * QPARAM_BYTES <= workers.max_memory
            if is_held and layout.num_slices * SMALLEST_SLICE <= max(layout.num_elements, SMALLEST_SLICE):
                yield spec


def _estimated(spec: QuantSpec, name: str) -> QuantSpec:
    if name == spec.estimator:
        return spec
    return replace(spec, estimator=name, percentile=PERCENTILE if name == "percentile" else None)


def _of_grid(base: QuantSpec, grid: FoundGrid, info: TensorInfo) -> Iterator[QuantSpec]:
    """Yield the settings that may be lossless on the tensor's grid."""
    if not grid.is_symmetric or grid.values != INTEGERS:
        return
    plain = replace(
        base,
        axis=grid.axis,
        group_size=grid.group_size,
        ragged_groups=False,
        num_bits=grid.num_bits,
        signed_input=grid.signed,
        estimator=DEFAULT_ESTIMATOR,
        percentile=None,
    )
    for narrow in (False, True):
        spec = replace(plain, narrow_range=narrow)
        if fits(info, spec) and (grid.num_bits > 1 or not narrow):
            yield spec


def _rate(info: TensorInfo, spec: QuantSpec, scale_bits: int) -> float:
    """Return bits per weight, as in `TensorResult.bits_per_weight`."""
    return spec.num_bits + layout_of(info, spec).num_slices * scale_bits / max(info.num_elements, 1)


def _changes(own: QuantSpec, spec: QuantSpec) -> dict[str, object]:
    """Return the settings to change, by recipe key."""
    return difference(own, spec) | ({"range": "data"} if own.range_given and not spec.range_given else {})


def _ranked(remedies: Sequence[Remedy]) -> list[Remedy]:
    """Return the best three non-dominated remedies: lossless ones, then free ones, then by dB per added bit."""
    useful = {(r.worth, r.bits_added): r for r in reversed(remedies) if r.is_useful}
    kept = [one for one in useful.values() if not any(_dominates(other, one) for other in useful.values())]
    free = sorted((r for r in kept if r.bits_added <= FREE_BITS), key=lambda r: (-r.worth, r.bits_added))
    paid = sorted((r for r in kept if r.bits_added > FREE_BITS), key=lambda r: (-_per_bit(r), r.bits_added))
    return sorted([*free, *paid], key=lambda remedy: not remedy.is_lossless)[:MAX_REMEDIES]


def _simplest(remedies: Sequence[Remedy]) -> Remedy | None:
    """Return the remedy with the fewest bits, then changes, among those within half of `MIN_GAIN_DB` of the best."""
    most = max((remedy.worth for remedy in remedies), default=-inf)
    near = [remedy for remedy in remedies if remedy.worth >= most - MIN_GAIN_DB / 2]
    return min(near, key=lambda r: (r.bits_added, len(r.changes), -r.worth), default=None)


def _per_bit(remedy: Remedy) -> float:
    return inf if remedy.gain_db == inf else remedy.gain_db / remedy.bits_added


def _dominates(one: Remedy, other: Remedy) -> bool:
    """Tell whether one adds no more bits and gains as much, or, with fewer bits, at most `MIN_GAIN_DB` less."""
    slack = MIN_GAIN_DB if one.bits_added < other.bits_added else 0.0
    mine, its = (one.worth, -one.bits_added), (other.worth, -other.bits_added)
    return mine[0] >= its[0] - slack and mine[1] >= its[1] and mine != its
