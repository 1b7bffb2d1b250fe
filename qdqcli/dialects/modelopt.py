"""ModelOpt: a PTQ recipe with an ordered list of quantizers, and the configurations of models that it exports.

Quantizers are named MODULE.weight_quantizer and matched by globs (fnmatch); a later entry wins. Source: ModelOpt 0.47,
torch/quantization/conversion.py.
"""

from collections.abc import Callable, Mapping, Sequence

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import ACTIVATIONS, NO_INTEGERS
from qdqcli.dialects.dialect import Dialect, as_yaml, by_format
from qdqcli.dialects.imported import (
    EMBEDDING,
    EVERYTHING,
    OUTPUT_HEAD,
    ROUTER,
    STATE_SPACE,
    Imported,
    ImportedRule,
    left_in_float,
    linear_layers,
    patterns_of,
)
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import CHANNEL, TENSOR, Weight, WeightFormat
from qdqcli.escape import escape_name
from qdqcli.plain import JsonObject
from qdqcli.recipe.folding import folded_globs

_QUANTIZER = "_quantizer"
_MIXED, _NO_QUANT = "MIXED_PRECISION", "NO_QUANT"
_FLOATS = ("NVFP4", "MXFP4")
"""Parts of the names of algorithms that have 4-bit floats: W4A16_NVFP4, W4A8_MXFP4_FP8."""
_EMBEDDING_CLASS = "nn.Embedding"
_NUMERICS: Mapping[str, WeightFormat] = {
    "int4_per_block": WeightFormat(num_bits=4, scale=128),
    "int8": WeightFormat(num_bits=8, scale=TENSOR),
    "int8_per_channel": WeightFormat(num_bits=8, scale=CHANNEL),
}
"""File in `configs/numerics` -> format."""
_OTHER_BRANCHES = ("*embed_vision*", "*vision_tower*", "*visual*", "*vision_model*", "*multi_modal_projector*", "mtp.*")
_DISABLED: Mapping[str, Callable[[], Sequence[str]]] = {
    "base_disable_all": lambda: EVERYTHING,
    "default_disabled_quantizers": lambda: [*patterns_of(OUTPUT_HEAD, ROUTER, STATE_SPACE), *_OTHER_BRANCHES],
}
"""File in `configs/ptq/units` -> what it leaves in float."""


def write(weights: Sequence[Weight]) -> JsonObject:
    """Return the content of a recipe: everything off, then the weights by format."""
    names = {weight.name for weight in weights}
    entries: list[JsonObject] = [{"quantizer_name": "*", "enable": False}]
    for own, modules in by_format(weights).items():
        if own is not None:
            tensors = [f"{module}.weight" for module in modules]
            entries += [{"quantizer_name": glob + _QUANTIZER, "cfg": _arguments(own)}
                        for glob in folded_globs(tensors, names - set(tensors))]  # fmt: skip
    return {"metadata": {"recipe_type": "ptq", "description": "Written by qdq recipe export."},
            "quantize": {"algorithm": "max", "quant_cfg": entries}}  # fmt: skip


def _arguments(own: WeightFormat) -> JsonObject:
    if isinstance(own.scale, int):
        return {"num_bits": own.num_bits, "block_sizes": {-1: own.scale, "type": "static"}}
    return {"num_bits": own.num_bits, "axis": 0 if own.scale == CHANNEL else None}


def read_recipe(recipe: Table) -> Imported:
    """Read a PTQ recipe; of the files that it imports, those of ModelOpt for integers and for what stays in float."""
    rules = [ImportedRule(patterns=EVERYTHING, reason="not named")]
    notes = []
    paths = recipe.table("imports")
    for entry in recipe.table("quantize").tables("quant_cfg"):
        if "$import" in entry:
            name = _imported(entry, paths)
            if name in _DISABLED:
                rules.append(ImportedRule(patterns=_DISABLED[name](), reason="disabled"))
            else:
                notes.append(f"not followed: $import {name}")
            continue
        glob = entry.text("quantizer_name")
        pattern = match.on_weights(glob)
        if pattern is None:
            continue
        parent = entry.text("parent_class", default="")
        if parent and parent != _EMBEDDING_CLASS:
            notes.append(f"left out: {glob} of the class {parent}, which names do not tell")
            continue
        patterns = patterns_of(EMBEDDING) if parent else [pattern]
        is_enabled = entry.flag("enable", default=True)
        own, comment = _format_of(entry, paths) if is_enabled and "cfg" in entry else (None, "")
        if own is not None or comment or not is_enabled:
            reason = comment or "disabled"
            rules.append(
                ImportedRule(patterns=patterns, format=own, comment=comment, reason=reason, origin="quant_cfg")
            )
    return Imported(title="ModelOpt", rules=rules, notes=notes)


