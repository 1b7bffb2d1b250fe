"""Request: the Recipe that options and the recipes beneath them describe."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import TypedDict, cast

from qdqcli.errors import UsageError
from qdqcli.op.spec import DEFAULT_ESTIMATOR, WHOLE_TENSOR, ComputeDType, QuantSpec, RoundMode
from qdqcli.recipe import keys
from qdqcli.recipe.axis import BY_TENSOR, fixed_axis
from qdqcli.recipe.file import RecipeFile
from qdqcli.recipe.keys import ERROR
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.rule import Rule, displaced, rule_to_json
from qdqcli.recipe.scheme import settings_of_scheme
from qdqcli.tensors.input_file import digest_of


class Settings(TypedDict, total=False):
    """Options that decide on tensors, as far as a command has them."""

    scheme: str | None
    num_bits: int
    signed_input: bool
    narrow_range: bool
    round_mode: str
    axis: str | int
    group_size: int | None
    ragged_groups: bool
    indivisible: str
    input_min: float | None
    input_max: float | None
    ranges_file: Path | None
    compute_dtype: str
    estimator: str
    percentile: float | None
    include: Sequence[str]
    exclude: Sequence[str]
    min_ndim: int | None
    scale_bits: int
    recipe: Path | None
    presets: Sequence[str]


DEFAULTS: Settings = {
    "num_bits": 8,
    "signed_input": True,
    "narrow_range": False,
    "round_mode": "HALF_TO_EVEN",
    "axis": "none",
    "group_size": None,
    "ragged_groups": False,
    "indivisible": ERROR,
    "input_min": None,
    "input_max": None,
    "ranges_file": None,
    "compute_dtype": "float32",
    "estimator": "minmax",
    "percentile": None,
    "include": (),
    "exclude": (),
    "min_ndim": None,
}
"""Defaults of the options."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Recipe and settings of a measuring command, from its options."""

    recipe: Recipe
    ranges_file: Path | None
    settings: Mapping[str, object]
    """The options that decide the result, as JSON values."""
    scale_bits: int = 16
    """Bits that the scale of a range takes, in the figures of size."""
    has_recipe: bool = False
    """True where a report names the table that decided each setting."""


@dataclass(frozen=True, kw_only=True)
class OptionSources:
    """The options merged with the recipes beneath them."""

    options: Settings
    """Merged options, as if all had been given on the command line."""
    rules: Sequence[Rule] = ()
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Key -> its origins, the effective one last."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The recipes as JSON values, for a report."""


def merge_options(
    options: Settings,
    sources: Sequence[RecipeFile],
    given: Mapping[str, object],
    flags: Mapping[str, str],
    *,
    presets: Sequence[str] = (),
    recipe: Path | None = None,
) -> OptionSources:
    """Merge recipes, a scheme and the given options over the option defaults, in this order.

    `flags` maps each given option to its name in reports.
    """
    merged = _Merged(options=dict(options), places={})
    for source in sources:
        merged.apply(source.defaults, dict.fromkeys((*keys.SETTINGS, *keys.SELECTION), source.place))
    if (scheme := options.get("scheme")) is not None:
        settings = settings_of_scheme(scheme)
        merged.apply(settings, dict.fromkeys(settings, "--scheme"))
    merged.apply(given, flags)
    found = cast(Settings, merged.options)
    if not sources:
        return OptionSources(options=found)
    rules = [rule for source in sources for rule in source.rules]
    described = {
        "presets": list(presets),
        "recipe": None if recipe is None else str(recipe),
        "rules": list(map(rule_to_json, rules)),
    }
    places = {key.removesuffix("_file"): origins for key, origins in merged.places.items()}
    return OptionSources(options=found, rules=rules, places=places, settings=described)


@dataclass(frozen=True, kw_only=True)
class _Merged:
    """Options being merged: a table replaces the settings that it names and those that these exclude."""

    options: dict[str, object]
    places: dict[str, tuple[str, ...]]

    def apply(self, changes: Mapping[str, object], place: Mapping[str, str]) -> None:
        merged = {key: (value, key) for key, value in changes.items()}
        for key, (value, because) in (_replaced(changes) | merged).items():
            if key in changes or self.options.get(key) != value:
                self.options[key] = value
                self.places[key] = (*self.places.get(key, ()), place[because])


