"""Recipe: the tensors to quantize and their settings; a selection that matches nothing is an error."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from qdqcli.errors import SpecError, UsageError
from qdqcli.measure.layout import layout_of
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import JsonObject
from qdqcli.recipe.axis import BY_TENSOR, CHANNEL, NONE, STACKED_NDIM, axis_of, holds_stacked_experts, word_of
from qdqcli.recipe.decision import TOO_FEW, Contradiction, Decision, Resolution, Skip
from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.findings import RuleFinding, check_rules, findings_of
from qdqcli.recipe.keys import ERROR, PLANNING, SETTINGS, SKIP
from qdqcli.recipe.patterns import (
    Covering,
    Holders,
    Tables,
    compile_pattern,
    holders_of,
    listed,
    matches_any,
    unmatched,
)
from qdqcli.recipe.rule import Placed, PlacedSettings, Rule, apply_rule
from qdqcli.tensors.tensor import DTYPES, DType, TensorInfo

MAX_NDIM = 64
"""NumPy's limit."""
NO_FLOAT = "is not a floating-point dtype"
"""End of the reason for skipping integers."""
DEFAULT_MIN_NDIM = 2
"""Default on the command line: biases and norms stay in float."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Facts on the tensors beyond their headers, as sequences in the tensors' order."""

    files: Sequence[FileRef]
    untouched: Sequence[Skip | None]
    """Reason to skip a tensor regardless of the recipe; None where it may be quantized."""
    min_ndims: Sequence[int]
    """`min_ndim` of each tensor where the recipe has none."""
    shards: Sequence[tuple[FileRef, int]] = ()
    """File and that `min_ndim` of each shard; empty where the shards are not known."""

    @classmethod
    def of(cls, tensors: Sequence[TensorInfo]) -> Self:
        """Return the context that follows from the headers alone."""
        return cls(
            files=[FileRef(tensor.shard, tensor.shard.count("/") + 1) for tensor in tensors],
            untouched=[None if tensor.dtype.is_floating else why_untouched(tensor.dtype) for tensor in tensors],
            min_ndims=[DEFAULT_MIN_NDIM] * len(tensors),
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Selection and settings for the tensors of a checkpoint."""

    spec: QuantSpec
    """Settings of every selected tensor before any rule."""
    axis: str | None = None
    """`last` or `channel`: the axis depends on the tensor; None: it is that of `spec`."""
    include: Sequence[str] = ()
    """Patterns; empty selects every tensor."""
    exclude: Sequence[str] = ()
    """Patterns; they override `include` and rules."""
    min_ndim: int | None = 0
    """Tensors with fewer dimensions are skipped; None takes the value of the context."""
    indivisible: str = ERROR
    """Treatment of a tensor whose last dimension the group size does not divide: `error`, `skip` or `channel`."""
    skips_misfits: bool = False
    """Skip tensors that cannot take their settings, with the reason, instead of raising an error."""
    rules: Sequence[Rule] = ()
    """Rules in order; they override the settings above."""
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Recipe key -> its origins before any rule, the effective one last: `[defaults] (line 3)`, `--axis`."""

    def decide(
        self, tensors: Sequence[TensorInfo], *, allow_unmatched: bool = False
    ) -> tuple[list[Decision], list[str]]:
        """Return one decision per tensor, and warnings; raises like `resolve`."""
        resolutions, warnings = self.resolve(tensors, allow_unmatched=allow_unmatched)
        return [resolution.decision for resolution in resolutions], warnings

    def resolve(
        self, tensors: Sequence[TensorInfo], context: Context | None = None, *, allow_unmatched: bool = False
    ) -> tuple[list[Resolution], list[str]]:
        """Return one resolution per tensor, and warnings.

        Raises:
            UsageError: a pattern or a rule matches no tensor (a warning with `allow_unmatched`); rules contradict what
                came before them, or decide nothing; selected tensors lack the axis or do not divide into groups.
        """
        context = context or Context.of(tensors)
        holders = _holders(tensors, context) if self.include or self.exclude or self.rules else {}
        warnings = [
            unmatched(pattern, holders)
            for pattern in (*self.include, *self.exclude)
            if not matches_any(pattern, holders)
        ]
        if warnings and not allow_unmatched:
            raise UsageError(f"{warnings[0]}; --allow-unmatched makes this a warning")
        numbers = Tables(self.rules, holders).numbers if self.rules else None
        resolutions = self._by_rules(tensors, context, numbers)
        if self.rules:
            warnings += check_rules(self.rules, tensors, resolutions, holders, allow_unmatched=allow_unmatched)
        if self.include or self.exclude:
            resolutions = self._selected(tensors, context, resolutions, holders)
        return self._fitted(tensors, resolutions), warnings

    def findings(self, tensors: Sequence[TensorInfo], context: Context) -> list[RuleFinding]:
        """Return all errors in the rules for these tensors."""
        holders = _holders(tensors, context)
        by_rules = self._by_rules(tensors, context, Tables(self.rules, holders).numbers)
        return findings_of(self.rules, tensors, by_rules, holders)

    def findings_without_tensors(self) -> list[RuleFinding]:
        """Return the errors in the rules for any tensors: each pattern stands for the tensors that it matches."""
        covering = Covering(self.rules)
        patterns = dict.fromkeys(pattern for rule in self.rules for pattern in rule.patterns)
        tensors = [TensorInfo(name=pattern, dtype=DTYPES["F32"], shape=(1,) * MAX_NDIM, shard="", start=0, nbytes=4)
                   for pattern in patterns]  # fmt: skip
        context = Context.of(tensors)
        by_rules = self._by_rules(tensors, context, covering.numbers)
        return findings_of(self.rules, tensors, by_rules, _holders(tensors, context))

    def _by_rules(
        self,
        tensors: Sequence[TensorInfo],
        context: Context,
        numbers: Callable[[str, FileRef], tuple[int, ...]] | None,
    ) -> list[Resolution]:
        """Apply the rules to each tensor, selected or not. Tensors of a kind share a resolution.

        `numbers` returns the indices of the rules that match; None without rules.
        """
        min_ndims = context.min_ndims if self.min_ndim is None else [self.min_ndim] * len(tensors)
        bases = {least: self._base(least) for least in set(min_ndims)}
        known: dict[tuple[Skip | None, tuple[int, ...], int, int, bool], Resolution] = {}
        resolutions = []
        for tensor, file, untouched, least in zip(tensors, context.files, context.untouched, min_ndims, strict=True):
            ndim = len(tensor.shape)
            is_stacked = ndim == STACKED_NDIM and holds_stacked_experts(tensor.name)
            kind = untouched, () if numbers is None else numbers(tensor.name, file), ndim, least, is_stacked
            found = known.get(kind)
            if found is None:
                rules = [self.rules[number] for number in kind[1]]
                found = _resolved(bases[least], self.spec, rules, ndim, is_stacked=is_stacked)
                if untouched is not None:
                    is_selected = untouched.is_selected and isinstance(found.decision, QuantSpec)
                    skip = replace(untouched, is_selected=is_selected)
                    found = Resolution(decision=skip, settings={}, rules=rules)
                known[kind] = found
            resolutions.append(found)
        return resolutions

    def _selected(
        self, tensors: Sequence[TensorInfo], context: Context, by_rules: Sequence[Resolution], holders: Holders
    ) -> list[Resolution]:
        """Replace the resolutions of tensors that `include` and `exclude` leave out by skips."""
        includes = [compile_pattern(pattern, holders) for pattern in self.include]
        excludes = [(compile_pattern(pattern, holders), self._left_alone("exclude", f"excluded by '{pattern}'"))
                    for pattern in self.exclude]  # fmt: skip
        not_included = self._left_alone("include", "not included")

        def left_alone(tensor: TensorInfo, file: FileRef) -> Resolution | None:
            for matches, excluded in excludes:
                if matches(tensor.name, file):
                    return excluded
            return None if not includes or any(matches(tensor.name, file) for matches in includes) else not_included

        def select(tensor: TensorInfo, file: FileRef, untouched: Skip | None, found: Resolution) -> Resolution:
            alone = left_alone(tensor, file)
            if untouched is None or alone is None:
                return alone or found
            return replace(found, decision=replace(untouched, is_selected=False))

        return list(map(select, tensors, context.files, context.untouched, by_rules))

    def _fitted(self, tensors: Sequence[TensorInfo], resolutions: Sequence[Resolution]) -> list[Resolution]:
        """Fit the settings to the shape of each tensor. Tensors of a kind share a resolution.

        Raises:
            UsageError: selected tensors lack the axis or do not divide into groups.
        """
        known: dict[tuple[int, tuple[int, ...], bool], Resolution] = {}
        refused: dict[int, UsageError] = {}
        fitted = []
        for tensor, resolution in zip(tensors, resolutions, strict=True):
            kind = id(resolution), tensor.shape, tensor.fortran_order
            if kind not in known:
                found, spec = resolution, resolution.decision
                if isinstance(spec, QuantSpec) and spec.group_size is not None:
                    found = _divided(resolution, tensor)
                try:
                    if isinstance(found.decision, QuantSpec):
                        layout_of(tensor, found.decision)
                except UsageError as error:
                    found = replace(found, decision=Skip(reason=str(error), is_misfit=True))
                    refused[id(found)] = error
                known[kind] = found
            fitted.append(known[kind])
        if refused and not self.skips_misfits:
            raise _refusal_of_shapes(tensors, fitted, refused)
        return fitted

    def _base(self, min_ndim: int) -> PlacedSettings:
        """Return the settings before any rule, common to all tensors with that default of `min_ndim`."""
        spec = self.spec
        low, high = spec.given_range or (None, None)
        values: JsonObject = {key: getattr(spec, key) for key in SETTINGS if hasattr(spec, key)}
        values |= {
            "axis": self.axis or word_of(spec.axis),
            "input_min": low,
            "input_max": high,
            "percentile": spec.percentile if spec.estimator == "percentile" else None,
            "min_ndim": min_ndim,
            "indivisible": self.indivisible,
            "skip": None,
            "ranges": True if spec.range_given and spec.given_range is None else None,
        }
        return {key: Placed(value=value, places=tuple(self.places.get(key, ()))) for key, value in values.items()}

    def _left_alone(self, key: str, reason: str) -> Resolution:
        setting = Placed(value=getattr(self, key), places=tuple(self.places.get(key, ())))
        return Resolution(decision=Skip(reason=reason), settings={key: setting})


def why_untouched(dtype: DType) -> Skip:
    """Return the reason why tensors of the dtype, which is not a floating-point one, cannot be quantized."""
    if dtype.is_packed:
        return Skip(reason=f"{dtype.name} is already quantized", is_selected=True)
    if dtype.is_integer or dtype.is_opaque:
        return Skip(reason=f"{dtype.name} {NO_FLOAT}")
    floats = ", ".join(known.name for known in DTYPES.values() if known.is_floating)
    return Skip(reason=f"{dtype.name} is not one of {floats}", is_selected=True)


def _holders(tensors: Sequence[TensorInfo], context: Context) -> Holders:
    return holders_of((tensor.name, file) for tensor, file in zip(tensors, context.files, strict=True))


def why_nothing(decisions: Sequence[Decision]) -> str:
    """Return the reasons why no tensor is quantized."""
    reasons = [decision.reason for decision in decisions if isinstance(decision, Skip)]
    if not reasons:
        return "the input has no tensors"

    def described(reason: str, count: int) -> str:
        advice = f" (--min-ndim 0 takes {'them' if count > 1 else 'it'})" if reason.startswith(TOO_FEW) else ""
        return f"{count} tensor{'s' * (count > 1)}: {reason}{advice}"

    return "; ".join(described(reason, count) for reason, count in Counter(reasons).items())


def _resolved(
    base: PlacedSettings, spec: QuantSpec, rules: Sequence[Rule], ndim: int, *, is_stacked: bool = False
) -> Resolution:
    """Apply the rules that match a tensor of `ndim` dimensions, in order; `is_stacked` where it holds several experts.

    `spec` holds the settings of `base` and is returned unchanged where no rule matches.
    """
    settings = dict(base)
    problems = [Contradiction(rule=rule, text=text) for rule in rules for text in apply_rule(settings, rule)]
    if settings["skip"].value is not None:
        return _skipped(settings, "skip", settings["skip"].value, rules, problems)
    if ndim < settings["min_ndim"].value:
        reason = f"{TOO_FEW} {settings['min_ndim'].value} dimensions"
        return _skipped(settings, "min_ndim", reason, rules, ())
    if not rules and settings["axis"].value not in BY_TENSOR:
        return Resolution(decision=spec, settings=settings)
    try:
        decision = _spec(settings, spec, ndim, is_stacked=is_stacked)
    except SpecError as error:  # the op takes each value, but not their combination
        text = f"leaves {{tensors}} with settings that the op refuses: {error}"
        problems = problems or [Contradiction(rule=rules[-1], text=text)]
        decision = spec
    return Resolution(decision=decision, settings=settings, rules=rules, problems=problems)


def _divided(resolution: Resolution, tensor: TensorInfo) -> Resolution:
    """Return the resolution for one tensor: applies `indivisible` where groups do not divide its last dimension."""
    spec, settings, shape = resolution.decision, resolution.settings, tensor.shape
    if not isinstance(spec, QuantSpec) or spec.group_size is None or spec.ragged_groups:
        return resolution
    way = settings["indivisible"]
    if way.value == ERROR or (shape[-1] if shape else 1) % spec.group_size == 0:
        return resolution
    if way.value == SKIP:
        reason = f"group_size {spec.group_size} does not divide the last dimension"
        return replace(resolution, decision=Skip(reason=reason, is_misfit=True), settings={"indivisible": way})
    place = way.places[-1] if way.places else "--indivisible"
    is_stacked = len(shape) == STACKED_NDIM and holds_stacked_experts(tensor.name)
    axis = axis_of(CHANNEL if len(shape) > 1 else NONE, len(shape), is_stacked=is_stacked)
    changed = {
        "axis": settings["axis"].over(word_of(axis), place),
        "group_size": settings["group_size"].over(None, place),
    }
    return replace(resolution, decision=replace(spec, group_size=None, axis=axis), settings={**settings, **changed})


def _skipped(
    settings: PlacedSettings, key: str, reason: str, rules: Sequence[Rule], problems: Sequence[Contradiction]
) -> Resolution:
    return Resolution(decision=Skip(reason=reason), settings={key: settings[key]}, rules=rules, problems=problems)


def _spec(settings: PlacedSettings, spec: QuantSpec, ndim: int, *, is_stacked: bool) -> QuantSpec:
    values = {key: setting.value for key, setting in settings.items()}
    values["axis"] = axis_of(values["axis"], ndim, is_stacked=is_stacked)
    low, high = values.pop("input_min"), values.pop("input_max")
    is_from_file = values.pop("ranges") is not None
    for key in ("skip", "min_ndim", "indivisible", *PLANNING):
        values.pop(key, None)
    return replace(
        spec, **values, range_given=is_from_file or low is not None, given_range=None if low is None else (low, high)
    )


def _refusal_of_shapes(
    tensors: Sequence[TensorInfo], resolutions: Sequence[Resolution], refused: Mapping[int, UsageError]
) -> UsageError:
    """Return one error for all tensors that cannot take their settings; `refused` has that of each resolution's id."""
    bad = [(tensor, found) for tensor, found in zip(tensors, resolutions, strict=True) if id(found) in refused]
    resolution = bad[0][1]
    first = refused[id(resolution)]
    lacks_axis = isinstance(first, SpecError) and "axis is" in str(first)
    place = resolution.decided_by.get("axis" if lacks_axis else "group_size", "--")
    by = "" if place.startswith("--") else f", set by {place}"
    if lacks_axis:
        advice = "--min-ndim, --exclude or a rule with skip leaves them alone"
    elif isinstance(first, SpecError):
        advice = (
            "--ragged-groups shortens the last group of each row, --indivisible skip leaves them in float, "
            "--indivisible channel gives them one range per channel"
        )
    else:
        advice = "--exclude or a rule with skip leaves them alone"
    names = listed([tensor.name for tensor, _ in bad])
    return UsageError(f"{first}{by}; {len(bad)} of the selected tensors: {names}; {advice}")
