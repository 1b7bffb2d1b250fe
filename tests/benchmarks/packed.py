"""Packed checkpoints: decoders per format, `compare` beside that of BF16 files, and other libraries on the same codes.

`python tests/benchmarks/packed.py`; compressed-tensors (with torch) and gguf take part where they are installed.
"""

import json
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qdqcli import compare as compare_checkpoints
from qdqcli.tensors.checkpoint import Checkpoint, open_checkpoint
from qdqcli.tensors.packed.inputs import decode_inputs
from tests.benchmarks.ratios import Table, Work, compare
from tests.tensors.packed.golden import Stored, save

ROWS, COLUMNS, GROUP = 4096, 4096, 128
ROUNDS = 5


def files(folder: Path) -> Iterator[str]:
    """Write one weight in several formats; yields their names."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((ROWS, COLUMNS), dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
    y = (x.astype(np.float32) * 1.01).astype(ml_dtypes.bfloat16)
    _write(folder / "original", {"a.weight": ("BF16", x.shape, x.tobytes())}, None)
    _write(folder / "BF16", {"a.weight": ("BF16", y.shape, y.tobytes())}, None)
    yield "BF16"
    for bits in (3, 4, 8):
        codes, scales = _rounded(x.astype(np.float32), bits)
        words = _words(codes, bits)
        tensors: dict[str, Stored] = {
            "a.weight_packed": ("I32", words.shape, words.tobytes()),
            "a.weight_scale": ("F16", scales.shape, scales.tobytes()),
            "a.weight_shape": ("I64", (2,), np.array(x.shape, np.int64).tobytes()),
        }
        scheme = {"targets": ["Linear"], "weights": {"num_bits": bits, "group_size": GROUP}}
        config = {"quant_method": "compressed-tensors", "config_groups": {"g": scheme}}
        yield _write(folder / f"pack-quantized int{bits} g{GROUP}", tensors, config)
    codes, scales = _rounded(x.astype(np.float32), 4)
    words, zeros = _words(codes, 4).T, np.full((COLUMNS // GROUP, ROWS // 8), 0x77777777, np.uint32)
    tensors = {
        "a.qweight": ("I32", words.shape, words.tobytes()),
        "a.qzeros": ("I32", zeros.shape, zeros.tobytes()),
        "a.scales": ("F16", scales.T.shape, scales.T.tobytes()),
    }
    yield _write(folder / f"GPTQ int4 g{GROUP}", tensors, {"quant_method": "gptq", "bits": 4, "group_size": GROUP})
    tiles = x.astype(np.float32).reshape(ROWS // 128, 128, COLUMNS // 128, 128)
    blocks = np.abs(tiles).max((1, 3)) / np.float32(448)
    codes = (tiles / blocks[:, None, :, None]).astype(ml_dtypes.float8_e4m3fn).reshape(x.shape)
    tensors = {"a.weight": ("F8_E4M3", codes.shape, codes.tobytes()),
               "a.weight_scale_inv": ("F32", blocks.shape, blocks.tobytes())}  # fmt: skip
    yield _write(folder / "FP8 128x128", tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]})


def _rounded(x: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return unsigned codes and the scales of groups."""
    groups, middle = x.reshape(ROWS, -1, GROUP), 1 << (bits - 1)
    scales = (np.abs(groups).max(-1) / (middle - 1)).astype(np.float16)
    codes = np.clip(np.round(groups / scales[:, :, None]), -middle, middle - 1) + middle
    return codes.astype(np.uint8).reshape(ROWS, COLUMNS), scales


def _words(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Pack codes along the rows, dense and low bits first."""
    single = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little").reshape(ROWS, -1)
    return np.packbits(single, axis=1, bitorder="little").view(np.uint32)


def _write(folder: Path, tensors: dict[str, Stored], config: object) -> str:
    folder.mkdir()
    save(folder / "model.safetensors", tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder.name


def decode(view: Checkpoint) -> None:
    """Read every weight of a decoded view, in one thread."""
    buffer: NDArray[np.float32] = np.empty(1 << 20, np.float32)
    for shard in view.shards:
        with shard.open() as reader:
            for info in shard.tensors:
                for start in range(0, info.nbytes, buffer.nbytes):
                    part = buffer[: min(len(buffer), (info.nbytes - start) // 4)]
                    reader.read_into(info, start, part.view(np.uint8).data)


def decoders(folder: Path, names: list[str], table: Table) -> None:
    views = {name: decode_inputs([open_checkpoint(folder / name)])[0][0] for name in names}
    works: dict[str, Work] = {name: lambda view=view: decode(view) for name, view in views.items()}
    works |= _peers()
    for name, seconds in compare(ROUNDS, min, **works).items():
        table.value(f"decoded, M elements/s: {name}", ROWS * COLUMNS / seconds / 1e6)


def _peers() -> dict[str, Work]:
    """Return other libraries' decoders on as many 4-bit codes in one thread."""
    found: dict[str, Work] = {}
    if find_spec("compressed_tensors") and find_spec("torch"):
        import torch
        from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

        torch.set_num_threads(1)
        words = torch.randint(-(1 << 31), 1 << 31, (ROWS, COLUMNS // 8), dtype=torch.int32)
        scales = torch.full((ROWS, COLUMNS // GROUP, 1), 0.01)

        def unpacked() -> object:
            codes = unpack_from_int32(words, 4, torch.Size((ROWS, COLUMNS)))
            return codes.reshape(ROWS, -1, GROUP).float() * scales

        found["(compressed-tensors with torch, int4 g128)"] = unpacked
    if find_spec("gguf"):
        from gguf import GGMLQuantizationType, quants

        blocks = np.zeros((ROWS, COLUMNS // 32 * 18), np.uint8)
        found["(gguf, Q4_0)"] = lambda: quants.dequantize(blocks, GGMLQuantizationType.Q4_0)
    return found


def comparisons(folder: Path, names: list[str], table: Table) -> None:
    def work(name: str) -> Work:
        return lambda: compare_checkpoints(folder / "original", folder / name)

    seconds = compare(ROUNDS, **{name: work(name) for name in names})
    for name in names[1:]:
        table.value(f"compare, times that of BF16 files: {name}", seconds[name] / seconds["BF16"], 2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        everything = list(files(Path(name)))
        decoders(Path(name), everything[1:], Table())
        comparisons(Path(name), everything, Table())
