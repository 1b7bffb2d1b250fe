"""llama.cpp: the file of `llama-quantize --tensor-type-file`, PATTERN=TYPE for tensors of a GGUF file.

Patterns are for `regex_search` on GGUF names and are read in small letters; the first that matches counts. Comments are
not allowed. Tensors that none matches take the type of the command line. Source: llama.cpp, tools/quantize/quantize.cpp
and src/llama-quant.cpp.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import NO_INTEGERS
from qdqcli.dialects.dialect import Dialect
from qdqcli.dialects.gguf_names import gguf_name
from qdqcli.dialects.imported import EVERYTHING, Imported, ImportedRule
from qdqcli.dialects.weight import WEIGHT, Weight, WeightFormat
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.recipe.folding import folded_regexes
from qdqcli.recipe.patterns import listed

_LINE = re.compile(r"([^=\s]+)=(\w+)")
_NEVER = re.compile(r"position_embd|token_types|ffn_gate_inp")
"""Tensors that llama.cpp never quantizes."""
_SUPER = 256
"""Elements that share a scale of scales in the types of K quants."""
_OFFSETS = "has an offset beside each scale; symmetric here, about 1 dB worse at 4 bits"
_K = "has scales that are quantized themselves, which is not simulated"
_TYPES: Mapping[str, tuple[int, int, str]] = {
    "q4_0": (4, 32, ""),
    "q5_0": (5, 32, ""),
    "q8_0": (8, 32, ""),
    "q3_k": (3, 16, _K),
    "q6_k": (6, 16, _K),
    "q4_1": (4, 32, _OFFSETS),
    "q5_1": (5, 32, _OFFSETS),
    "q2_k": (2, 16, _OFFSETS),
    "q4_k": (4, 32, _OFFSETS),
    "q5_k": (5, 32, _OFFSETS),
}
"""Type -> bits, elements that share a scale, and what is lost."""
_WRITTEN = {(bits, size): name for name, (bits, size, comment) in _TYPES.items() if comment in ("", _K)}
"""Types that are symmetric."""
_FLOATS = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f32"}
Line = tuple[str, str]
"""Pattern and type."""


def write(weights: Sequence[Weight]) -> list[Line]:
    """Return the lines.

    Raises:
        UsageError: experts that share a tensor in the GGUF file have different formats.
    """
    types: dict[str, dict[str, str]] = defaultdict(dict)
    for weight in weights:
        name = gguf_name(weight.module) if weight.is_matrix else None
        if name is not None and not _NEVER.search(name):
            types[name][weight.name] = _type_of(weight)
    for name, found in types.items():
        if len(set(found.values())) > 1:
            raise UsageError(
                f"llama.cpp: {listed(list(found))} become one tensor, '{name}', but differ: "
                f"{', '.join(dict.fromkeys(found.values()))}; give them one setting (qdq plan ties them)"
            )
    by_type: dict[str, list[str]] = defaultdict(list)
    for name, found in types.items():
        by_type[next(iter(found.values()))].append(name)
    return [(f"^{expression}$", kind) for kind, own in by_type.items()
            for expression in folded_regexes(own, set(types) - set(own))]  # fmt: skip


def _type_of(weight: Weight) -> str:
    own = weight.format
    return _FLOATS[weight.dtype.name] if own is None else _WRITTEN[own.num_bits, int(own.scale)]


def _refusal(weight: Weight, own: WeightFormat) -> str | None:
    """Return the reason against a weight."""
    name = gguf_name(weight.module)
    if name is None:
        return "its name in a GGUF file is not known"
    if _NEVER.search(name):
        return f"llama.cpp never quantizes it ('{name}')"
    if (own.num_bits, own.scale) not in _WRITTEN:
        types = ", ".join(f"int{bits}-g{size} ({kind})" for (bits, size), kind in sorted(_WRITTEN.items()))
        plan = "'qdq plan --backend gguf --group-size 32' plans with 4, 5 and 8 bits"
        return f"{own} is none of its symmetric types: {types}; {plan}"
    if _TYPES[_WRITTEN[own.num_bits, int(own.scale)]][2] and weight.shape[-1] % _SUPER:
        return f"its rows have {weight.shape[-1]} elements, which {_SUPER} does not divide: another type would be taken"
    return None


def _unnamed(weights: Sequence[Weight]) -> list[str]:
    """Return a warning on weights in float that no line can name."""
    found = [weight.name for weight in weights if weight.is_matrix and gguf_name(weight.module) is None]
    return [f"{listed(found, 3)}: in float here, but without a known name in a GGUF file; if it holds them, they take "
            "the type of the command line"] if found else []  # fmt: skip


def dump(lines: Sequence[Line]) -> str:
    """Return the text of the file."""
    return "".join(f"{pattern}={kind}\n" for pattern, kind in lines)


def parse(text: str) -> list[Line] | None:
    """Return the lines; None where the text is something else."""
    found = [_LINE.fullmatch(word) for word in text.split()]
    return [(line[1], line[2]) for line in found if line is not None] if found and None not in found else None


def read(lines: Sequence[Line], names: Collection[str], where: str) -> Imported:
    """Read the lines for the tensors of these names.

    Raises:
        UsageError: there are no names, since patterns are on GGUF names; or a pattern is malformed.
    """
    if not names:
        raise UsageError(f"{where}its patterns are on names of a GGUF file; give MODEL, to whose tensors they apply")
    expressions = []
    for pattern, kind in lines:
        try:
            match.check_cost(pattern, where)
            expressions.append((re.compile(pattern.lower()), kind.lower()))
        except re.error as error:
            raise UsageError(f"{where}'{escape_name(pattern)}' is not a regular expression: {error}") from None
    by_type: dict[str, list[str]] = {kind: [] for _, kind in expressions}
    for name in names:
        own = gguf_name(name.removesuffix(WEIGHT)) if name.endswith(WEIGHT) else None
        if own is None or _NEVER.search(own):
            continue
        matching = [kind for expression, kind in expressions if expression.search(own)]
        if matching:
            by_type[matching[0]].append(name)
    rules = [ImportedRule(patterns=EVERYTHING, reason="not in the file")]
    for kind, of_type in by_type.items():
        if of_type and kind in _TYPES:
            bits, size, comment = _TYPES[kind]
            rules.append(ImportedRule(patterns=of_type, format=WeightFormat(num_bits=bits, scale=size), origin=kind,
                                      comment=f"{kind} {comment}" if comment else ""))  # fmt: skip
        elif of_type:
            comment = "" if kind in _FLOATS.values() else f"{kind} {NO_INTEGERS}"
            rules.append(ImportedRule(patterns=of_type, reason=kind, comment=comment, origin=kind))
    return Imported(title="llama.cpp", rules=rules)


LLAMA_CPP = Dialect(
    title="llama.cpp",
    bits=(3, 4, 5, 6, 8),
    scales=(),
    check=_refusal,
    warnings=_unnamed,
    write=lambda weights: dump(write(weights)),
    usage="llama-quantize --pure --tensor-type-file FILE MODEL.gguf OUT.gguf q8_0; --dry-run shows the types",
)
