"""Rule: the settings for the tensors that it matches, and how successive rules combine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from qdqcli.escape import escape_name
from qdqcli.op.spec import DEFAULT_ESTIMATOR
from qdqcli.recipe.axis import NONE
from qdqcli.recipe.keys import ERROR

Changes = Mapping[str, object]
"""Recipe key -> value; a group size of None means no groups."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One `[[rules]]` table of a recipe."""

    patterns: Sequence[str]
    changes: Changes = field(default_factory=dict)
    """The settings that it names."""
    skip: str | None = None
    """Reason to skip its tensors."""
    lifts_skip: bool = False
    """True where it ends the `skip` of an earlier rule."""
    is_optional: bool = False
    """True where it may match nothing."""
    source: str
    """The file, as the user gave it, or `preset NAME`."""
    number: int
    """Position among the rules of its source, from 1."""
    line: int
    prefix: str = ""
    """Prefix that distinguishes the rules of several sources."""

    @property
    def place(self) -> str:
        """Its name in reports: `rule 2 (line 9)`."""
        return f"{self.prefix}rule {self.number} (line {self.line})"

    @property
    def where(self) -> str:
        """Its name at the start of a message."""
        return f"{self.source}:{self.line}: rule {self.number}"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Value of one setting of one tensor, with the places that decided it."""

    value: Any
    places: tuple[str, ...] = ()
    """Its origins, the effective one last; empty for a built-in default."""

    def over(self, value: object, place: str) -> "Placed":
        """Return a setting with a new value that overrides this one."""
        return Placed(value=value, places=(*self.places, place))


PlacedSettings = dict[str, Placed]
"""Recipe key -> its value, plus `skip` (the reason or None) and `ranges` (True where a file gives the ranges)."""


def displaced(changes: Changes) -> dict[str, tuple[object, str]]:
    """Return the settings that `changes` exclude: key -> (new value, the setting that displaces it)."""
    found: dict[str, tuple[object, str]] = {}
    if changes.get("group_size") is not None and "axis" not in changes:
        found["axis"] = NONE, "group_size"
    if "input_min" in changes:
        found |= {"estimator": (DEFAULT_ESTIMATOR, "input_min"), "percentile": (None, "input_min")}
    elif changes.get("estimator", "percentile") != "percentile" and "percentile" not in changes:
        found["percentile"] = None, "estimator"
    return found


def overridden(under: Changes, over: Changes) -> dict[str, object]:
    """Merge two tables: a setting of `over` displaces those of `under` that it excludes."""
    displaces = {key: value for key, (value, _) in displaced(over).items() if key in under}
    if over.get("axis", NONE) != NONE and under.get("group_size") is not None:
        displaces["group_size"] = None
    return {**under, **displaces, **over}


def apply_rule(settings: PlacedSettings, rule: Rule) -> Iterator[str]:
    """Apply a rule to the settings of a tensor; yields its contradictions."""
    skip, changes = settings["skip"], rule.changes
    if skip.value is not None and changes and not rule.lifts_skip:
        yield (
            f"sets {listed_keys(changes)} for {{tensors}}, skipped by {skip.places[-1]}; put the skip after it, "
            "or lift it with skip = false"
        )
        return
    if rule.skip is not None or (rule.lifts_skip and skip.value is not None):
        settings["skip"] = skip.over(rule.skip, rule.place)
    yield from _contradictions(settings, changes)
    for key, (value, _) in displaced(changes).items():
        if settings[key].value != value:
            settings[key] = settings[key].over(value, rule.place)
    if "estimator" in changes and settings["ranges"].value is not None:
        settings["ranges"] = settings["ranges"].over(None, rule.place)
    for key, value in changes.items():
        settings[key] = settings.get(key, Placed(value=None)).over(value, rule.place)
    if changes.get("ragged_groups") and settings["group_size"].value is None:
        yield "sets ragged_groups for {tensors}, where no group_size holds; set it too"
    if changes.get("indivisible", ERROR) != ERROR and settings["group_size"].value is None:
        yield "sets indivisible for {tensors}, where no group_size holds; set it too"
    if "percentile" in changes and settings["estimator"].value != "percentile":
        yield 'sets percentile for {tensors}, whose estimator is another; set estimator = "percentile" too'


def _contradictions(settings: PlacedSettings, changes: Changes) -> Iterator[str]:
    group_size = settings["group_size"]
    if "axis" in changes and "group_size" not in changes and group_size.value is not None:
        yield (
            f"sets axis for {{tensors}}, where group_size {group_size.value} of {_origin(group_size)} holds; "
            'add group_size = "none" to the rule, or narrow its match'
        )
    given = settings["input_min"]
    if "estimator" in changes and "input_min" not in changes and given.value is not None:
        yield (
            f"sets estimator for {{tensors}}, whose range is given by {_origin(given)}; narrow its match, or leave out "
            "one of the two"
        )


def _origin(setting: Placed) -> str:
    return setting.places[-1] if setting.places else "the defaults"


def listed_keys(changes: Changes) -> str:
    """Return the keys for a message: `num_bits and group_size`."""
    keys = [escape_name(key) for key in changes]
    return " and ".join([", ".join(keys[:-1])] * (len(keys) > 1) + keys[-1:])


def rule_to_json(rule: Rule) -> dict[str, object]:
    """Return the rule as a JSON recipe has it, with its place."""
    skip = {"skip": rule.skip} if rule.skip is not None else {"skip": False} if rule.lifts_skip else {}
    optional = {"optional": True} if rule.is_optional else {}
    changes = {key: NONE if value is None else _finite(value) for key, value in rule.changes.items()}
    return {"place": rule.place, "match": list(rule.patterns), **changes, **skip, **optional}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value
