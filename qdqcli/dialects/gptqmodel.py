"""GPTQModel: `QuantizeConfig` with `dynamic`, and the `quantization_config` of GPTQ models.

Keys of `dynamic` are expressions for PCRE's match, anchored at the start and open at the end, after `+:` (or nothing)
for other settings and `-:` for float; the first that matches counts. The linear layers of the decoder that none matches
take the default; the output head does where `lm_head` is true. Source: GPTQModel 7.7, quantization/config.py.
"""

import re
from collections.abc import Sequence

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import ASYMMETRIC
from qdqcli.dialects.dialect import Dialect, as_json, exceptions
from qdqcli.dialects.imported import OUTPUT_HEAD, ROUTER, Imported, ImportedRule, left_in_float, linear_layers
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import CHANNEL, Weight, WeightFormat
from qdqcli.plain import JsonObject

_HEAD = "lm_head"


def write(weights: Sequence[Weight]) -> JsonObject:
    """Return keyword arguments of `QuantizeConfig`."""
    base, others = exceptions(weights)
    dynamic: JsonObject = {}
    for own, is_name, text in others:
        expression = text.replace(".", r"\.") if is_name else text
        dynamic[f"{'-' if own is None else '+'}:^{expression}$"] = {} if own is None else _arguments(own)
    has_head = any(weight.is_matrix and weight.module == _HEAD and weight.format is not None for weight in weights)
    return {**_arguments(base), "sym": True, **({"lm_head": True} if has_head else {}), "dynamic": dynamic}


def _arguments(own: WeightFormat) -> JsonObject:
    return {"bits": own.num_bits, "group_size": -1 if own.scale == CHANNEL else own.scale}


def read(config: Table) -> Imported:
    """Read keyword arguments, or a `quantization_config`."""
    own, comment = _format_of(config, config)
    reasons = (ROUTER,) if config.flag(_HEAD, default=False) else (OUTPUT_HEAD, ROUTER)
    rules = linear_layers(own, *reasons, origin=f"default: {own}", comment=comment)
    inside = config.texts("modules_in_block_to_quantize")
    if inside:
        names = "|".join(map(re.escape, inside))
        rules.append(
            ImportedRule(patterns=[rf"re:(?!.*\.({names})\.weight).*"], reason="not in the modules to quantize")
        )
    for key, layer in reversed([*config.table("dynamic").items()]):
        pattern = match.matched(key.removeprefix("+:").removeprefix("-:"))
        if key.startswith("-:"):
            rules.append(left_in_float([pattern], "dynamic"))
        else:
            own, comment = _format_of(layer, config)
            rules.append(ImportedRule(patterns=[pattern], format=own, comment=comment, origin="dynamic"))
    skipped = config.texts("modules_to_not_convert")
    if skipped:
        patterns = list(map(match.containing, skipped))
        rules.append(left_in_float(patterns, "modules_to_not_convert"))
    return Imported(title="GPTQ", rules=rules)


def _format_of(layer: Table, base: Table) -> tuple[WeightFormat, str]:
    """Return the format of layers, whose missing keys are those of the default."""
    bits = layer.bits("bits", "w_bit", default=base.bits("bits", "w_bit", default=4))
    size = layer.integer("group_size", "q_group_size",
                         default=base.integer("group_size", "q_group_size", default=128))  # fmt: skip
    has_zero_point = base.flag("zero_point", default=False)
    is_symmetric = layer.flag("sym", default=base.flag("sym", default=True)) and not has_zero_point
    own = WeightFormat(num_bits=bits, scale=size if size > 0 else CHANNEL)
    return own, "" if is_symmetric else ASYMMETRIC


GPTQMODEL = Dialect(
    title="GPTQModel",
    bits=range(2, 9),
    group_sizes=(16, 32, 64, 128, 256, 512, 1024),
    scales=(CHANNEL,),
    takes_embeddings=False,
    write=lambda weights: as_json(write(weights)),
    usage="QuantizeConfig(**json.load(open(FILE)))",
)
