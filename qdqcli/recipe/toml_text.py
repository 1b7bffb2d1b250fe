"""Recipe as TOML text: its tables as lines, and the plans that a text gives."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from qdqcli.escape import escape
from qdqcli.recipe.file import parse_recipe
from qdqcli.recipe.plan import Plan, checkpoints_of, make_plans
from qdqcli.recipe.request import DEFAULTS, merge_options, request_from
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed


def comment_lines(texts: Iterable[str]) -> list[str]:
    """Return comments, one line each."""
    return [f"# {escape(text)}" for text in texts]


def setting_lines(settings: Mapping[str, object]) -> list[str]:
    """Return one line per setting, by recipe key."""
    return [f"{key} = {_quoted(value) if isinstance(value, str) else json.dumps(value)}"
            for key, value in settings.items()]  # fmt: skip


def rule_lines(patterns: Sequence[str], settings: Mapping[str, object], comments: Iterable[str] = ()) -> Iterator[str]:
    """Yield the lines of a rule, after an empty one; `settings` may hold `skip` and other keys of rules."""
    yield from ("", "[[rules]]", *comment_lines(comments), "match = [")
    yield from (f"    {_quoted(pattern)}," for pattern in patterns)
    yield from ("]", *setting_lines(settings))


def plans_of(
    text: str, checkpoints: Sequence[Checkpoint], packed: Sequence[Packed], source: str = "the recipe"
) -> list[Plan]:
    """Return the plans of a recipe from its text, as `--recipe` reads it."""
    read = parse_recipe(text, source)
    return make_plans(checkpoints, request_from(merge_options(DEFAULTS, [read], {}, {})).recipe, packed)[0]


def plans_like(text: str, plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans that a recipe gives for the inputs of other plans."""
    packed = {id(plan.checkpoint): plan.packed for plan in plans}
    return plans_of(text, checkpoints_of(plans), list(packed.values()))


def _quoted(text: str) -> str:
    """Return a TOML string: a literal one where that saves escapes, as in regular expressions."""
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
