"""Export: a recipe for the tensors of a model, written for another tool and read back to check it."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from qdqcli.dialects.dialect import Dialect
from qdqcli.dialects.imported import in_words, recipe_text
from qdqcli.dialects.reading import parse_foreign
from qdqcli.dialects.weight import Weight, WeightFormat, weights_of
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.fused import fused_key
from qdqcli.recipe.patterns import listed
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.toml_text import plans_like


def exported(target: Dialect, plans: Sequence[Plan]) -> tuple[str, str, list[str]]:
    """Return the text of the file, what it says in words, and warnings of what the tool's engine will not take.

    Raises:
        UsageError: the tool cannot be told what becomes of a weight; names it, with the reason.
    """
    weights = list(weights_of(plans))
    _check(target, weights)
    text = target.write(weights)
    again = plans_like(recipe_text(parse_foreign(text, target.title, [w.name for w in weights]), ()), plans)
    read = list(weights_of(again))
    wrong = [(before, after) for before, after in zip(weights, read, strict=True) if before.format != after.format]
    if wrong:
        before, after = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UsageError(
            f"'{escape_name(before.name)}'{more}: {target.title} would make it {_named(after.format)}, the recipe says "
            f"{_named(before.format)}; --exclude it, or give it another setting"
        )
    matrices = [weight.format for weight in weights if weight.is_matrix]
    words = f"{in_words(matrices)}; checked: {target.title} reads the same for {len(matrices):,} weights"
    apart = _fused_apart(weights) if target.engine else []
    fused = (
        f"{target.engine} fuses {listed(apart)}, whose parts differ, and will not load them; give them one setting, as "
        "qdq plan does"
    )
    return text, words, [*target.warnings(weights), *([fused] if apart else [])]


def _fused_apart(weights: Sequence[Weight]) -> list[str]:
    """Return fused layers whose parts have different bits or scales; an engine knows no estimators."""
    formats: dict[str, set[str | None]] = defaultdict(set)
    for weight in weights:
        if weight.is_matrix and (key := fused_key(weight.name)) is not None:
            formats[key].add(None if weight.format is None else weight.format.scheme)
    return [key for key, found in formats.items() if len(found) > 1]


def _named(own: WeightFormat | None) -> str:
    return "float" if own is None else str(own)


def _check(target: Dialect, weights: Sequence[Weight]) -> None:
    """Check that the tool can be told what becomes of each weight.

    Raises:
        UsageError: it cannot; names each reason with the tensors that it holds for.
    """
    twice = [name for name, count in Counter(weight.name for weight in weights).items() if count > 1]
    if twice:
        raise UsageError(f"{listed(twice)}: in several files of the model; export the recipe of each one by itself")
    reasons: dict[str, list[str]] = {}
    for weight in weights:
        reason = target.why_not(weight)
        if reason is not None:
            reasons.setdefault(reason, []).append(weight.name)
    if reasons:
        told = "; ".join(f"{listed(names, 2)}: {reason}" for reason, names in reasons.items())
        raise UsageError(f"{target.title} cannot take the recipe: {told}; --exclude them, or give them another setting")
    if all(weight.spec is None for weight in weights):
        raise UsageError("the recipe leaves every tensor of the model in float; there is nothing to export")
