"""Folding: few patterns for many names, none of which matches another name of the checkpoint."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import product

from qdqcli.recipe.file_ref import SEPARATOR
from qdqcli.recipe.patterns import compile_pattern

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_WILD = frozenset("*?[")
Box = tuple[frozenset[str], ...]
"""Names with the same number of components: all combinations of one choice for each component."""


def folded_globs(own: Sequence[str], others: Collection[str]) -> list[str]:
    """Return patterns of a recipe for `own`: globs over numbers of layers and experts, where they match no `others`."""
    templates: dict[str, list[str]] = defaultdict(list)
    for pattern in own:
        templates[pattern if set(pattern) & _WILD or SEPARATOR in pattern else _NUMBER.sub("*", pattern)].append(
            pattern
        )
    folded: dict[str, str] = {}
    for template, members in templates.items():
        if len(members) > 1 and not any(map(compile_pattern(template), others)):
            folded |= dict.fromkeys(members, template)
        elif len(members) > 1 and template.count("*") > 1:
            folded |= _partly_folded(members, others)
    return list(dict.fromkeys(folded.get(pattern, pattern) for pattern in own))


def _partly_folded(members: Sequence[str], others: Collection[str]) -> dict[str, str]:
    """Return name -> glob: a star for some numbers, others as they are, `layers.3.experts.*.up_proj`."""
    forward, backward = (_merged(_boxes(members), reverse=reverse) for reverse in (False, True))
    found: dict[str, str] = {}
    for box in min(forward, backward, key=len):
        parts = [_listed(choices) for choices in box]
        stars = set()
        for position, choices in enumerate(box):
            if len(choices) > 1:
                wider = re.compile(r"\.".join([*parts[:position], ".*", *parts[position + 1 :]]))
                if not any(map(wider.fullmatch, others)):
                    parts[position] = ".*"
                    stars.add(position)
        for names in product(*box):
            found[".".join(names)] = ".".join("*" if i in stars else name for i, name in enumerate(names))
    return found


def folded_regexes(own: Collection[str], others: Collection[str]) -> list[str]:
    r"""Return regular expressions that match `own` as a whole, and none of `others`.

    Names that differ in one component share an expression: `model\.layers\.\d+\.mlp\.(gate_proj|up_proj)`. Numbers are
    listed where `\d+` would match one of `others`. The expressions mean the same to Python, PCRE and ECMAScript.
    """
    by_length: dict[int, list[str]] = defaultdict(list)
    for name in others:
        by_length[name.count(".")].append(name)
    forward, backward = (_merged(_boxes(own), reverse=reverse) for reverse in (False, True))
    return [_expression(box, by_length[len(box) - 1]) for box in min(forward, backward, key=len)]


def _boxes(names: Collection[str]) -> list[Box]:
    return [tuple(frozenset({part}) for part in name.split(".")) for name in dict.fromkeys(names)]


def plain_name(expression: str, own: Collection[str]) -> str | None:
    """Return the only one of `own` that a folded expression matches; None where it matches several."""
    name = re.sub(r"\\(.)", r"\1", expression)
    return name if name in own else None


def _merged(boxes: Sequence[Box], *, reverse: bool) -> list[Box]:
    """Join boxes that differ in one component, component by component."""
    last = max(map(len, boxes), default=0)
    for position in sorted(range(last), reverse=reverse):
        joined: dict[tuple[Box, Box] | Box, Box] = {}
        for box in boxes:
            key = (box[:position], box[position + 1 :]) if position < len(box) else box
            before = joined.get(key)
            joined[key] = box if before is None else (*box[:position], box[position] | before[position], *key[1])
        boxes = list(joined.values())
    return list(boxes)


def _expression(box: Box, others: Sequence[str]) -> str:
    """Return the expression of a box: the widest one that matches none of `others`."""
    parts = [_listed(choices) for choices in box]
    for position, choices in enumerate(box):
        if len(choices) > 1 and all(choice.isdecimal() for choice in choices):
            wider = re.compile(r"\.".join([*parts[:position], r"\d+", *parts[position + 1 :]]))
            if not any(map(wider.fullmatch, others)):
                parts[position] = r"\d+"
    return r"\.".join(parts)


def _listed(choices: Collection[str]) -> str:
    texts = list(map(re.escape, _ordered(choices)))
    return texts[0] if len(texts) == 1 else f"({'|'.join(texts)})"


def _ordered(choices: Collection[str]) -> Iterator[str]:
    """Yield numbers by value, then words by letter."""
    yield from sorted(choices, key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text))
