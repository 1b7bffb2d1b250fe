"""Decoded view of a checkpoint: packed weights appear as float tensors, under the names of a float checkpoint.

Codes, scales and other parts disappear, and so do the scales of activations. A read decodes the rows that it needs, so
that memory does not grow with the weight.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.tensors.checkpoint import Checkpoint, Shard, ShardReader
from qdqcli.tensors.flat import FlatWriter
from qdqcli.tensors.gguf import GgufShard
from qdqcli.tensors.input_file import FileIdentity
from qdqcli.tensors.open_shards import OpenShards
from qdqcli.tensors.packed.decoder import Decoder, PartCache, Parts, damaged, num_rows
from qdqcli.tensors.packed.format import CODES, PackedWeight, block_text
from qdqcli.tensors.packed.recognise import Packed, key_of
from qdqcli.tensors.packed.storage import Storage
from qdqcli.tensors.safetensors import header_of
from qdqcli.tensors.tensor import DTYPES, TensorInfo, plain_shape, span_error

STEP_ELEMENTS = 1 << 19
"""Elements decoded at once: what NumPy needs in between stays in a core's cache."""

MAX_WIDTH = 1 << 22
"""Longest row that is decoded: a row is decoded whole, by each thread. Vocabularies have some 260,000 columns."""

OUTPUT_DTYPES: Mapping[str, type[Any]] = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
"""Dtypes of decoded weights; values are rounded from float32 to nearest, ties to even."""


class DecodedWeight(NamedTuple):
    """A packed weight with its decoder, and the tensor that it appears as."""

    weight: PackedWeight
    decoder: Decoder
    info: TensorInfo


def decode(
    checkpoint: Checkpoint, packed: Packed, shards: Mapping[str, Shard], dtype: str
) -> tuple[Checkpoint, Packed]:
    """Return the decoded view, and the packed weights whose format is not decoded: they stay as they are.

    `shards` holds all shards, by name, that may hold parts.

    Raises:
        InputError: the parts of a weight contradict each other; names the tensor.
    """
    weights = [weight for weight in packed.weights if weight.format.decoder is not None]
    gone = {key_of(part) for weight in weights for part in weight.parts.values()}
    gone |= {key_of(tensor) for tensor, _ in packed.activation_scales}
    own = {shard.name for shard in checkpoint.shards}
    current = [
        weight
        for weight in weights
        if weight.parts[CODES].shard in own and key_of(weight.parts[CODES]) not in checkpoint.superseded
    ]
    with OpenShards() as readers:
        reader_of = readers.by_name(shards)
        decoded = {}
        for weight in current:
            codes = weight.parts[CODES]
            with blame(shards[codes.shard].path):
                decoded[key_of(codes)] = _open(weight, reader_of, dtype)
    view = replace(
        checkpoint,
        shards=[_decoded(shard, shards, decoded, gone) for shard in checkpoint.shards],
        storage={key_of(found.info): _storage(found) for found in decoded.values()},
    )
    rest = tuple(weight for weight in packed.weights if weight.format.decoder is None)
    return view, Packed(weights=rest, activation_scales=packed.activation_scales if rest else ())


def _open(weight: PackedWeight, reader_of: Callable[[str], ShardReader], dtype: str) -> DecodedWeight:
    _check_dtypes(weight)
    stored = weight.parts[CODES]
    if not stored.num_elements or not stored.shape:
        what = "no elements" if stored.shape else "no dimensions"
        raise damaged(weight, CODES, f"its shape is {plain_shape(stored.shape)}: it has {what}")
    module, attribute = str(weight.format.decoder).split(":")
    decoder: Decoder = getattr(import_module(module), attribute)(weight, Parts(weight, reader_of, PartCache()))
    codes, kind = weight.parts[CODES], DTYPES[dtype]
    if decoder.shape[-1] > MAX_WIDTH:
        raise damaged(weight, CODES, f"a row has {decoder.shape[-1]:,} elements; at most {MAX_WIDTH:,} are decoded")
    elements = num_rows(decoder.shape) * decoder.shape[-1]
    info = TensorInfo(weight.name, kind, decoder.shape, codes.shard, codes.start, elements * kind.bits // 8)
    return DecodedWeight(weight, decoder, info)


def _check_dtypes(weight: PackedWeight) -> None:
    """Check the dtypes of optional parts, by which a weight is not recognised.

    Raises:
        MalformedError: a part has a dtype that the format does not know; names the tensor.
    """
    for part in weight.format.parts:
        found = weight.parts.get(part.role)
        if found is not None and found.dtype.name not in part.dtypes:
            raise damaged(weight, part.role, f"its dtype is {found.dtype.name}, expected {' or '.join(part.dtypes)}")


def _storage(found: DecodedWeight) -> Storage:
    nbytes = sum(part.nbytes for part in found.weight.parts.values())
    grid = found.decoder.grid
    return Storage(found.weight.titled(block_text(found.info.shape, grid.block)), grid, nbytes)


def _decoded(
    shard: Shard, shards: Mapping[str, Shard], decoded: Mapping[tuple[str, str], DecodedWeight], gone: set[Any]
) -> Shard:
    """Return the view of one shard; the shard itself where nothing of it is packed.

    Raises:
        InputError: a weight has the name of another weight or tensor of its file.
    """

    def twice(found: DecodedWeight, other: str) -> InputError:
        return InputError(
            f"{show_path(shard.path)}: tensor '{escape_name(found.info.name)}' is there twice: {other}, and packed as "
            f"{found.weight.format.name}; one of them must go"
        )

    own: dict[str, DecodedWeight] = {}
    stored: dict[str, TensorInfo] = {}
    for tensor in shard.tensors:
        key = key_of(tensor)
        if key in decoded:
            found = decoded[key]
            if own.setdefault(found.info.name, found) is not found:
                raise twice(found, f"packed as {own[found.info.name].weight.format.name}")
        elif key not in gone:
            stored[tensor.name] = tensor
    if len(stored) == len(shard.tensors) and not isinstance(shard, GgufShard):
        return shard
    for name in own.keys() & stored.keys():
        raise twice(own[name], "in float")
    header, tensors = _layout([*(found.info for found in own.values()), *stored.values()])
    return DecodedShard(base=shard, shards=shards, header=header, tensors=tensors, decoded=own, stored=stored)


def _layout(tensors: Sequence[TensorInfo]) -> tuple[bytes, tuple[TensorInfo, ...]]:
    """Return the header of a safetensors file with these tensors, and the tensors at their offsets in it.

    Wide elements come first, as the library writes them: every tensor is then aligned.
    """
    ordered = sorted(tensors, key=lambda tensor: (-tensor.dtype.bits, tensor.shard, tensor.start))
    records: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        offsets = [end, end + tensor.nbytes]
        records[tensor.name] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "data_offsets": offsets}
        end += tensor.nbytes
    header = header_of(records)
    starts = (len(header) + records[tensor.name]["data_offsets"][0] for tensor in ordered)
    placed = tuple(tensor._replace(start=start) for tensor, start in zip(ordered, starts, strict=True))
    return header, placed


