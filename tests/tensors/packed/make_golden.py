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


def round_to_grid(w: torch.Tensor, bits: int, size: int, index: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Scales and zero points (outputs, groups) of an asymmetric grid, unsigned."""
    order = torch.arange(w.shape[1]) if index is None else torch.argsort(index, stable=True)
    blocks = w[:, order].reshape(w.shape[0], -1, size)
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    scales = ((high - low) / (2**bits - 1)).half().float()
    return scales, torch.round(-low / scales).clamp(1, 2**bits - 1)


def linear_of(w: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(w, requires_grad=False)
    return linear


def gptq() -> None:
    """GPTQModel's packer and dequantizer, from its source distribution on PYTHONPATH."""
    import gptqmodel
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import FORMAT, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    origin = {"library": "GPTQModel", "version": gptqmodel.__version__, "torch": torch.__version__}
    for version_name in ("gptq", "gptq_v2"):
        packed: Tensors = {}
        original: Tensors = {}
        decoded: Tensors = {}
        for bits in (2, 3, 4, 8):
            for has_order in (False, True) if bits == 4 else (False,):
                layer, w = f"b{bits}{'order' * has_order}", weight(bits, 32, 64)
                index = torch.arange(64) // 32
                if has_order:
                    index = torch.randperm(64, generator=torch.Generator().manual_seed(3)) // 32
                scales, zeros = round_to_grid(w, bits, 32, index)
                module = TorchLinear(bits, 32, False, has_order, 64, 32, format=FORMAT.GPTQ_V2, backend=None)
                module.pack_block(linear_of(w), scales, zeros.to(torch.int32), index.to(torch.int32))
                module.post_init()
                stored = module.scales
                module.scales = stored.float()  # products in float32
                decoded[f"{layer}.weight"] = module.dequantize_weight().T
                module.scales = stored
                if version_name == "gptq":
                    convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=bits, group_size=32))
                packed |= {f"{layer}.{key}": getattr(module, key) for key in ("qweight", "qzeros", "scales", "g_idx")}
                original[f"{layer}.weight"] = w
        config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False,
                                          "checkpoint_format": version_name}}  # fmt: skip
        store(version_name.replace("_", "-"), packed, original, decoded, config, origin)


def auto_round() -> None:
    """Its own packing: with zero points less one, as GPTQ has them, and with zero points as they are."""
    from auto_round.export.export_to_awq.utils import WQLinear_GEMM
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    origin = {"library": "auto-round", "version": version("auto-round"), "torch": torch.__version__}
    for name, module_of, packing in (
        ("auto-round-gptq", qlinear_torch_zp, "auto_round:auto_gptq"),
        ("auto-round", qlinear_torch, "auto_round"),
    ):
        packed: Tensors = {}
        original: Tensors = {}
        decoded: Tensors = {}
        layers: dict[str, Any] = {}
        for bits in (2, 3, 4, 5, 6, 7, 8):
            layer, w = f"b{bits}", weight(bits, 32, 64)
            scales, zeros = round_to_grid(w, bits, 32)
            linear = linear_of(w)
            # Codes are kept in range, which the packer does not do.
            codes = torch.clamp(torch.round(w / scales.repeat_interleave(32, 1)) + zeros.repeat_interleave(32, 1), 0,
                                2**bits - 1)  # fmt: skip
            linear.weight.data = (codes - zeros.repeat_interleave(32, 1)) * scales.repeat_interleave(32, 1)
            module = module_of.QuantLinear(bits, 32, 64, 32, False)
            module.device = "cpu"  # the packer of one of them asks for it
            module.pack(linear, scales, zeros, device="cpu")
            packed |= {f"{layer}.{key}": getattr(module, key).clone() for key in ("qweight", "qzeros", "scales")}
            module.scales = module.scales.float()
            decoded[f"{layer}.weight"] = module(torch.eye(64)).T
            original[f"{layer}.weight"] = w
            layers[layer] = {"bits": bits, "group_size": 32, "sym": False}
        config = {"quantization_config": {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False,
                                          "packing_format": packing, "extra_config": layers}}  # fmt: skip
        store(name, packed, original, decoded, config, origin)
    w = weight(9, 24, 64)
    scales, zeros = round_to_grid(w, 4, 32)
    module = WQLinear_GEMM.from_linear(linear_of(w), 4, 32, scales=scales.T.contiguous(), zeros=zeros.T.contiguous(),
                                       device="cpu")  # fmt: skip
    keys = ("qweight", "qzeros", "scales")
    packed = {f"a.{key}": getattr(module, key).clone() for key in keys}
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
                                      "version": "gemm"}}  # fmt: skip
    found = autoawq().dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, 32)
    origin = {"library": f"auto-round {version('auto-round')} packs, AutoAWQ decodes", "version": "0.2.9",
              "torch": torch.__version__}  # fmt: skip
    store("awq", packed, {"a.weight": w}, {"a.weight": found.T}, config, origin)


