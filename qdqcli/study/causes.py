"""Causes of a large error of a tensor, each with its threshold and its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2, sqrt

from qdqcli.op.spec import QuantSpec
from qdqcli.plain import Parsed
from qdqcli.recipe.axis import word_of
from qdqcli.result.result import TensorResult
from qdqcli.stats.metrics import MetricValue
from qdqcli.study.grid import FoundGrid
from qdqcli.study.profile import Profile, db, gaussian_peak

NONFINITE = "nonfinite"
DEGENERATE = "degenerate"
ALREADY_QUANTIZED = "already-quantized"
OUTLIER_ROWS = "outlier-rows"
WRONG_AXIS = "wrong-axis"
HEAVY_TAILS = "heavy-tails"
OUTLIER_ELEMENTS = "outlier-elements"
COARSE_GROUP = "coarse-group"
UNUSED_CODES = "unused-codes"
ASYMMETRIC = "asymmetric"
DUPLICATE = "duplicate"
PLAIN = "plain"
EXCESS_DB, EXCESS_ONE_DB = 1.0, 3.5
"""Excess in dB over the Gaussian peak that makes a peak conspicuous: 1 dB plus 3.5 dB over the root of the number of
slices. The peak of one slice of 2,000 Gaussian numbers is 3.5 dB above its expectation once in 7,000 draws, 4.5 dB in
300,000.
"""
EXPLAINED_DB = 1.0
"""Outliers explain a peak where the peak without them is this near to the Gaussian one; twice that for one slice."""
OUTLIER_SHARE = 0.01
"""Largest share of outliers; more are a heavy tail."""
COLUMNS_SHARE = 0.5
"""Outstanding columns are the cause where, without them, the excess of the peak is at most half, in dB."""
SMALLEST_SLICE = 16
"""Smallest slice to try: scales of shorter ones cost a bit and more per weight, and their bounds are random."""
AXIS_DB = 3.0
"""Minimum gain of another axis beyond the Gaussian gain of shorter slices: half a bit."""
VARIATION = 0.3
"""Relative deviation of the slices' mean |x| from which they differ in size; 16 random elements deviate by 0.2."""
COARSE_DB = 0.7
"""Minimum gain per halving of the slices beyond Gaussian data: 1 dB where Gaussian data gain 0.3 to 0.7."""
KURTOSIS = 3.2
"""Threshold of the median kurtosis over pieces of 32: 2.7 for Gaussian data, 3.0 for Student's t with 10 degrees of
freedom, 3.6 with 5, 4.1 for Laplace's distribution. It varies by 0.05 over 1,000 pieces.
"""
LIKE_GAUSSIAN = 2.9
"""Kurtosis below which pieces are Gaussian: an excess then comes from differences between pieces."""
OFFSET_DB = 1.6
"""Minimum gain of a zero point beyond Gaussian data: one bound of the range is 1.5 times the other."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class CauseFound:
    """A cause that holds, with its evidence as JSON values."""

    cause: str
    evidence: Parsed


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Measurements of a tensor, from which causes are found."""

    row: TensorResult
    """Row under the given setting."""
    spec: QuantSpec
    """The given setting, its range taken from the data."""
    profile: Profile
    grid: FoundGrid | None
    others: Sequence[tuple[TensorResult, int]]
    """Rows with only the axis or the group size changed, and the elements of a slice."""
    duplicates: Sequence[str]
    """Names of tensors with equal bytes."""
    is_idempotent: bool | None = None
    """True if the op, at the bits and slices of the grid, gives the tensor back; None where it has no such grid."""

    @property
    def is_conspicuous(self) -> bool:
        """True where the peaks exceed those of Gaussian data."""
        return self.profile.excess_db > EXCESS_DB + EXCESS_ONE_DB / sqrt(max(self.profile.slices.count, 1))

    def surplus_db(self, other: TensorResult, size: int) -> float:
        """Return the gain in dB of another granularity beyond its gain on Gaussian data."""
        before, after = level(self.row), level(other)
        if before in (inf, -inf) or after in (inf, -inf):
            return 0.0
        return after - before - max(db((gaussian_peak(self.profile.slice_size) / gaussian_peak(size)) ** 2), 0.0)


def level(row: TensorResult) -> float:
    """Return the SQNR in dB; infinite where no element changed, minus infinity where none could be measured."""
    found: MetricValue = row.stats["sqnr_db"]
    if found is not None:
        return float(found)
    return inf if row.is_exact and row.sums.num_measured and not row.sums.num_nonfinite_output else -inf


def find_causes(seen: Seen) -> list[CauseFound]:
    """Return the causes that hold, the verdict first; `plain` where none does."""
    found = [*_spoilt(seen)]
    if seen.grid is not None:
        grid = seen.grid
        evidence = {
            "num_bits": grid.num_bits,
            "symmetric": grid.is_symmetric,
            "signed_input": grid.signed,
            "axis": word_of(grid.axis),
            "group_size": grid.group_size,
            "values": grid.values,
            "block": grid.block,
            "slices": grid.share,
            "is_idempotent": seen.is_idempotent,
        }
        found.append(CauseFound(cause=ALREADY_QUANTIZED, evidence=evidence))
    elif seen.profile.slices.count and level(seen.row) != inf:
        found += _of_peaks(seen)
        found += _of_sides(seen)
    if seen.duplicates:
        found.append(CauseFound(cause=DUPLICATE, evidence={"tensors": list(seen.duplicates)}))
    return found or [CauseFound(cause=PLAIN, evidence={})]