def _replaced(changes: Mapping[str, object]) -> dict[str, tuple[object, str]]:
    """Return the settings that a later table displaces: key -> (new value, the setting that displaces it)."""
    found = displaced(changes)
    if "axis" in changes and "group_size" not in changes:
        found["group_size"] = None, "axis"
    for key in ("estimator", "ranges_file"):
        if key in changes and "input_min" not in changes:
            found |= {"input_min": (None, key), "input_max": (None, key)}
    if "ranges_file" in changes and "estimator" not in changes:
        found["estimator"] = DEFAULT_ESTIMATOR, "ranges_file"
    return found


def request_from(sources: OptionSources) -> Request:
    """Return the recipe that the options describe.

    Raises:
        UsageError: options contradict one another, or the op does not take a value.
        InputError: the ranges file cannot be read.
    """
    given = sources.options
    options: Settings = {**DEFAULTS, "compute_dtype": ComputeDType.NATIVE, **given}
    given_range, ranges_file = None, options["ranges_file"]
    if options["input_min"] is not None or options["input_max"] is not None:
        given_range = _given_range(options["input_min"], options["input_max"])
    _check_exclusions(options, given_range, {key for rule in sources.rules for key in rule.changes})
    axis, is_range_given = options["axis"], given_range is not None or ranges_file is not None
    spec = QuantSpec(
        num_bits=options["num_bits"],
        signed_input=options["signed_input"],
        narrow_range=options["narrow_range"],
        round_mode=RoundMode(options["round_mode"]),
        axis=axis if isinstance(axis, int) else fixed_axis(axis),
        group_size=options["group_size"],
        ragged_groups=options["ragged_groups"],
        compute_dtype=ComputeDType(options["compute_dtype"]),
        estimator=options["estimator"],
        percentile=options["percentile"],
        range_given=is_range_given,
        given_range=given_range,
    )
    recipe = Recipe(
        spec=spec,
        axis=str(axis) if axis in BY_TENSOR else None,
        include=options["include"],
        exclude=options["exclude"],
        min_ndim=options["min_ndim"],
        indivisible=options["indivisible"],
        rules=sources.rules,
        places=sources.places,
    )
    settings: dict[str, object] = {}
    for name, value in options.items():
        if name in SETTINGS and name in given:
            plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, str | Path) else value
            settings[name.removesuffix("_file")] = plain
    if ranges_file is not None:  # counts by its digest: a name says nothing of the content
        settings["ranges_digest"] = digest_of(ranges_file)
    return Request(
        recipe=recipe,
        ranges_file=ranges_file,
        settings={**settings, **sources.settings},
        scale_bits=options.get("scale_bits", 16),
        has_recipe=bool(sources.settings),
    )


SETTINGS = (*DEFAULTS, "scale_bits")
"""Options that decide the numbers of a report, and that it names."""


def _check_exclusions(
    options: Settings, given_range: tuple[float, float] | None, set_by_rules: Collection[str]
) -> None:
    """Refuse options that exclude others, or that need others; rules may set what these need."""
    ranges_file, axis, group_size = options["ranges_file"], options["axis"], options["group_size"]
    if given_range is not None and ranges_file is not None:
        raise UsageError("--ranges excludes --input-min and --input-max; give one of them")
    if group_size is not None and axis not in ("none", WHOLE_TENSOR):
        raise UsageError(f"--group-size excludes --axis {axis}; give one of them")
    has_groups = group_size is not None or "group_size" in set_by_rules
    if options["ragged_groups"] and not has_groups:
        raise UsageError("--ragged-groups needs --group-size")
    if options["indivisible"] != ERROR:
        if not has_groups:
            raise UsageError("--indivisible needs --group-size")
        if options["ragged_groups"]:
            raise UsageError("--ragged-groups excludes --indivisible: with it groups divide every tensor")
    if "estimator" in set_by_rules:
        return
    name = options["estimator"]
    if (given_range is not None or ranges_file is not None) and name != DEFAULT_ESTIMATOR:
        raise UsageError(f"--estimator {name} chooses ranges that are not given; leave it out, or the given ones")
    if options["percentile"] is not None and name != "percentile":
        raise UsageError("--percentile needs --estimator percentile")


def _given_range(low: float | None, high: float | None) -> tuple[float, float]:
    if low is None or high is None:
        raise UsageError("--input-min and --input-max belong together; give both or neither")
    if isnan(low) or isnan(high) or low > high:
        raise UsageError(f"--input-min {low} and --input-max {high} are no range; min <= max must hold")
    return low, high
