"""auto-round: `layer_config`, and the `quantization_config` of the models that it writes.

Keys are names of linear layers, or expressions for `re.search` in which a bare dot is a dot. Layers of the blocks that
are not named take the default; embeddings, the output head and layers with a dimension that 32 does not divide stay in
float. Source: auto-round 0.16, compressors/layer_config_resolver.py and utils/common.py.
"""

import re
from collections.abc import Sequence

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import ASYMMETRIC, NO_INTEGERS
from qdqcli.dialects.dialect import Dialect, as_json, by_format, folded
from qdqcli.dialects.imported import OUTPUT_HEAD, ROUTER, Imported, ImportedRule, linear_layers
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import CHANNEL, TENSOR, Weight, WeightFormat
from qdqcli.plain import JsonObject

_FLOAT = {"bits": 16, "act_bits": 16, "data_type": "float", "act_data_type": "float"}
_META = re.compile(r"\.\*|[\^$|()\[\]?+]")
_SIZES = {CHANNEL: -1, TENSOR: 0}
_STEP = 32
"""Divisor of both dimensions of a layer that is quantized."""


def write(weights: Sequence[Weight]) -> JsonObject:
    """Return keyword arguments of `AutoRound`."""
    groups = by_format(weights)
    base = next(own for own in groups if own is not None)
    layers: JsonObject = {}
    for own, modules in groups.items():
        if own != base:
            for is_name, text in folded(modules, weights):
                key = text if is_name else f"^{text}$".replace(r"\.", ".")
                layers[key] = _FLOAT if own is None else _arguments(own)
    return {**_arguments(base), "layer_config": layers}


def _arguments(own: WeightFormat) -> JsonObject:
    size = own.scale if isinstance(own.scale, int) else _SIZES[own.scale]
    return {"bits": own.num_bits, "group_size": size, "sym": True}


def read(config: Table) -> Imported:
    """Read keyword arguments, or a `quantization_config`."""
    own, comment = _format_of(config, config)
    rules = linear_layers(own, OUTPUT_HEAD, ROUTER, origin=f"default: {own}" if own else "", comment=comment)
    blocks = config.texts("to_quant_block_names", "block_name_to_quantize")
    names = [name for text in blocks for name in text.split(",")]
    if names:
        inside = "|".join(re.escape(name) for name in names)
        rules.append(ImportedRule(patterns=[rf"re:(?!(?:{inside})\.).*"], reason="not in the blocks"))
    for key, layer in (*config.table("layer_config").items(), *config.table("extra_config").items()):
        own, comment = _format_of(layer, config)
        rules.append(ImportedRule(patterns=[_pattern(key)], format=own, reason=comment or "float", comment=comment,
                                  origin="layer_config"))  # fmt: skip
    ignored = config.text("ignore_layers", default="").replace(" ", "")
    if ignored:
        patterns = [match.containing(part) for part in ignored.split(",") if part]
        rules.append(ImportedRule(patterns=patterns, reason="ignore_layers", origin="ignore_layers"))
    return Imported(title="auto-round", rules=rules)


def _format_of(layer: Table, base: Table) -> tuple[WeightFormat | None, str]:
    """Return the format of a layer, whose missing keys are those of the default."""
    bits = layer.bits("bits", default=base.bits("bits", default=4))
    kind = layer.text("data_type", default=base.text("data_type", default="int"))
    if bits >= 16:
        return None, ""
    if not kind.startswith("int"):
        return None, f"{kind} {NO_INTEGERS}"
    size = layer.integer("group_size", default=base.integer("group_size", default=128))
    scale: int | str = size if size > 0 else TENSOR if size == 0 else CHANNEL
    symmetric = layer.flag("sym", default=base.flag("sym", default=True))
    return WeightFormat(num_bits=bits, scale=scale), "" if symmetric else ASYMMETRIC


def _pattern(key: str) -> str:
    """Return the pattern of a key: part of a name, or an expression whose bare dots are dots."""
    if not _META.search(key):
        return match.exact(key) if "." in key else match.containing(key)
    return match.searched(re.sub(r"(?<!\\)\.(?!\*)", r"\\.", key))


def _refusal(weight: Weight, _format: WeightFormat) -> str | None:
    if any(size % _STEP for size in weight.shape):
        return f"one of its dimensions {list(weight.shape)} is no multiple of {_STEP}: it would stay in float"
    return None


AUTO_ROUND = Dialect(
    title="auto-round",
    bits=range(2, 9),
    takes_embeddings=False,
    check=_refusal,
    write=write,
    dump=as_json,
    usage="AutoRound(model, **json.load(open(FILE)))",
)
