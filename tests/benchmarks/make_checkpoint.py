"""Llama-like checkpoints of a given size, made in a few MB of memory at the speed of the disk.

    python tests/benchmarks/make_checkpoint.py OUT --size 2.2GB --shards 3

Names and proportions are a llama's (hidden 4096, intermediate 11008, vocabulary 32000, scaled). The values repeat: one
pool of normal values, scaled for each kind of tensor and written over and over. The statistics are not those of a real
model; see `sample_data` for those.
"""

import argparse
import json
import math
import re
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

DTYPES = {"BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}

SMALL_TENSOR_ELEMENTS = 1024

POOL_ELEMENTS = 1_048_573
"""Prime, so that rows of any length begin at different offsets of the pool."""

PROJECTION_STDS = {"q": 0.03, "k": 0.03, "v": 0.015, "o": 0.015, "gate": 0.02, "up": 0.02, "down": 0.018}
"""Projection -> standard deviation of its weights, of the order found in trained models."""

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor to generate."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def parse_size(text: str) -> int:
    """Return the bytes of `2.2GB` (a power of ten), `64MiB` (a power of two) or a plain number."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text)
    if not match or match[2] not in UNITS:
        raise ValueError(f"not a size: {text!r}; expected a number and one of {', '.join(filter(None, UNITS))}")
    return int(float(match[1]) * UNITS[match[2]])


def layer_tensors(number: int, hidden: int) -> list[Tensor]:
    """Return one decoder layer: 4 square projections, 3 of the MLP, 2 norms."""
    intermediate = 11008 * hidden // 4096
    shapes = {f"self_attn.{name}": (hidden, hidden) for name in "qkvo"} | {
        "mlp.gate": (intermediate, hidden),
        "mlp.up": (intermediate, hidden),
        "mlp.down": (hidden, intermediate),
    }
    prefix = f"model.layers.{number}"
    projections = [
        Tensor(name=f"{prefix}.{name}_proj.weight", shape=shape, mean=0.0, std=PROJECTION_STDS[name.split(".")[1]])
        for name, shape in shapes.items()
    ]
    norms = [
        Tensor(name=f"{prefix}.{name}.weight", shape=(hidden,), mean=1.0, std=0.1)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    return [*projections, *norms]


def model_tensors(hidden: int, layers: int, vocabulary: int) -> list[Tensor]:
    """Return all tensors of a llama, in the order of its layers."""
    return [
        Tensor(name="model.embed_tokens.weight", shape=(vocabulary, hidden), mean=0.0, std=0.02),
        *(tensor for number in range(layers) for tensor in layer_tensors(number, hidden)),
        Tensor(name="model.norm.weight", shape=(hidden,), mean=1.0, std=0.1),
        Tensor(name="lm_head.weight", shape=(vocabulary, hidden), mean=0.0, std=0.02),
    ]


def plan_model(num_elements: int, layers: int | None = None) -> list[Tensor]:
    """Return the llama with at most `num_elements`, short of it by less than two rows of its vocabulary.

    Without `layers`: the widest that is at least as deep as a llama of its width (4096: 32 layers, 2048: 16, ...). With
    `layers`: the widest. Elements left over by whole layers go to the vocabulary.
    """
    widths = range(8192, 0, -64) if layers else [2**power for power in range(13, 5, -1)]
    for hidden in widths:
        rest = num_elements - count(model_tensors(hidden, 0, 125 * hidden // 16))
        depth = layers or rest // count(layer_tensors(0, hidden))
        left = rest - depth * count(layer_tensors(0, hidden))
        if left >= 0 and depth >= max(1, layers or hidden // 128):
            return model_tensors(hidden, depth, 125 * hidden // 16 + left // (2 * hidden))
    smallest = count(model_tensors(64, layers or 1, 500))
    raise ValueError(f"{num_elements} elements are too few for such a model; the smallest has {smallest}")


def count(tensors: Iterable[Tensor]) -> int:
    """Return the number of elements of all `tensors`."""
    return sum(tensor.num_elements for tensor in tensors)


def split(tensors: Sequence[Tensor], shards: int) -> list[list[Tensor]]:
    """Split consecutive tensors into `shards` parts of similar size, none of them empty."""
    if not 1 <= shards <= len(tensors):
        raise ValueError(f"{len(tensors)} tensors cannot be split into {shards} shards")
    parts: list[list[Tensor]] = [[]]
    share, done = count(tensors) / shards, 0
    for number, tensor in enumerate(tensors):
        needed = shards - len(parts)
        if parts[-1] and needed and (done >= share * len(parts) or len(tensors) - number == needed):
            parts.append([])
        parts[-1].append(tensor)
        done += tensor.num_elements
    return parts


def write_safetensors(path: Path, tensors: Sequence[Tensor], dtype: str, seed: int) -> None:
    """Write one file, tensor after tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.num_elements * DTYPES[dtype].itemsize
        header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pool = np.random.default_rng(seed).standard_normal(POOL_ELEMENTS, dtype=np.float32)
    scaled: dict[tuple[float, float], memoryview] = {}
    offset = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            kind = tensor.mean, tensor.std
            if kind not in scaled:
                scaled[kind] = _pool_bytes(pool, tensor, DTYPES[dtype])
            offset = _write_round(file, scaled[kind], tensor.num_elements * DTYPES[dtype].itemsize, offset)


def _pool_bytes(pool: np.ndarray, tensor: Tensor, dtype: np.dtype) -> memoryview:
    """Return the pool with the mean and the standard deviation of `tensor`."""
    values = pool * np.float32(tensor.std) + np.float32(tensor.mean)
    return memoryview(values.astype(dtype).view(np.uint8))


def _write_round(file: BinaryIO, data: memoryview, num_bytes: int, offset: int) -> int:
    """Write `num_bytes` from `offset` in `data`, cyclically; returns the end offset."""
    while num_bytes:
        piece = data[offset : offset + num_bytes]
        file.write(piece)
        num_bytes -= len(piece)
        offset = (offset + len(piece)) % len(data)
    return offset


def make_llama(
    folder: Path, num_bytes: int, *, shards: int = 1, dtype: str = "BF16", layers: int | None = None, seed: int = 0
) -> None:
    """Write a checkpoint with about `num_bytes` of tensors to the new or empty `folder`, with index and config.json."""
    tensors = plan_model(num_bytes // DTYPES[dtype].itemsize, layers)
    parts = split(tensors, shards)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        write_safetensors(folder / name, part, dtype, seed + number)
    index = {
        "metadata": {"total_size": count(tensors) * DTYPES[dtype].itemsize},
        "weight_map": {tensor.name: name for name, part in zip(names, parts, strict=True) for tensor in part},
    }
    _write_json(folder / "model.safetensors.index.json", index)
    vocabulary, hidden = tensors[0].shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": 11008 * hidden // 4096,
        "model_type": "llama",
        "num_hidden_layers": sum(tensor.name.endswith(".input_layernorm.weight") for tensor in tensors),
        "vocab_size": vocabulary,
    }
    _write_json(folder / "config.json", config)


def make_small_tensors(folder: Path, num_tensors: int, *, dtype: str = "BF16", seed: int = 0) -> None:
    """Write one file of `num_tensors` tensors of 1,024 elements to the new or empty `folder`."""
    shape = (32, SMALL_TENSOR_ELEMENTS // 32)
    tensors = [Tensor(name=f"blocks.{n:06}.weight", shape=shape, mean=0.0, std=0.02) for n in range(num_tensors)]
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors, dtype, seed)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def temporary_llama(
    num_bytes: int,
    *,
    shards: int = 1,
    dtype: str = "BF16",
    layers: int | None = None,
    seed: int = 0,
    parent: Path | None = None,
) -> Iterator[Path]:
    """Yield the folder of a checkpoint by `make_llama`, below `parent` (default: the system's); deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="qdq-checkpoint-", dir=parent) as root:
        folder = Path(root) / "model"
        make_llama(folder, num_bytes, shards=shards, dtype=dtype, layers=layers, seed=seed)
        yield folder


@contextmanager
def temporary_small_tensors(num_tensors: int, *, dtype: str = "BF16", parent: Path | None = None) -> Iterator[Path]:
    """Yield the folder of a checkpoint by `make_small_tensors`; deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="qdq-checkpoint-", dir=parent) as root:
        folder = Path(root) / "model"
        make_small_tensors(folder, num_tensors, dtype=dtype)
        yield folder


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> None:
    """Make the checkpoint described by the command line."""
    parser = argparse.ArgumentParser(description="Make a llama-like checkpoint for measurements.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; new or empty")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--size", type=_size, help="bytes of tensors: 2.2GB, 64MiB")
    what.add_argument("--small-tensors", type=int, metavar="N", help="N tensors of 1,024 elements in one file instead")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="files of the model [default: 1]")
    parser.add_argument("--dtype", choices=DTYPES, default="BF16", help="of all tensors [default: BF16]")
    parser.add_argument("--layers", type=int, metavar="N", help="decoder layers [default: as a llama of that size]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the values [default: 0]")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    start = time.monotonic()
    try:
        if options.small_tensors:
            make_small_tensors(options.out, options.small_tensors, dtype=options.dtype, seed=options.seed)
        else:
            make_llama(
                options.out,
                options.size,
                shards=options.shards,
                dtype=options.dtype,
                layers=options.layers,
                seed=options.seed,
            )
    except ValueError as error:
        parser.error(str(error))
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"{options.out}: {size:,} bytes in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
