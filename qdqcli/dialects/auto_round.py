"""auto-round: `layer_config`, and the `quantization_config` of the models that it writes.

Keys are names of linear layers, parts of names, or expressions for `re.search` in which a bare dot is a dot. A part or
an expression wins over a full name, and the later of them counts. Layers of the blocks that are not named take the
default; embeddings, the output head and layers with a dimension that 32 does not divide stay in float. Source:
auto-round 0.16, compressors/layer_config_resolver.py and utils/common.py.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import ACTIVATIONS, ASYMMETRIC, NO_INTEGERS, losses
from qdqcli.dialects.dialect import Dialect, as_json, exceptions
from qdqcli.dialects.imported import OUTPUT_HEAD, ROUTER, Imported, ImportedRule, left_in_float, linear_layers
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import CHANNEL, TENSOR, WEIGHT, Weight, WeightFormat
from qdqcli.escape import escape_name
from qdqcli.plain import JsonObject

_FLOAT = {"bits": 16, "act_bits": 16, "data_type": "float", "act_data_type": "float"}
_META = re.compile(r"\.\*|[\^$|()\[\]?+]")
_SCHEME = re.compile(r"W([2-8])A(4|8|16)(?:G(-?\d+))?")
_STANDARD = 128
"""Group size of schemes that name none."""
_INSIDE = re.compile(r"\.\d+\.")
"""Number of a block, which full names have."""
_ALIASES = {"W4A16_MIXED": "W4A16", "INT8": "W8A8G-1", "INT8_W8A8": "W8A8G-1", "INT4": "W4A4G-1"}
_FLOAT_SCHEMES = ("BF16", "FP16", "FP32")
_SIZES = {CHANNEL: -1, TENSOR: 0}
_STEP = 32
"""Divisor of both dimensions of a layer that is quantized."""


def write(weights: Sequence[Weight]) -> JsonObject:
    """Return keyword arguments of `AutoRound`."""
    base, others = exceptions(weights)
    layers: JsonObject = {}
    for own, is_name, text in others:
        key = text if is_name else f"^{text}$".replace(r"\.", ".")
        layers[key] = _FLOAT if own is None else _arguments(own)
    return {**_arguments(base), "layer_config": layers}


def _arguments(own: WeightFormat) -> JsonObject:
    size = own.scale if isinstance(own.scale, int) else _SIZES[own.scale]
    return {"bits": own.num_bits, "group_size": size, "sym": True}


def read(config: Table, tensors: Collection[str] = ()) -> Imported:
    """Read keyword arguments, or a `quantization_config`; `tensors` are names of the model's, where it is known."""
    modules = {name.removesuffix(WEIGHT) for name in tensors}
    own, comment = _format_of(config, config)
    rules = linear_layers(own, OUTPUT_HEAD, ROUTER, origin=f"default: {own}" if own else "", comment=comment)
    blocks = config.texts("to_quant_block_names", "block_name_to_quantize")
    names = [name for text in blocks for name in text.split(",")]
    if names:
        inside = "|".join(re.escape(name) for name in names)
        rules.append(ImportedRule(patterns=[rf"re:(?!(?:{inside})\.).*"], reason="not in the blocks"))
    layers = [*_layers(config, "layer_config"), *_layers(config, "extra_config")]
    layers.sort(key=lambda item: not _is_full(item[0], modules))  # expressions win over full names
    for key, layer in layers:
        own, comment = _format_of(layer, config)
        rules.append(
            ImportedRule(patterns=[_pattern(key, modules)], format=own, reason=comment or "float", comment=comment,
                         origin="layer_config"))  # fmt: skip
    ignored = config.text("ignore_layers", default="").replace(" ", "")
    if ignored:
        patterns = [_ignored(part, modules) for part in ignored.split(",") if part]
        rules.append(left_in_float(patterns, "ignore_layers"))
    return Imported(title="auto-round", rules=rules)


def _layers(config: Table, key: str) -> Iterator[tuple[str, Table]]:
    """Yield the settings of layers; the name of a scheme stands for them."""
    layers = config.table(key)
    for name, value in layers.data.items():
        if isinstance(value, str):
            yield name, Table({"scheme": value}, f"{layers.where}{escape_name(name)}.")
        elif isinstance(value, dict):
            yield name, layers.table(name)
        else:
            layers.fail(name, "an object, or a scheme such as W8A16")


def _format_of(layer: Table, base: Table) -> tuple[WeightFormat | None, str]:
    """Return the format of a layer, whose missing keys are those of its scheme, or else of the default."""
    if "scheme" in layer:
        base = layer
    scheme = base.text("scheme", default="W4A16").upper()
    found = _SCHEME.fullmatch(_ALIASES.get(scheme, scheme))
    if found is None and "bits" not in layer:
        return None, "" if scheme in _FLOAT_SCHEMES else f"{escape_name(scheme)} {NO_INTEGERS}"
    bits, act_bits, size = (int(text or _STANDARD) for text in found.groups()) if found else (4, 16, _STANDARD)
    bits = layer.bits("bits", default=base.bits("bits", default=bits))
    kind = layer.text("data_type", default=base.text("data_type", default="int"))
    if bits >= 16:
        return None, ""
    if not kind.startswith("int"):
        return None, f"{escape_name(kind)} {NO_INTEGERS}"
    size = layer.integer("group_size", default=base.integer("group_size", default=size))
    scale: int | str = size if size > 0 else TENSOR if size == 0 else CHANNEL
    symmetric = layer.flag("sym", default=base.flag("sym", default=True))
    act_bits = layer.integer("act_bits", default=base.integer("act_bits", default=act_bits))
    lost = losses("" if symmetric else ASYMMETRIC, ACTIVATIONS if act_bits < 16 else "")
    return WeightFormat(num_bits=bits, scale=scale), lost


def _is_full(key: str, modules: Collection[str]) -> bool:
    """Tell whether a key is the full name of a layer, not a part of names; without a model, by its look."""
    return key in modules if modules else _INSIDE.search(key) is not None and not _META.search(key)


def _pattern(key: str, modules: Collection[str]) -> str:
    """Return the pattern of a key: a full name, part of one, or an expression whose bare dots are dots."""
    if _is_full(key, modules):
        return match.exact(key)
    if not _META.search(key):
        return match.containing(key)
    return match.searched(re.sub(r"(?<!\\)\.(?!\*)", r"\\.", key))


def _ignored(part: str, modules: Collection[str]) -> str:
    """Return the pattern of an entry of `ignore_layers`; layers.1 does not stand for layers.10."""
    if _is_full(part, modules):
        return match.exact(part)
    is_block = any(f"{part}." in name for name in modules) if modules else re.search(r"\.\d+$", part)
    return match.containing(f"{part}." if is_block and part[-1].isdecimal() else part)


def _refusal(weight: Weight, _format: WeightFormat) -> str | None:
    if any(size % _STEP for size in weight.shape):
        return f"one of its dimensions {list(weight.shape)} is no multiple of {_STEP}: it would stay in float"
    return None


AUTO_ROUND = Dialect(
    title="auto-round",
    bits=range(2, 9),
    takes_embeddings=False,
    check=_refusal,
    write=lambda weights: as_json(write(weights)),
    usage="AutoRound(model, **json.load(open(FILE)))",
)
