"""SQNR of a model that each format's own library quantizes and writes, against that of `qdq compare`.

Run in an environment of its own that has the libraries; `qdq` may be of another one:

    python tests/tensors/packed/own_libraries.py MODEL_FOLDER OUT --qdq .venv/bin/qdq

The model is one of transformers in F32. Each library quantizes its linear layers, writes them, and dequantizes them;
the largest difference of a weight's SQNR is printed.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModel

Weights = dict[str, torch.Tensor]


def linears(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or hasattr(module, "weight_packed"):
            yield name, module


def compressed_tensors(settings: dict[str, Any], format_name: str) -> Callable[[torch.nn.Module, Path], Weights]:
    def make(model: torch.nn.Module, folder: Path) -> Weights:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationConfig,
            QuantizationScheme,
            QuantizationStatus,
            apply_quantization_config,
        )
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

        args = QuantizationArgs(**settings)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        config = QuantizationConfig(config_groups={"group_0": scheme}, format=format_name)
        apply_quantization_config(model, config)
        for _, module in linears(model):
            w = module.weight.data
            size = args.group_size or w.shape[1]
            blocks, more = w.reshape(w.shape[0], -1, size), {}
            if hasattr(module, "weight_global_scale"):
                more["global_scale"] = generate_gparam(w.min().reshape(1), w.max().reshape(1))
                module.weight_global_scale.data = more["global_scale"]
            scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args, **more)
            module.weight_scale.data = scale.to(module.weight_scale.dtype)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
            module.quantization_status = QuantizationStatus.FROZEN
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / "model.safetensors")
        compressor.update_config(folder)
        compressor.decompress_model(model)
        return {f"{name}.weight": module.weight.data for name, module in linears(model)}

    return make


def torchao(name: str) -> Callable[[torch.nn.Module, Path], Weights]:
    def make(model: torch.nn.Module, folder: Path) -> Weights:
        import torchao.quantization as library
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

        library.quantize_(model, getattr(library, name)(version=2))
        tensors, metadata = flatten_tensor_state_dict(model.state_dict())
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / "model.safetensors", metadata)
        (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "torchao"}}))
        return {f"{key}.weight": module.weight.dequantize() for key, module in linears(model)}

    return make


def quanto(name: str) -> Callable[[torch.nn.Module, Path], Weights]:
    def make(model: torch.nn.Module, folder: Path) -> Weights:
        import optimum.quanto as library

        library.quantize(model, weights=getattr(library, name))
        library.freeze(model)
        save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "quanto"}}))
        return {f"{key}.weight": module.weight.dequantize() for key, module in linears(model)}

    return make


def bitsandbytes(**settings: Any) -> Callable[[torch.nn.Module, Path], Weights]:
    def make(model: torch.nn.Module, folder: Path) -> Weights:
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Linear4bit

        found = {}
        for name, module in list(linears(model)):
            new = Linear4bit(module.in_features, module.out_features, module.bias is not None, **settings)
            new.load_state_dict(module.state_dict())
            new = new.to("cpu")
            new.weight = new.weight.to("cpu") if new.weight.quant_state else new.weight._quantize("cpu")
            model.set_submodule(name, new)
            found[f"{name}.weight"] = dequantize_4bit(new.weight.data, new.weight.quant_state)
        save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
        return found

    return make


def gguf(kind: str) -> Callable[[torch.nn.Module, Path], Weights]:
    def make(model: torch.nn.Module, folder: Path) -> Weights:
        import gguf as library
        from gguf.tensor_mapping import get_tensor_name_map

        arch = library.MODEL_ARCH.BERT
        names = get_tensor_name_map(arch, model.config.num_hidden_layers)
        writer = library.GGUFWriter(folder / "model.gguf", library.MODEL_ARCH_NAMES[arch])
        found, types = {}, library.GGMLQuantizationType
        for key, tensor in model.state_dict().items():
            name = names.get_name(key, (".weight", ".bias"))
            if name is None:
                continue
            array = tensor.numpy()
            is_quantized = array.ndim == 2 and array.shape[1] % library.GGML_QUANT_SIZES[types[kind]][0] == 0
            if not is_quantized:
                writer.add_tensor(name, array)
                continue
            data = library.quants.quantize(array, types[kind])
            writer.add_tensor(name, data, raw_dtype=types[kind])
            found[key] = torch.from_numpy(library.quants.dequantize(data, types[kind]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return found

    return make


GROUP = {"strategy": "group", "group_size": 128, "type": "int"}
FLOATS = {"type": "float", "num_bits": 8}
MAKERS: dict[str, tuple[str, Callable[[torch.nn.Module, Path], Weights]]] = {
    **{f"pack-quantized int{b} g128": ("compressed-tensors",
        compressed_tensors({**GROUP, "num_bits": b}, "pack-quantized")) for b in (2, 3, 4, 5, 6, 7, 8)},
    "pack-quantized int4 g128 asymmetric": ("compressed-tensors",
        compressed_tensors({**GROUP, "num_bits": 4, "symmetric": False}, "pack-quantized")),
    "int-quantized channel": ("compressed-tensors",
        compressed_tensors({"type": "int", "num_bits": 8, "strategy": "channel"}, "int-quantized")),
    "float-quantized channel": ("compressed-tensors",
        compressed_tensors({**FLOATS, "strategy": "channel"}, "float-quantized")),
    "nvfp4": ("compressed-tensors",
        compressed_tensors({"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16,
                            "scale_dtype": torch.float8_e4m3fn}, "nvfp4-pack-quantized")),
    "torchao int8": ("torchao", torchao("Int8WeightOnlyConfig")),
    "torchao float8": ("torchao", torchao("Float8WeightOnlyConfig")),
    "quanto int8": ("optimum-quanto", quanto("qint8")),
    "quanto float8": ("optimum-quanto", quanto("qfloat8")),
    "bitsandbytes nf4": ("bitsandbytes", bitsandbytes(quant_type="nf4", compress_statistics=False)),
    "bitsandbytes nf4 nested": ("bitsandbytes", bitsandbytes(quant_type="nf4", compress_statistics=True)),
    "bitsandbytes fp4": ("bitsandbytes", bitsandbytes(quant_type="fp4", compress_statistics=False)),
    **{f"GGUF {kind}": ("gguf", gguf(kind)) for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16")},
}  # fmt: skip
"""Name -> library, and the function that writes a quantized model and returns its weights dequantized."""


def sqnr_db(x: torch.Tensor, y: torch.Tensor) -> float:
    one, two = (t.detach().double().numpy() for t in (x, y))
    return float(10 * np.log10((one * one).sum() / ((one - two) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--qdq", default="qdq")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    original = AutoModel.from_pretrained(options.model, dtype=torch.float32).eval()
    before = {key: t.clone() for key, t in original.state_dict().items()}
    options.out.mkdir(parents=True)
    save_file(before, options.out / "original.safetensors")
    print("| format | library | weights | SQNR dB, lowest | largest difference, dB |\n| --- | --- | --- | --- | --- |")
    for name, (library, make) in MAKERS.items():
        if options.only not in name:
            continue
        folder = options.out / name.replace(" ", "-")
        folder.mkdir()
        try:
            decoded = make(deepcopy(original), folder)
        except Exception as error:
            print(f"| {name} | {library} {version(library)} | {type(error).__name__}: {error} | | |", flush=True)
            continue
        path = next(folder.glob("*.gguf"), folder)
        text = subprocess.run(
            [options.qdq, "compare", options.out / "original.safetensors", path, "--format", "json"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        rows = {row["name"]: row["stats"]["sqnr_db"] for row in json.loads(text)["tensors"] if "stats" in row}
        theirs = {key: sqnr_db(before[key], y) for key, y in decoded.items()}
        worst = max(abs(rows[key] - db) for key, db in theirs.items())
        print(f"| {name} | {library} {version(library)} | {len(theirs)} | {min(theirs.values()):.2f} | {worst:.1e} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
