"""torchao: `FqnToConfig` as the JSON that `config_from_dict` reads, and the `quantization_config` that holds it.

A weight takes the entry of its own name, that of its module, the first `re:` expression that matches the whole name of
the weight, or of the module, and else `_default`. Source: torchao 0.18, quantization/quant_api.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import ACTIVATIONS, ASYMMETRIC, NO_INTEGERS, losses
from qdqcli.dialects.dialect import Dialect, as_json, by_format, folded
from qdqcli.dialects.imported import OUTPUT_HEAD, Imported, ImportedRule, left_in_float, linear_layers, patterns_of
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import CHANNEL, TENSOR, WEIGHT, Weight, WeightFormat
from qdqcli.plain import JsonObject

_MODULES = "fqn_to_config", "module_fqn_to_config"
_DEFAULT = "_default"
_REGEX = "re:"
_INT4 = "int4_weight_only"
_INTX = "Int8DynamicActivationIntxWeightConfig"
_OLD = {_INT4: 4, "int8_weight_only": 8, "int8_dynamic_activation_int8_weight": 8,
        "int8_dynamic_activation_int4_weight": 4}  # fmt: skip
"""Name of earlier versions -> bits of the weights."""


def write(weights: Sequence[Weight]) -> JsonObject:
    """Return the content of the JSON; weights that stay in float are not named."""
    configs = {(text if is_name else _REGEX + text): _config(own)
               for own, modules in by_format(weights).items() if own is not None
               for is_name, text in folded(modules, weights)}  # fmt: skip
    return {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": configs}}


def _config(own: WeightFormat) -> JsonObject:
    granularity = {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
    if isinstance(own.scale, int):
        granularity = {"_type": "PerGroup", "_version": 1, "_data": {"group_size": own.scale}}
    data = {
        "weight_dtype": {"_type": "torch.dtype", "_data": f"int{own.num_bits}"},
        "granularity": granularity,
        "mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
    }
    return {"_type": "IntxWeightOnlyConfig", "_version": 2, "_data": data}


def read(config: Table) -> Imported:
    """Read the JSON of a config: one for all linear layers, or one by name."""
    if config.text("_type") not in ("FqnToConfig", "ModuleFqnToConfig"):
        own, comment = _format_of(config)
        return Imported(title="torchao", rules=linear_layers(own, origin=config.text("_type"), comment=comment))
    data = config.table("_data")
    layers = data.table(next((name for name in _MODULES if name in data), _MODULES[0]))
    base, comment = _format_of(layers.table(_DEFAULT)) if _DEFAULT in layers else (None, "")
    rules = linear_layers(base, origin=_DEFAULT if _DEFAULT in layers else "", comment=comment)
    expressions = [key for key in layers.data if key.startswith(_REGEX)]
    names = [key for key in layers.data if key not in (*expressions, _DEFAULT)]
    ordered = [(key, [match.whole(key.removeprefix(_REGEX))]) for key in reversed(expressions)]
    ordered += [(key, [match.whole_tensor(key.removeprefix(_REGEX))]) for key in reversed(expressions)]
    ordered += [(key, [match.exact(key)]) for key in names if not key.endswith(WEIGHT)]
    ordered += [(key, [match.literal(key)]) for key in names if key.endswith(WEIGHT)]
    for key, patterns in ordered:
        own, comment = _format_of(layers.table(key)) if key in layers else (None, "")
        rules.append(ImportedRule(patterns=patterns, format=own, comment=comment, reason=comment or "null",
                                  origin="fqn_to_config"))  # fmt: skip
    return Imported(title="torchao", rules=rules)


def read_hub(config: Table) -> Imported:
    """Read a `quantization_config`: a config in JSON, or a name of earlier versions."""
    if isinstance(config.data.get("quant_type"), str):
        name = config.text("quant_type")
        if name not in _OLD:
            config.fail("quant_type", "a weight-only type of torchao, e.g. int4_weight_only")
        size = config.table("quant_type_kwargs").integer("group_size", default=128 if name == _INT4 else 0)
        own = WeightFormat(num_bits=_OLD[name], scale=size or CHANNEL)
        lost = ASYMMETRIC if name == _INT4 else ACTIVATIONS if "activation" in name else ""
        rules = linear_layers(own, origin=name, comment=lost)
        imported = Imported(title="torchao", rules=rules)
    else:
        imported = read(config.table("quant_type").table("default"))
    if "modules_to_not_convert" in config:
        patterns = list(map(match.containing, config.texts("modules_to_not_convert")))
        last = left_in_float(patterns, "modules_to_not_convert")
    elif config.flag("include_input_output_embeddings", default=False):
        return imported
    else:  # transformers leaves it in float unless told
        last = ImportedRule(patterns=patterns_of(OUTPUT_HEAD), reason=OUTPUT_HEAD)
    return replace(imported, rules=[*imported.rules, last] if last.patterns else imported.rules)


def _format_of(config: Table) -> tuple[WeightFormat | None, str]:
    kind = config.text("_type")
    data = config.table("_data")
    prefix = "weight_" if kind == _INTX else ""
    symmetric = _word(data.data.get(f"{prefix}mapping_type")) != "ASYMMETRIC"
    granularity = _granularity(data, f"{prefix}granularity")
    size = data.integer("group_size", default=granularity.table("_data").integer("group_size", default=0))
    scale = size or (TENSOR if granularity.text("_type", default="") == "PerTensor" else CHANNEL)
    activations = ACTIVATIONS if "Activation" in kind else ""
    asymmetric = "" if symmetric else ASYMMETRIC
    if kind in (_INTX, "IntxWeightOnlyConfig"):
        bits = re.fullmatch(r"int([1-8])", _word(data.data.get("weight_dtype")) or "int8")
        if bits is None:
            data.fail("weight_dtype", "int1 to int8")
        return WeightFormat(num_bits=int(bits[1]), scale=scale), losses(asymmetric, activations)
    if kind.startswith("Int4WeightOnly"):
        return WeightFormat(num_bits=4, scale=size or 128), ASYMMETRIC
    if kind.startswith("Float8DynamicActivationInt4"):
        return WeightFormat(num_bits=4, scale=128), activations
    if kind.startswith("Int8DynamicActivationInt4"):
        return WeightFormat(num_bits=4, scale=size or 32), losses(asymmetric, activations)
    if kind.startswith(("Int8WeightOnly", "Int8DynamicActivationInt8", "Int8StaticActivationInt8")):
        return WeightFormat(num_bits=8, scale=scale), activations
    return None, f"{kind} {NO_INTEGERS}"


def _granularity(data: Table, key: str) -> Table:
    """Return the granularity of weights: the only one, or the second of a list that has activations first."""
    if isinstance(data.data.get(key), list):
        both = data.tables(key)
        if len(both) != 2:
            data.fail(key, "one granularity, or two")
        return both[1]
    return data.table(key)


def _word(value: object) -> str:
    """Return the word of an enumeration or a dtype."""
    word = value.get("_data") if isinstance(value, Mapping) else value
    return word if isinstance(word, str) else ""


TORCHAO = Dialect(
    title="torchao",
    bits=range(2, 9),
    scales=(CHANNEL,),
    write=lambda weights: as_json(write(weights)),
    usage="quantize_(model, config_from_dict(json.load(open(FILE))), filter_fn=None); config_from_dict is in "
    "torchao.core.config",
)
