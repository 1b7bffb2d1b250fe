"""Weights of compressed-tensors: integers packed into 32-bit words, integers and FP8 in a byte each.

Source: compressed-tensors 0.20, `compressors/pack_quantized`; words without codes that cross two of them, before 0.17.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Self

import numpy as np

from qdqcli.plain import Parsed
from qdqcli.tensors.packed.bits import dequantize, unpack
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, check_shape, damaged
from qdqcli.tensors.packed.format import CODES, GROUP_INDEX, SCALE, SHAPE, ZERO_POINT, PackedWeight
from qdqcli.tensors.packed.scaled import plain
from qdqcli.tensors.packed.scales import ScaleGrid, group_index
from qdqcli.tensors.packed.storage import CodeGrid

_WORD = 32
_MAX_NAME, _MAX_REPEATS = 300, 3
_REPEATS = re.compile(r"[*+{]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """Layout of codes in 32-bit words."""

    bits: int
    is_dense: bool
    """Codes may cross words; else the bits that are left in a word are padding."""

    def words(self, count: int) -> int:
        """Return the words that hold `count` codes."""
        return -(-count * self.bits // _WORD) if self.is_dense else -(-count // (_WORD // self.bits))

    @property
    def aligned(self) -> int:
        """Number of codes after which a word begins."""
        return _WORD if self.is_dense else _WORD // self.bits


@dataclass(frozen=True, kw_only=True)
class _PackQuantized:
    """Integers in 32-bit words along the rows; zero points in words along the columns."""

    shape: tuple[int, ...]
    grid: CodeGrid
    packing: _Packing
    scales: ScaleGrid

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        bits = self.packing.bits
        values = np.arange(1 << bits, dtype=np.float32) - (1 << (bits - 1))
        words = parts.rows(CODES, start, stop)
        scales = self.scales.rows(parts, start, stop)
        zeros = self._zero_points(parts, start, stop) if ZERO_POINT in parts else None
        index = group_index(parts, scales.shape[1], self.scales.block[1])
        size, is_dense = self.scales.block[1], self.packing.is_dense
        dequantize(words, values, scales, zeros, size=size, index=index, is_dense=is_dense, out=out)

    def _zero_points(self, parts: Parts, start: int, stop: int) -> Floats:
        """Return the zero points of rows [start, stop), a column per group."""
        packing = self.packing
        begin = start - start % packing.aligned
        words = parts.whole(ZERO_POINT)[packing.words(begin) : packing.words(stop)]
        codes = unpack(words.T, packing.bits, stop - begin, is_dense=packing.is_dense)[:, start - begin :]
        return codes.T - np.float32(1 << (packing.bits - 1))


def quantized(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of a code per byte, I8 or FP8, in groups or blocks of the declared size.

    Raises:
        MalformedError: the parts contradict each other or the configuration; names the tensor.
    """
    scheme = _weights_scheme(weight)
    _check_companions(weight, scheme)
    block = None
    match scheme.get("block_structure") or [1, scheme.get("group_size")]:
        case [int(height), int(width)] if min(height, width) > 0:
            block = height, width
    return plain(weight, parts, block=block, has_8_bits=scheme.get("num_bits", 8) == 8)


def _check_companions(weight: PackedWeight, scheme: Parsed) -> None:
    """Check that the parts are there that the configuration asks for.

    Raises:
        MalformedError: zero points or the group index are missing; names the codes.
    """
    if ZERO_POINT not in weight.parts and scheme.get("symmetric") is False:
        raise damaged(
            weight, CODES, "no weight_zero_point beside it, but the configuration says that it is not symmetric"
        )
    if GROUP_INDEX not in weight.parts and scheme.get("actorder") in (True, "group", "dynamic"):
        raise damaged(weight, CODES, "no weight_g_idx beside it, but the configuration says actorder")


