"""Golden packed checkpoints, each made by the format's own library, with what that library decodes them to.

Run once, in an environment of its own that has the libraries; the tests need none of them:

    python tests/tensors/packed/make_golden.py compressed_tensors

Each folder of `golden/` holds `packed/` (a checkpoint), `original.safetensors` (the weights before),
`decoded.safetensors` (from the library's dequantizer) and `origin.json`.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden"
Tensors = dict[str, torch.Tensor]


def weight(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A weight with rows of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(0.01, 0.1, shape[-2]).reshape(-1, 1)
    return (torch.randn(shape, generator=generator) * sizes).to(dtype)


def store(
    name: str, packed: Tensors, original: Tensors, decoded: Tensors, config: dict[str, Any], origin: dict[str, str],
    metadata: dict[str, str] | None = None, config_name: str = "config.json",
) -> None:  # fmt: skip
    folder = GOLDEN / name
    (folder / "packed").mkdir(parents=True, exist_ok=True)
    save_file({key: t.contiguous() for key, t in packed.items()}, folder / "packed" / "model.safetensors",
              {"format": "pt", **(metadata or {})})  # fmt: skip
    if config:
        (folder / "packed" / config_name).write_text(json.dumps(config, indent=1) + "\n")
    for file, tensors in (("original", original), ("decoded", decoded)):
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{file}.safetensors")
    (folder / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")


def compressed_tensors() -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    origin = {"library": "compressed-tensors", "version": version("compressed-tensors"), "torch": torch.__version__}

    def make(name: str, format_name: str, layers: dict[str, tuple[dict[str, Any], torch.Tensor]]) -> None:
        packed: Tensors = {}
        original: Tensors = {}
        decoded: Tensors = {}
        groups: dict[str, Any] = {}
        for layer, (settings, w) in layers.items():
            settings = dict(settings)
            has_index = settings.pop("index", False)
            args = QuantizationArgs(**settings)
            scheme = QuantizationScheme(targets=[layer], weights=args)
            compressor = BaseCompressor.get_value_from_registry(format_name)
            blocks, index = blocks_of(w, args), None
            more: Tensors = {}
            if has_index:
                index = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(7)) // args.group_size
                blocks = w[:, torch.argsort(index, stable=True)].reshape(w.shape[0], -1, args.group_size)
            if format_name == "nvfp4-pack-quantized":
                more["weight_global_scale"] = generate_gparam(w.min().reshape(1), w.max().reshape(1))
            scale, zero = calculate_qparams(
                blocks.amin(-1), blocks.amax(-1), args, global_scale=more.get("weight_global_scale")
            )
            state = {"weight": w, "weight_scale": scale.to(w.dtype), **more}
            if not args.symmetric:
                state["weight_zero_point"] = zero
            if index is not None:
                order = torch.argsort(index, stable=True)
                state["weight"] = w[:, order]
                compressed = compressor.compress(state, scheme)
                found = compressor.decompress(compressed, scheme)["weight"]
                back = torch.argsort(order)
                state["weight"] = w
                # The library's words in the order of the weight's columns; the index says which group each is of.
                from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

                codes = unpack_from_int32(compressed["weight_packed"], args.num_bits, w.shape)
                compressed["weight_packed"] = pack_to_int32(codes[:, back], args.num_bits)
                compressed["weight_g_idx"] = index.to(torch.int32)
                found = found[:, back]
            else:
                compressed = compressor.compress(state, scheme)
                found = compressor.decompress(compressed, scheme)["weight"]
            packed |= {f"{layer}.{key}": t for key, t in compressed.items()}
            original[f"{layer}.weight"] = w
            decoded[f"{layer}.weight"] = found
            groups[f"group_{len(groups)}"] = {"targets": [layer], "weights": json.loads(args.model_dump_json())}
        config = {"quantization_config": {"quant_method": "compressed-tensors", "format": format_name,
                                          "config_groups": groups, "quantization_status": "compressed"}}  # fmt: skip
        store(name, packed, original, decoded, config, origin)

    group = {"type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    channel = {"type": "int", "strategy": "channel", "symmetric": True}
    half = torch.bfloat16
    make("compressed-tensors-pack-quantized", "pack-quantized", {
        **{f"b{bits}": ({**group, "num_bits": bits}, weight(bits, 5, 64)) for bits in range(2, 9)},
        "b4bf16": ({**group, "num_bits": 4}, weight(10, 5, 64, dtype=half)),
        **{f"b{bits}channel": ({**channel, "num_bits": bits}, weight(20 + bits, 5, 50)) for bits in (3, 4, 6, 8)},
        **{f"b{bits}asymmetric": ({**group, "num_bits": bits, "symmetric": False}, weight(30 + bits, 37, 64) + 0.02)
           for bits in (3, 4, 8)},
        "b4actorder": ({**group, "num_bits": 4, "index": True}, weight(40, 5, 64)),
    })  # fmt: skip
    make("compressed-tensors-int-quantized", "int-quantized", {
        "channel": ({**channel, "num_bits": 8}, weight(50, 5, 48, dtype=half)),
        "tensor": ({**channel, "num_bits": 8, "strategy": "tensor"}, weight(51, 5, 48)),
        "asymmetric": ({**channel, "num_bits": 8, "symmetric": False}, weight(52, 5, 48) + 0.02),
        "group": ({**group, "num_bits": 8}, weight(53, 5, 64)),
    })  # fmt: skip
    fp8 = {"type": "float", "num_bits": 8, "symmetric": True}
    make("compressed-tensors-float-quantized", "float-quantized", {
        "channel": ({**fp8, "strategy": "channel"}, weight(60, 5, 48, dtype=half)),
        "tensor": ({**fp8, "strategy": "tensor"}, weight(61, 5, 48)),
        "block": ({**fp8, "strategy": "block", "block_structure": [16, 32]}, weight(62, 40, 72)),
    })  # fmt: skip
    fp4 = {"type": "float", "num_bits": 4, "symmetric": True}
    make("compressed-tensors-nvfp4", "nvfp4-pack-quantized", {
        "a": ({**fp4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
              weight(70, 5, 48)),
    })  # fmt: skip
    mx = {"type": "float", "symmetric": True, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    make("compressed-tensors-mxfp4", "mxfp4-pack-quantized", {"a": ({**mx, "num_bits": 4}, weight(71, 5, 64))})
    make("compressed-tensors-mxfp8", "mxfp8-quantized", {"a": ({**mx, "num_bits": 8}, weight(72, 5, 64))})


def compressed_tensors_padded() -> None:
    """Words without codes that cross two of them: compressed-tensors 0.12, of which the packing alone is imported."""
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import pack_to_int32, unpack_from_int32

    packed: Tensors = {}
    original: Tensors = {}
    decoded: Tensors = {}
    groups: dict[str, Any] = {}
    for bits in (3, 5, 6, 7):
        layer, w, middle = f"b{bits}", weight(bits, 37, 96), 1 << (bits - 1)
        scale = w.abs().amax(1, keepdim=True) / (middle - 0.5)
        zero = torch.randint(-middle, middle, (37, 1), generator=torch.Generator().manual_seed(bits)).to(torch.int8)
        codes = torch.clamp(torch.round(w / scale) + zero, -middle, middle - 1).to(torch.int8)
        words, zeros = pack_to_int32(codes, bits), pack_to_int32(zero, bits, packed_dim=0)
        packed |= {f"{layer}.weight_packed": words, f"{layer}.weight_scale": scale,
                   f"{layer}.weight_zero_point": zeros, f"{layer}.weight_shape": torch.tensor(w.shape)}  # fmt: skip
        found = unpack_from_int32(words, bits, w.shape).float() - unpack_from_int32(zeros, bits, zero.shape, 0).float()
        original[f"{layer}.weight"], decoded[f"{layer}.weight"] = w, found * scale
        settings = {"num_bits": bits, "type": "int", "strategy": "channel", "symmetric": False}
        groups[f"group_{bits}"] = {"targets": [layer], "weights": settings}
    config = {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
                                      "config_groups": groups}}  # fmt: skip
    origin = {
        "library": "compressed-tensors (pack_to_int32, unpack_from_int32)",
        "version": version("compressed-tensors"),
    }
    store("compressed-tensors-padded-words", packed, original, decoded, config, origin)


def blocks_of(w: torch.Tensor, args: Any) -> torch.Tensor:
    """The elements that share a scale along the last axis."""
    match args.strategy:
        case "group" | "tensor_group":
            return w.reshape(w.shape[0], -1, args.group_size)
        case "channel":
            return w.reshape(w.shape[0], 1, -1)
        case "tensor":
            return w.reshape(1, -1)
        case "block":
            tall, wide = args.block_structure
            rows, columns = (-(-size // step) for size, step in zip(w.shape, (tall, wide), strict=True))
            full = torch.zeros(rows * tall, columns * wide, dtype=w.dtype)
            full[: w.shape[0], : w.shape[1]] = w
            return full.reshape(rows, tall, columns, wide).permute(0, 2, 1, 3).reshape(rows, columns, -1)
    raise ValueError(args.strategy)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in sys.argv[1:]:
        globals()[name]()
