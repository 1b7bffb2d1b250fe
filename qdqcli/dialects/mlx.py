"""MLX: the `quantization` of a config.json, with the settings of single layers by their path.

Paths are exact. Linear layers and embeddings without an entry take the default, false leaves one in float, and a weight
whose last dimension the group size does not divide stays in float. The experts of a layer are one module, `switch_mlp`.
Source: mlx-lm 0.32, utils.py and models/switch_layers.py.
"""

import re
from collections.abc import Sequence

from qdqcli.dialects import match
from qdqcli.dialects.compressed_tensors import NO_INTEGERS
from qdqcli.dialects.dialect import Dialect, as_json, base_of, by_format
from qdqcli.dialects.imported import EMBEDDING, Imported, ImportedRule, linear_layers
from qdqcli.dialects.table import Table
from qdqcli.dialects.weight import Weight, WeightFormat
from qdqcli.errors import UsageError
from qdqcli.plain import JsonObject
from qdqcli.recipe.candidates import BACKENDS

OFFSET = "mode affine has an offset beside each scale; symmetric here, about 1 dB worse at 4 bits"
_EXPERT = re.compile(r"\.experts\.\d+\.(\w+)$", re.ASCII)
_PROJECTIONS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
"""Mixtral's names -> those of MLX."""
_BITS, _GROUPS = BACKENDS["mlx"]


def write(weights: Sequence[Weight]) -> JsonObject:
    """Return the content of a config.json with nothing but its `quantization`."""
    groups = by_format(weights)
    base = base_of(groups)
    formats: dict[str, WeightFormat | None] = {}
    for own, modules in groups.items():
        for module in modules:
            path = _path(module)
            if formats.setdefault(path, own) != own:
                raise UsageError(f"MLX: all experts of a layer become one module, '{path}', but differ; give them one "
                                 "setting (qdq plan ties them)")  # fmt: skip
    layers = {path: False if own is None else _arguments(own) for path, own in formats.items() if own != base}
    return {"quantization": {**_arguments(base), "mode": "affine", **layers}}


def _path(module: str) -> str:
    """Return the path of a module in MLX, where one module holds all experts of a layer."""
    return _EXPERT.sub(lambda found: f".switch_mlp.{_PROJECTIONS.get(found[1], found[1])}", module)


def _pattern(path: str) -> str:
    """Return the pattern of a path, for experts of their own and for those of one module."""
    head, switch, part = path.rpartition(".switch_mlp.")
    if not switch:
        return match.exact(path)
    parts = "|".join([part, *(name for name, own in _PROJECTIONS.items() if own == part)])
    return rf"re:{re.escape(head)}\.(switch_mlp|experts\.\d+)\.({parts})\.weight"


def _arguments(own: WeightFormat) -> JsonObject:
    return {"group_size": own.scale, "bits": own.num_bits}


def read(config: Table) -> Imported:
    """Read a `quantization`."""
    own, comment = _format_of(config, config)
    base = linear_layers(own, origin=f"default: {own}" if own else "default", comment=comment)
    rules = [rule for rule in base if rule.reason != EMBEDDING]
    layers = [ImportedRule(patterns=[_pattern(path)], reason="false", origin="by path")
              for path, value in config.data.items() if value is False]  # fmt: skip
    for path, layer in config.items():
        own, comment = _format_of(layer, config)
        pattern = _pattern(path)
        layers.append(ImportedRule(patterns=[pattern], format=own, comment=comment, reason=comment, origin="by path"))
    layers.sort(key=lambda rule: (rule.format is not None, str(rule.format)))  # paths are exact: any order will do
    return Imported(title="MLX", rules=[*rules, *layers], skips_indivisible=True)


def _format_of(layer: Table, base: Table) -> tuple[WeightFormat | None, str]:
    mode = layer.text("mode", default=base.text("mode", default="affine"))
    if mode != "affine":
        return None, f"mode {mode} {NO_INTEGERS}"
    bits = layer.bits("bits", default=base.bits("bits"))
    size = layer.integer("group_size", default=base.integer("group_size"))
    if size < 1:
        layer.fail("group_size", "the size of a group")
    return WeightFormat(num_bits=bits, scale=size), OFFSET


MLX = Dialect(
    title="MLX",
    bits=_BITS,
    group_sizes=_GROUPS,
    scales=(),
    write=lambda weights: as_json(write(weights)),
    usage="mlx_lm.convert with quant_predicate=lambda path, _: table.get(path, True), where table is the quantization "
    "in the file ('qdq help dialects'); its groups have an offset too, about 1 dB better at 4 bits than this op",
)