@dataclass(frozen=True, kw_only=True)
class DecodedShard:
    """A `Shard` whose packed weights are decoded as they are read; written, it is a safetensors file of its tensors."""

    base: Shard
    shards: Mapping[str, Shard]
    """Shards by name that may hold parts: the scales of a weight may be in another one."""
    header: bytes
    """First bytes of the file that it is written as."""
    tensors: tuple[TensorInfo, ...]
    """Tensors, at their offsets in that file."""
    decoded: Mapping[str, DecodedWeight]
    """Name -> packed weight."""
    stored: Mapping[str, TensorInfo]
    """Name -> tensor of the base that stays as it is."""

    @property
    def path(self) -> Path:
        return self.base.path

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def output_name(self) -> str:
        """Name of a safetensors file, where the base is a GGUF file."""
        name = Path(self.base.name)
        return (name.with_suffix(".safetensors") if isinstance(self.base, GgufShard) else name).as_posix()

    @property
    def identity(self) -> FileIdentity:
        return self.base.identity

    @property
    def marks(self) -> frozenset[str]:
        return frozenset()

    @property
    def output_bytes(self) -> int:
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    @contextmanager
    def open(self) -> Iterator["DecodedReader"]:
        with OpenShards() as readers:
            yield DecodedReader(self, readers)

    def header_digest(self) -> str:
        return hashlib.sha256(self.header).hexdigest()

    def create(self, path: Path, reader: ShardReader, unfinished: str | None = None) -> FlatWriter:
        del reader
        return FlatWriter(path, [self.header], self.output_bytes, self.path.stat().st_mode, unfinished)


def _row_blocks(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the rows that hold elements [first, last), some at once; those that begin or end outside are alone."""
    row, step = first // width, max(STEP_ELEMENTS // width, 1)
    while row * width < last:
        is_cut = row * width < first
        until = row + 1 if is_cut else max(min(row + step, last // width), row + 1)
        yield row, until
        row = until


class DecodedReader:
    """Decodes packed weights, and reads all other tensors from their file."""

    def __init__(self, shard: DecodedShard, readers: OpenShards) -> None:
        self._shard = shard
        self._reader_of = readers.by_name(shard.shards)
        self._cache = PartCache()
        self._base = self._reader_of(shard.name)

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        found = self._shard.decoded.get(tensor.name)
        if found is None:
            self._base.read_into(self._shard.stored[tensor.name], start, buffer)
            return
        if not 0 <= start <= tensor.nbytes - buffer.nbytes:
            raise span_error(tensor, start, buffer.nbytes)
        if not buffer.nbytes:
            return
        out = np.frombuffer(buffer, OUTPUT_DTYPES[tensor.dtype.name])
        first, width = start // out.itemsize, tensor.shape[-1]
        parts = Parts(found.weight, self._reader_of, self._cache)
        # Products beyond float32 are infinite: statistics count them.
        with np.errstate(over="ignore", invalid="ignore"), blame(self._shard.path):
            for row, until in _row_blocks(first, first + len(out), width):
                begin, end = row * width - first, until * width - first
                if begin >= 0 and end <= len(out) and out.dtype == np.float32:
                    found.decoder.rows(parts, row, until, out[begin:end].reshape(-1, width))
                else:
                    rows = np.empty((until - row, width), np.float32)
                    found.decoder.rows(parts, row, until, rows)
                    values = rows.reshape(-1)[max(-begin, 0) : len(out) - begin]
                    out[max(begin, 0) : end] = values
                    if tensor.dtype.name != "F32" and not np.isfinite(out[max(begin, 0) : end]).all():
                        what = f"values beyond those of {tensor.dtype.name}"
                        if not np.isfinite(values).all():
                            what = "values that are NaN or infinite"
                        raise MalformedError(f"tensor '{escape_name(tensor.name)}': {what}; decode to f32 to see them")

    def read_batch(self, first: TensorInfo, buffer: memoryview) -> bool:  # noqa: ARG002
        return False

    def read_ahead(self, tensors: Iterable[TensorInfo], max_bytes: int) -> None:
        """Do nothing: a weight has parts in several files."""
