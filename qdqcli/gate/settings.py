"""Comparison of run settings: figures measured with different settings are not comparable."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from json import dumps
from pathlib import PurePath

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.gate.budget import Budget
from qdqcli.gate.keys import RUN_SETTINGS
from qdqcli.op.spec import DEFAULT_PERCENTILE, WHOLE_TENSOR
from qdqcli.recipe.axis import NONE

_DIGEST = "sha256:"


def comparable(settings: Mapping[str, object]) -> dict[str, object]:
    """Normalize the settings of a report, by key of `RUN_SETTINGS`: equivalent settings become equal.

    A recipe counts as a digest of its rules, without their lines; a ranges file as a digest of its content. A setting
    that the report lacks is left out.
    """
    found = _normalized({key: settings[key] for key in RUN_SETTINGS if key in settings})
    if "ranges_digest" in settings:
        found["ranges"] = f"{_DIGEST}{settings['ranges_digest']}"
    if "num_bits" in found:
        rules = _without_lines(settings.get("rules"))
        found["rules"] = sha256(dumps(rules, sort_keys=True).encode()).hexdigest()[:16] if rules else NONE
    return found


def _without_lines(rules: object) -> object:
    """Return the rules of a report of any origin, without the lines where they stand in a recipe."""
    if not isinstance(rules, list):
        return rules
    return [{**rule, "place": None} if isinstance(rule, dict) else rule for rule in rules]


def _normalized(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings in one spelling, whether a report or a person wrote them."""
    found = {key: NONE if value is None else value for key, value in settings.items()}
    if found.get("axis") == WHOLE_TENSOR:
        found["axis"] = NONE
    if "round_mode" in found:
        found["round_mode"] = str(found["round_mode"]).upper()
    if found.get("estimator") == "percentile" and found.get("percentile", NONE) == NONE:
        found["percentile"] = DEFAULT_PERCENTILE
    if "ranges" in found:
        found["ranges"] = PurePath(str(found["ranges"])).name
    for key in ("include", "exclude", "map"):
        if isinstance(patterns := found.get(key), list):
            found[key] = sorted(patterns)
    return found


def check_settings(budget: Budget, settings: Mapping[str, object]) -> None:
    """Check that a run has the settings that the budget was made for.

    Raises:
        UsageError: the settings differ; names each one.
    """
    if budget.settings is None:
        return
    was, now = _normalized(budget.settings.values), comparable(settings)
    if "ranges" in settings and not str(was.get("ranges")).startswith(_DIGEST):  # a name, written by hand
        now |= _normalized({"ranges": settings["ranges"]})
    found = "; ".join(f"{key} is {new} and not {old}" for key, old, new in differences(was, now))
    if found:
        raise UsageError(
            f"{budget.source}:{budget.settings.line}: the budget is for a run with other settings: {found}; measure "
            "with those of the budget, take them out of [settings] to judge by its limits all the same, or write one "
            "for these with --write-budget"
        )


def differences(was: Mapping[str, object], now: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield key, old and new value of each setting that both have and that differs."""
    for key, value in was.items():
        if key in now and now[key] != value:
            show = _shown_rules if key == "rules" else shown
            yield key, show(value), show(now[key])


def _shown_rules(digest: object) -> str:
    return NONE if digest == NONE else f"a recipe's or preset's ({shown(digest)})"


def shown(value: object) -> str:
    """Format a setting for a message, as a user types it."""
    if isinstance(value, list):
        return ", ".join(f"'{escape_name(str(item))}'" for item in value) or NONE
    if value is None:
        return NONE
    return str(value).lower() if isinstance(value, bool) else escape_name(str(value))