def pack_quantized(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of integers packed into 32-bit words.

    Raises:
        MalformedError: the parts contradict each other or the configuration; names the tensor.
    """
    *lead, words = weight.parts[CODES].shape
    scheme = dict(_weights_scheme(weight))
    shape = _shape_of(weight, parts, scheme)
    if not lead or prod(shape[:-1]) != prod(lead):
        raise damaged(weight, CODES, f"{prod(lead)} rows, but its {SHAPE} is {list(shape)}")
    packing = _packing_of(weight, parts, shape, words, scheme)
    group = scheme.get("group_size")
    block = (1, group) if isinstance(group, int) and group > 0 else None
    scales = ScaleGrid.of(weight, shape, block=block)
    if block is not None and scales.block[1] != min(block[1], shape[-1]):
        raise damaged(weight, SCALE, f"groups of {block[1]} are declared, but a scale is of {scales.block[1]} columns")
    groups = -(-shape[-1] // scales.block[1])
    _check_companions(weight, scheme)
    if ZERO_POINT in parts:
        if len(shape) > 2:
            raise damaged(weight, ZERO_POINT, "zero points of a weight of more than two dimensions are not decoded")
        check_shape(weight, ZERO_POINT, (packing.words(shape[0]), groups))
    check_shape(weight, GROUP_INDEX, shape[-1:])
    grid = CodeGrid(packing.bits, scales.block, is_symmetric=ZERO_POINT not in parts)
    return _PackQuantized(shape=shape, grid=grid, packing=packing, scales=scales)


def _shape_of(weight: PackedWeight, parts: Parts, scheme: Parsed) -> tuple[int, ...]:
    *lead, words = weight.parts[CODES].shape
    if SHAPE in parts:
        if weight.parts[SHAPE].num_elements != len(lead) + 1:
            raise damaged(weight, SHAPE, f"{weight.parts[SHAPE].num_elements} sizes of a weight with {len(lead) + 1}")
        shape = tuple(int(size) for size in parts.whole(SHAPE).reshape(-1))
        if min(shape) < 1:
            raise damaged(weight, SHAPE, f"it is {list(shape)}")
        return shape
    bits = scheme.get("num_bits")
    if not isinstance(bits, int) or not 1 <= bits <= 8:
        raise damaged(weight, CODES, "neither a shape beside it nor num_bits in the configuration")
    return (*lead, words * _WORD // bits)


def _packing_of(weight: PackedWeight, parts: Parts, shape: tuple[int, ...], words: int, scheme: Parsed) -> _Packing:
    """Return the layout, from the number of words in a row and the declared bits, if any.

    A narrow weight takes as many words in both layouts: it is dense if a bit is set that would be padding.
    """
    width, declared = shape[-1], scheme.get("num_bits")
    fitting = [
        packing
        for bits in ([declared] if isinstance(declared, int) else range(1, 9))
        for is_dense in (True, False)
        if 1 <= bits <= 8 and (packing := _Packing(bits=bits, is_dense=is_dense)).words(width) == words
    ]
    if not fitting:
        bits_text = f"codes of {declared} bits" if declared is not None else "codes of 1 to 8 bits"
        raise damaged(weight, CODES, f"{words} words in a row do not hold {width} {bits_text}")
    if len({packing.bits for packing in fitting}) > 1:
        bits_text = " or ".join(dict.fromkeys(str(packing.bits) for packing in fitting))
        raise damaged(
            weight, CODES, f"{words} words in a row hold {width} codes of {bits_text} bits; the configuration is needed"
        )
    padding = np.uint32(_WORD // fitting[0].bits * fitting[0].bits)
    if len(fitting) == 1 or padding == _WORD or (parts.whole(CODES).view(np.uint32) >> padding).any():
        return fitting[0]
    return fitting[1]


def _weights_scheme(weight: PackedWeight) -> Parsed:
    """Return the `weights` object of the configuration's group that targets the weight; empty where none is known.

    A group that names the module counts before one that names a class; of several with classes only what all say.
    """
    groups = next((kept for kept in _KEPT if kept.config is weight.config), None) or _Groups.of(weight.config)
    _KEPT[:] = [groups]
    schemes = groups.schemes_of(weight.name.removesuffix(".weight"))
    if not schemes:
        return {}
    return {key: value for key, value in schemes[0].items() if all(scheme.get(key) == value for scheme in schemes)}


class _Groups(NamedTuple):
    """The `config_groups` of a configuration, which may name each of 30,000 modules."""

    config: Parsed
    groups: Sequence[Parsed]
    names: Mapping[str, int]
    """Module -> first group that names it."""
    patterns: Sequence[tuple[int, re.Pattern[str]]]
    """Groups in their order, with the patterns of modules that they target."""

    @classmethod
    def of(cls, config: Parsed) -> Self:
        groups = config.get("config_groups")
        found = (
            [group for group in groups.values() if isinstance(group, Mapping)] if isinstance(groups, Mapping) else []
        )
        names: dict[str, int] = {}
        patterns: list[tuple[int, re.Pattern[str]]] = []
        for number, target in ((number, target) for number, group in enumerate(found) for target in _targets(group)):
            if not target.startswith("re:"):
                names.setdefault(target, number)
            elif (pattern := _pattern(target.removeprefix("re:"))) is not None:
                patterns.append((number, pattern))
        return cls(config, found, names, patterns)

    def schemes_of(self, module: str) -> Sequence[Parsed]:
        """Return the scheme of the group that names the module, else those of all groups."""
        first = self.names.get(module)
        if len(module) <= _MAX_NAME:
            patterns = ((number, pattern) for number, pattern in self.patterns if first is None or number < first)
            first = next((number for number, pattern in patterns if pattern.match(module)), first)
        named = self.groups if first is None else [self.groups[first]]
        return [scheme for group in named if isinstance(scheme := group.get("weights"), Mapping)]


_KEPT: list[_Groups] = []
"""The groups of the last configuration: all weights of a folder have one."""


def _targets(group: Parsed) -> Iterator[str]:
    targets = group.get("targets")
    yield from (target for target in targets if isinstance(target, str)) if isinstance(targets, list) else ()


def _pattern(text: str) -> re.Pattern[str] | None:
    """Return a pattern; None for one that could take very long, which only a hostile configuration has."""
    if len(text) > _MAX_NAME or len(_REPEATS.findall(text)) > _MAX_REPEATS or _REPEATED_GROUP.search(text):
        return None
    try:
        return re.compile(text)
    except re.error:
        return None
