"""Dialect: the recipe of another tool, what it can say and how it is written; DIALECTS lists them.

To add one: a module with a `Dialect`, and an entry in `DIALECTS`; `tests/dialects` runs over the entries.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from qdqcli.dialects.imported import EMBEDDING, patterns_of
from qdqcli.dialects.weight import CHANNEL, TENSOR, Weight, WeightFormat
from qdqcli.errors import SpecError
from qdqcli.recipe.folding import folded_regexes, plain_name
from qdqcli.recipe.patterns import compile_pattern

DIALECTS: Mapping[str, str] = {
    "llm-compressor": "qdqcli.dialects.compressed_tensors:RECIPE",
    "compressed-tensors": "qdqcli.dialects.compressed_tensors:CONFIG",
    "auto-round": "qdqcli.dialects.auto_round:AUTO_ROUND",
    "gptqmodel": "qdqcli.dialects.gptqmodel:GPTQMODEL",
    "mlx": "qdqcli.dialects.mlx:MLX",
    "llama.cpp": "qdqcli.dialects.llama_cpp:LLAMA_CPP",
    "modelopt": "qdqcli.dialects.modelopt:MODELOPT",
    "torchao": "qdqcli.dialects.torchao:TORCHAO",
}
"""Name -> location of the dialect."""
_PLAIN = re.compile(r"[\w.\-]+", re.ASCII)
"""Names that mean themselves, once escaped, to every tool."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a tool is told what becomes of each weight, and the limits of what it can be told."""

    title: str
    """The tool, in messages."""
    bits: Collection[int]
    write: Callable[[Sequence[Weight]], str]
    """Text of the file for all weights: matrices, and others that stay in float."""
    usage: str
    """What to do with the file."""
    group_sizes: Collection[int] | None = None
    """None: any."""
    scales: Collection[str] = (CHANNEL, TENSOR)
    """Granularities beside groups."""
    estimators: Collection[str] = ("minmax",)
    engine: str = ""
    """Inference engine that fuses layers, whose parts must have one setting."""
    takes_embeddings: bool = True
    takes_convolutions: bool = False
    check: Callable[[Weight, WeightFormat], str | None] = lambda _weight, _format: None
    """Further reason against a weight in a format."""
    warnings: Callable[[Sequence[Weight]], Sequence[str]] = lambda _weights: ()
    """What the file leaves open."""

    def why_not(self, weight: Weight) -> str | None:
        """Return the reason why the tool cannot be told what becomes of a weight; None where it can."""
        try:
            own = weight.format
        except SpecError as error:
            return f"no other tool has {error}"
        if own is None:
            return None
        if not weight.is_matrix:
            return "it is not the weight of a module, NAME.weight"
        if not _PLAIN.fullmatch(weight.name):
            return "its name has characters other than letters, digits, dots, dashes and underscores"
        if own.num_bits not in self.bits:
            return f"{own}: it takes {_listed(self.bits)} bits"
        if isinstance(own.scale, str):
            if own.scale not in self.scales:
                return f"{own}: it has no scale per {own.scale}"
        elif self.group_sizes is not None and own.scale not in self.group_sizes:
            return f"{own}: it takes groups of {_listed(self.group_sizes)}"
        elif len(weight.shape) != 2:
            return f"{own}: it takes groups in matrices alone, not in {len(weight.shape)} dimensions"
        if len(weight.shape) != 2 and not self.takes_convolutions:
            return f"it takes matrices alone, not {len(weight.shape)} dimensions"
        if own.estimator not in self.estimators:
            return f"estimator {own.estimator}: it takes {', '.join(self.estimators)}"
        if not self.takes_embeddings and is_embedding(weight.name):
            return "it quantizes no embeddings"
        return self.check(weight, own)


def dialect(name: str) -> Dialect:
    """Return the dialect of that name, a key of `DIALECTS`."""
    module, attribute = DIALECTS[name].split(":")
    found: Dialect = getattr(import_module(module), attribute)
    return found


def is_embedding(name: str) -> bool:
    """Tell whether a tensor holds an embedding, by its name."""
    return any(compile_pattern(pattern)(name) for pattern in patterns_of(EMBEDDING))


def _listed(numbers: Collection[int]) -> str:
    *first, last = map(str, sorted(numbers))
    return f"{', '.join(first)} or {last}" if first else last


def by_format(weights: Sequence[Weight]) -> dict[WeightFormat | None, list[str]]:
    """Return the modules of matrices by their format, the most frequent integers first, float last."""
    matrices = [weight for weight in weights if weight.is_matrix]
    counts = Counter(weight.format for weight in matrices)
    order = sorted(counts, key=lambda own: (own is None, -counts[own], str(own)))
    return {own: [weight.module for weight in matrices if weight.format == own] for own in order}


def base_of(groups: Mapping[WeightFormat | None, list[str]]) -> WeightFormat:
    """Return the most frequent integers of `by_format`, the default of tools that have one."""
    return next(own for own in groups if own is not None)


def exceptions(weights: Sequence[Weight]) -> tuple[WeightFormat, list[tuple[WeightFormat | None, bool, str]]]:
    """Return the default, and few patterns for the modules of other formats: (format, is a plain name, text)."""
    groups = by_format(weights)
    base = base_of(groups)
    return base, [(own, *found) for own, modules in groups.items() if own != base for found in folded(modules, weights)]


def folded(own: Sequence[str], weights: Sequence[Weight]) -> list[tuple[bool, str]]:
    """Return few patterns for modules, which match no other module of the model: (is a plain name, text)."""
    others = {weight.name.rpartition(".")[0] for weight in weights} | {weight.module for weight in weights}
    expressions = folded_regexes(own, others - set(own))
    return [(True, name) if (name := plain_name(found, own)) else (False, found) for found in expressions]


def as_json(data: object) -> str:
    """Return the text of a JSON file."""
    return json.dumps(data, indent=2) + "\n"


def as_yaml(data: object) -> str:
    """Return the text of a YAML file."""
    import yaml  # imported late: most targets are JSON

    text: str = yaml.safe_dump(data, sort_keys=False, width=120)
    return text