def _spoilt(seen: Seen) -> list[CauseFound]:
    sums, profile = seen.row.sums, seen.profile
    found = []
    if sums.num_nonfinite:
        first = None if profile.first_nonfinite is None else list(profile.first_nonfinite)
        found.append(CauseFound(cause=NONFINITE, evidence={"count": sums.num_nonfinite, "first": first}))
    if seen.row.num_spoilt_slices and not sums.num_nonfinite:
        evidence = {
            "slices": seen.row.num_spoilt_slices,
            "of": seen.row.num_slices,
            "subnormal_slices": profile.tiny_slices,
        }
        found.append(CauseFound(cause=DEGENERATE, evidence=evidence))
    return found


def _of_peaks(seen: Seen) -> list[CauseFound]:
    """Return the causes of ranges wider than those of Gaussian data."""
    profile, size = seen.profile, seen.profile.slice_size
    columns = _indices(profile, "columns")
    is_few = _are_few_elements(seen)
    if is_few and not columns and not _indices(profile, "rows"):
        return [_outliers(profile)]
    found = _across(seen)
    if found or not seen.is_conspicuous:
        return found
    if is_few or (columns and profile.trimmed_excess_db < COLUMNS_SHARE * profile.excess_db):
        return [_outliers(profile)]
    if profile.kurtosis > KURTOSIS:
        return [_heavy_tails(profile)]
    smaller = [
        (seen.surplus_db(row, other) / log2(size / other), row, other)
        for row, other in seen.others
        if row.spec is not None and row.spec.group_size is not None and other < size
    ]
    best = max(smaller, key=lambda part: part[0], default=None)
    if best is None or (best[0] <= COARSE_DB and profile.kurtosis > LIKE_GAUSSIAN):
        return [_heavy_tails(profile)]
    _, row, other = best
    evidence = {
        "slice": size,
        "group_size": other,
        "gain_db": level(row) - level(seen.row),
        "gaussian_gain_db": db((gaussian_peak(size) / gaussian_peak(other)) ** 2),
    }
    return [CauseFound(cause=COARSE_GROUP, evidence=evidence)]


def _are_few_elements(seen: Seen) -> bool:
    """Tell whether outliers are few and nothing is conspicuous without them and without outstanding columns."""
    profile = seen.profile
    explained = EXPLAINED_DB + EXPLAINED_DB / sqrt(profile.slices.count)
    return (
        seen.is_conspicuous
        and profile.trimmed_excess_db < explained
        and profile.kurtosis <= KURTOSIS
        and profile.num_outliers <= OUTLIER_SHARE * profile.num_elements
    )


def _outliers(profile: Profile) -> CauseFound:
    evidence = {
        "count": profile.num_outliers,
        "share": profile.num_outliers / profile.num_elements,
        "first": [list(index) for index in profile.outliers],
        "columns": _indices(profile, "columns"),
        "excess_db_without": profile.trimmed_excess_db,
    }
    return CauseFound(cause=OUTLIER_ELEMENTS, evidence=evidence)


def _heavy_tails(profile: Profile) -> CauseFound:
    return CauseFound(cause=HEAVY_TAILS, evidence={"kurtosis": profile.kurtosis})


def _across(seen: Seen) -> list[CauseFound]:
    """Return the finding that another axis is much better, or that a few rows alone are the reason."""
    # Heavy tails grow with the slice size on any axis, and the peak of a single slice may be due to chance.
    is_doubtful = seen.profile.kurtosis > KURTOSIS or not seen.is_conspicuous
    axes = [
        (seen.surplus_db(row, size), row)
        for row, size in seen.others
        if row.spec is not None and row.spec.group_size is None and not (is_doubtful and _is_even(seen.profile, row))
    ]
    if not axes:
        return []
    surplus, best = max(axes, key=lambda part: part[0])
    if surplus <= AXIS_DB or best.spec is None:
        return []
    profile, gain = seen.profile, level(best) - level(seen.row)
    rows = profile.rows
    if best.spec.axis == 0 and rows is not None:
        out = rows.standing_out()
        if out:
            evidence = {"count": len(out), "rows": _indices(profile, "rows"), "gain_db": gain}
            return [CauseFound(cause=OUTLIER_ROWS, evidence=evidence)]
    evidence = {
        "axis": word_of(best.spec.axis),
        "gain_db": gain,
        "gaussian_gain_db": gain - surplus if surplus < gain else 0.0,
        "columns": _indices(profile, "columns"),
    }
    return [CauseFound(cause=WRONG_AXIS, evidence=evidence)]


def _is_even(profile: Profile, row: TensorResult) -> bool:
    """Tell whether the slices of an axis have similar sizes (mean |x|)."""
    if row.spec is None or row.spec.axis not in (0, len(row.source.shape) - 1):
        return True
    index = profile.rows if row.spec.axis == 0 else profile.columns
    return index is None or index.variation < VARIATION


def _of_sides(seen: Seen) -> list[CauseFound]:
    """Return the finding that codes of one sign are wasted."""
    profile, spec = seen.profile, seen.spec
    evidence = {"input_min": profile.low, "input_max": profile.high}
    if not spec.signed_input or profile.low == profile.high:
        return []
    if profile.low >= 0 or profile.high <= 0:
        return [CauseFound(cause=UNUSED_CODES, evidence={**evidence, "unused": 0.5})]
    if profile.offset_db > OFFSET_DB and profile.slice_size >= SMALLEST_SLICE:
        gain = profile.trimmed.offset_db
        return [CauseFound(cause=ASYMMETRIC, evidence={**evidence, "zero_point_db": gain})]
    return []


def _indices(profile: Profile, name: str) -> list[dict[str, object]]:
    """Return the outstanding rows or columns, if few: index and ratio to the median."""
    index = profile.rows if name == "rows" else profile.columns
    if index is None:
        return []
    return [{"index": k, "ratio": index.ratio(k)} for k in index.standing_out()[:_SHOWN]]