def autoawq() -> Any:
    """AutoAWQ's `utils/packing_utils.py`, alone: the package needs an older transformers."""
    import importlib.util

    path = next(Path(folder) / "awq/utils/packing_utils.py" for folder in sys.path if (Path(folder) / "awq").is_dir())
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bitsandbytes() -> None:
    import bitsandbytes as bnb

    origin = {"library": "bitsandbytes", "version": bnb.__version__, "torch": torch.__version__}
    packed: Tensors = {}
    original: Tensors = {}
    decoded: Tensors = {}
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            layer, w = f"{kind}{'nested' * nested}", weight(len(packed), 24, 128)
            codes, state = bnb.functional.quantize_4bit(w, quant_type=kind, compress_statistics=nested, blocksize=64)
            packed[f"{layer}.weight"] = codes
            packed |= {f"{layer}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
            original[f"{layer}.weight"] = w
            decoded[f"{layer}.weight"] = bnb.functional.dequantize_4bit(codes, state)
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    store("bitsandbytes-4bit", packed, original, decoded, config, origin)
    w = weight(9, 24, 96)
    codes, statistics, _ = bnb.functional.int8_vectorwise_quant(w.half())
    packed = {"a.weight": codes, "a.SCB": statistics, "a.weight_format": torch.tensor(0, dtype=torch.uint8)}
    found = bnb.functional.int8_vectorwise_dequant(codes, statistics)
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    store("bitsandbytes-int8", packed, {"a.weight": w}, {"a.weight": found}, config, origin)


def mlx() -> None:
    import mlx.core as mx
    import numpy as np

    origin = {"library": "mlx", "version": version("mlx"), "device": "cpu"}

    def from_mlx(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    packed: Tensors = {}
    original: Tensors = {}
    decoded: Tensors = {}
    settings: dict[str, Any] = {"group_size": 64, "bits": 4}
    for bits, size in ((2, 32), (3, 32), (4, 64), (5, 32), (6, 128), (8, 64)):
        layer, w = f"b{bits}", weight(bits, 6, 256)
        codes, scales, biases = mx.quantize(mx.array(w.numpy()), group_size=size, bits=bits)
        for key, value in (("weight", codes), ("scales", scales), ("biases", biases)):
            packed[f"{layer}.{key}"] = from_mlx(value)
        original[f"{layer}.weight"] = w
        decoded[f"{layer}.weight"] = from_mlx(mx.dequantize(codes, scales, biases, group_size=size, bits=bits))
        settings[layer] = {"group_size": size, "bits": bits}
    for mode, size, bits in (("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)):
        w = weight(bits + size, 6, 256)
        codes, scales = mx.quantize(mx.array(w.numpy()), group_size=size, bits=bits, mode=mode)
        packed |= {f"{mode}.weight": from_mlx(codes), f"{mode}.scales": from_mlx(scales)}
        original[f"{mode}.weight"] = w
        found = mx.dequantize(codes, scales, group_size=size, bits=bits, mode=mode, dtype=mx.float32)
        decoded[f"{mode}.weight"] = from_mlx(found)
        settings[mode] = {"group_size": size, "bits": bits, "mode": mode}
    store("mlx", packed, original, decoded, {"quantization": settings}, origin)


def gpt_oss() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(5)
    blocks = torch.randint(0, 256, (2, 10, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(118, 124, (2, 10, 3), dtype=torch.uint8, generator=generator)
    found = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    noise = torch.randn(found.shape, generator=generator) * 0.002
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    origin = {"library": "transformers", "version": version("transformers"), "torch": torch.__version__}
    store("gpt-oss-mxfp4", {f"{name}_blocks": blocks, f"{name}_scales": scales}, {name: found + noise}, {name: found},
          config, origin)  # fmt: skip


def fp8() -> None:
    """FP8 with `weight_scale_inv` per block, as transformers decodes it; the codes are rounded here."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    class Quantizer:
        class quantization_config:  # noqa: N801
            weight_block_size = (16, 32)

    packed: Tensors = {}
    original: Tensors = {}
    decoded: Tensors = {}
    for layer, shape in (("whole", (32, 64)), ("experts", (3, 32, 64))):
        w = weight(len(shape), *shape)
        blocks = w.reshape(*shape[:-2], 2, 16, 2, 32).transpose(-3, -2)
        scale = blocks.abs().amax((-2, -1)) / 448
        codes = (blocks / scale[..., None, None]).to(torch.float8_e4m3fn).transpose(-3, -2).reshape(shape)
        packed |= {f"{layer}.weight": codes, f"{layer}.weight_scale_inv": scale}
        original[f"{layer}.weight"] = w
        decoded[f"{layer}.weight"] = Fp8Dequantize(Quantizer())._dequantize_one(codes, scale, torch.float32)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32]}}
    origin = {"library": "transformers", "version": version("transformers"), "torch": torch.__version__}
    store("fp8-blocks", packed, original, decoded, config, origin)


def modelopt() -> None:
    from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    origin = {"library": "nvidia-modelopt", "version": version("nvidia-modelopt"), "torch": torch.__version__}
    declared, w = "hf_quant_config.json", weight(1, 6, 64)
    codes, scale, factor = NVFP4QTensor.quantize(w, 16)
    found = codes.dequantize(torch.float32, scale=scale, double_scale=factor, block_sizes={-1: 16})
    packed = {"a.weight": codes._quantized_data, "a.weight_scale": scale, "a.weight_scale_2": factor}
    original, decoded = {"a.weight": w}, {"a.weight": found}
    w, name = weight(2, 2, 32, 10), "experts.down_proj"  # the exporter transposes stacked experts, and back again
    codes, scale, factor = NVFP4QTensor.quantize(w.transpose(1, 2).contiguous(), 16)
    found = codes.dequantize(torch.float32, scale=scale, double_scale=factor, block_sizes={-1: 16})
    packed |= {name: codes._quantized_data.transpose(1, 2), f"{name}_weight_scale": scale.transpose(1, 2),
               f"{name}_weight_scale_2": factor}  # fmt: skip
    store("modelopt-nvfp4", packed, original | {name: w}, decoded | {name: found.transpose(1, 2)},
          {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}, origin, config_name=declared)  # fmt: skip
    w = weight(3, 6, 64)
    codes, scale = MXFP4QTensor.quantize(w, 32)
    scale = scale.reshape(6, 2)
    found = codes.dequantize(torch.float32, scale=scale, block_sizes={-1: 32})
    store("modelopt-mxfp4", {"a.weight": codes._quantized_data, "a.weight_scale": scale}, {"a.weight": w},
          {"a.weight": found}, {"quantization": {"quant_algo": "mxfp4"}}, origin, config_name=declared)  # fmt: skip
    w = weight(1, 6, 64)
    scale = w.abs().amax() / 448
    codes = FP8QTensor.quantize(w, scale)[0]
    found = codes.dequantize(torch.float32, scale=scale)
    store("modelopt-fp8", {"a.weight": codes._quantized_data, "a.weight_scale": scale}, {"a.weight": w},
          {"a.weight": found}, {"quantization": {"quant_algo": "FP8"}}, origin, config_name=declared)  # fmt: skip


def comfyui() -> None:
    import comfy_kitchen as library

    origin = {"library": "comfy-kitchen", "version": version("comfy-kitchen"), "torch": torch.__version__}
    w = weight(1, 144, 80)
    factor = w.abs().amax() / (448 * 6)
    codes, scale = library.quantize_nvfp4(w, factor)
    packed = {"nvfp4.weight": codes, "nvfp4.weight_scale": scale, "nvfp4.weight_scale_2": factor}
    original, decoded = {"nvfp4.weight": w}, {"nvfp4.weight": library.dequantize_nvfp4(codes, factor, scale, w.dtype)}
    w = weight(2, 32, 160)
    codes, scale = library.quantize_mxfp8(w)
    packed |= {"mxfp8.weight": codes, "mxfp8.weight_scale": scale.view(torch.uint8)}
    original["mxfp8.weight"], decoded["mxfp8.weight"] = w, library.dequantize_mxfp8(codes, scale, w.dtype)
    for layer in ("nvfp4", "mxfp8"):
        packed[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps({"format": layer}).encode()), dtype=torch.uint8)
    store("comfyui", packed, original, decoded, {}, origin)


def torchao() -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )

    origin = {"library": "torchao", "version": version("torchao"), "torch": torch.__version__}
    state: Tensors = {}
    original: Tensors = {}
    decoded: Tensors = {}
    for layer, config in {
        "int8": Int8WeightOnlyConfig(version=2),
        "float8": Float8WeightOnlyConfig(version=2),
        "intx4": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32), version=2),
        "intx3": IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=PerAxis(0), version=2),
    }.items():
        w = weight(len(original), 16, 64)
        linear = linear_of(w)
        quantize_(linear, config)
        state[f"{layer}.weight"] = linear.weight.data
        original[f"{layer}.weight"], decoded[f"{layer}.weight"] = w, linear.weight.dequantize()
    tensors, metadata = flatten_tensor_state_dict(state)
    store("torchao", tensors, original, decoded, {"quantization_config": {"quant_method": "torchao"}}, origin, metadata)


def quanto() -> None:
    import optimum.quanto as library

    origin = {"library": "optimum-quanto", "version": version("optimum-quanto"), "torch": torch.__version__}
    packed: Tensors = {}
    original: Tensors = {}
    decoded: Tensors = {}
    for layer, kind in {"int8": library.qint8, "float8": library.qfloat8}.items():
        w = weight(len(original), 16, 64)
        model = torch.nn.Sequential(linear_of(w))
        library.quantize(model, weights=kind)
        library.freeze(model)
        packed |= {key.replace("0.", f"{layer}.", 1): t for key, t in model.state_dict().items()}
        original[f"{layer}.weight"], decoded[f"{layer}.weight"] = w, model[0].weight.dequantize()
    config = {"quantization_config": {"quant_method": "quanto", "weights": "int8"}}
    store("quanto", packed, original, decoded, config, origin)


if __name__ == "__main__":
    torch.manual_seed(0)
    for name in sys.argv[1:]:
        globals()[name]()