def _imported(table: Table, paths: Table) -> str:
    """Return the name of the file that an object imports, without its folder."""
    name = table.text("$import")
    return paths.text(name, default=name).rpartition("/")[2]


def _format_of(entry: Table, paths: Table) -> tuple[WeightFormat | None, str]:
    if not isinstance(entry.data["cfg"], dict):
        return None, f"a sequence of quantizers {NO_INTEGERS}"
    cfg = entry.table("cfg")
    if "$import" in cfg:
        name = _imported(cfg, paths)
        return (_NUMERICS[name], "") if name in _NUMERICS else (None, f"{name} {NO_INTEGERS}")
    if not isinstance(cfg.data.get("num_bits", 8), int):
        return None, f"num_bits {cfg.data['num_bits']} {NO_INTEGERS}"
    bits = cfg.bits("num_bits", default=8)
    blocks = {str(key): value for key, value in cfg.table("block_sizes").data.items()}  # YAML has -1, JSON "-1"
    size = blocks.get("-1")
    if isinstance(size, int) and size > 0:
        return WeightFormat(num_bits=bits, scale=size), ""
    if blocks:
        return None, f"blocks other than along the last axis {NO_INTEGERS}"
    return WeightFormat(num_bits=bits, scale=TENSOR if cfg.data.get("axis") is None else CHANNEL), ""


def read_config(config: Table) -> Imported:
    """Read hf_quant_config.json, or a `quantization_config` of ModelOpt."""
    algorithm = config.text("quant_algo", default=_NO_QUANT).upper()
    own, comment = (None, "") if algorithm == _MIXED else _of_algorithm(config)
    rules = linear_layers(own, origin="" if algorithm == _MIXED else f"quant_algo: {algorithm}", comment=comment)
    for name, layer in config.table("quantized_layers").items():
        own, comment = _of_algorithm(layer)
        rules.append(ImportedRule(patterns=[match.exact(name)], format=own, comment=comment, reason=comment,
                                  origin="quantized_layers"))  # fmt: skip
    excluded = config.texts("exclude_modules", "ignore")
    if excluded:
        patterns = [match.on_module(glob) for glob in excluded]
        rules.append(left_in_float(patterns, "exclude_modules"))
    return Imported(title="ModelOpt", rules=rules)


def _of_algorithm(layers: Table) -> tuple[WeightFormat | None, str]:
    """Return the format of weights by the name of an algorithm, and what is lost."""
    algorithm = layers.text("quant_algo", default=_NO_QUANT).upper()
    if algorithm == _NO_QUANT:
        return None, "its quant_algo leaves weights in float"
    if not any(kind in algorithm for kind in _FLOATS):
        lost = ACTIVATIONS if algorithm.startswith(("W4A8", "W8A8", "INT8_SQ")) else ""
        if algorithm.startswith(("W4A16", "W4A8", "INT4")):
            return WeightFormat(num_bits=4, scale=layers.integer("group_size", default=128)), lost
        if algorithm.startswith(("W8A16", "W8A8", "INT8")):
            return WeightFormat(num_bits=8, scale=CHANNEL), lost
    return None, f"{escape_name(algorithm)} {NO_INTEGERS}"


MODELOPT = Dialect(
    title="ModelOpt",
    bits=range(2, 9),
    takes_convolutions=True,
    write=lambda weights: as_yaml(write(weights)),
    usage="a PTQ recipe; mtq.quantize(model, yaml.safe_load(open(FILE))['quantize']) takes it too",
)
