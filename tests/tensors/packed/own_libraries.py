"""SQNR of a model that each format's own library quantizes and writes, against that of `qdq compare`.

Run in an environment of its own that has the libraries; `qdq` may be of another one:

    python tests/tensors/packed/own_libraries.py OUT --qdq .venv/bin/qdq

The models are small ones of transformers with random weights in F32 (Llama, BERT, gpt-oss), or `--model FOLDER`. Each
library quantizes the linear layers, writes the model, and dequantizes it; the largest difference of a weight's SQNR is
printed, see `own_libraries.md`. Packages: accelerate auto-round bitsandbytes compressed-tensors gguf gptqmodel mlx[cpu]
mlx-lm nvidia-modelopt optimum-quanto sentencepiece torchao transformers, and AutoAWQ's source on PYTHONPATH. No GPU is
needed.
"""

import argparse
import json
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertConfig, GptOssConfig, LlamaConfig

Weights = dict[str, torch.Tensor]
Maker = Callable[[Path, Path], Weights]
"""Writes the model of a folder, quantized, into another; returns its weights dequantized, under their names."""

SIZES = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.05}  # fmt: skip


def models(folder: Path) -> None:
    """Write the small models, each with a tokenizer: some libraries copy it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({f"t{k}": k for k in range(512)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    experts = {"head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 2}
    for config in (
        LlamaConfig(**SIZES, num_key_value_heads=2),
        BertConfig(**SIZES),
        GptOssConfig(**{**SIZES, "initializer_range": 0.02}, **experts, num_key_value_heads=2),
    ):
        kind = AutoModel if config.model_type == "bert" else AutoModelForCausalLM
        kind.from_config(config).float().save_pretrained(folder / config.model_type)
        special = {f"{name}_token": f"t{k}" for k, name in enumerate(("unk", "bos", "eos", "pad"))}
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder / config.model_type)


def model_of(folder: Path) -> Any:
    """The model of a folder, in F32."""
    is_bert = AutoConfig.from_pretrained(folder).model_type == "bert"
    kind = AutoModel if is_bert else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def calibration() -> list[torch.Tensor]:
    """Random token ids."""
    return [torch.randint(0, 512, (1, 64), generator=torch.Generator().manual_seed(k)) for k in range(16)]


def linears(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or hasattr(module, "weight_packed"):
            yield name, module


def compressed_tensors(settings: dict[str, Any], format_name: str) -> Maker:
    def make(source: Path, folder: Path) -> Weights:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.compressors.nvfp4 import base as nvfp4
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationConfig,
            QuantizationScheme,
            QuantizationStatus,
            apply_quantization_config,
        )
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

        # Its products are in BF16 otherwise.
        nvfp4.unpack_fp4_from_uint8 = partial(nvfp4.unpack_fp4_from_uint8, dtype=torch.float32)
        args = QuantizationArgs(**settings)
        model = model_of(source)
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


def torchao(name: str) -> Maker:
    def make(source: Path, folder: Path) -> Weights:
        import torchao.quantization as library
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

        model = model_of(source)
        library.quantize_(model, getattr(library, name)(version=2))
        tensors, metadata = flatten_tensor_state_dict(model.state_dict())
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / "model.safetensors", metadata)
        (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "torchao"}}))
        return {f"{key}.weight": module.weight.dequantize() for key, module in linears(model)}

    return make


def quanto(name: str) -> Maker:
    def make(source: Path, folder: Path) -> Weights:
        import optimum.quanto as library

        model = model_of(source)
        library.quantize(model, weights=getattr(library, name))
        library.freeze(model)
        save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "quanto"}}))
        return {f"{key}.weight": module.weight.dequantize() for key, module in linears(model)}

    return make


def bitsandbytes(**settings: Any) -> Maker:
    def make(source: Path, folder: Path) -> Weights:
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Linear4bit

        model, found = model_of(source), {}
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


def bitsandbytes_int8(source: Path, folder: Path) -> Weights:
    """LLM.int8 by the library's functions, under the names of its module, which quantizes on a GPU only."""
    from bitsandbytes.functional import int8_vectorwise_dequant, int8_vectorwise_quant

    model, found = model_of(source), {}
    state = model.state_dict()
    for name, module in linears(model):
        codes, statistics, _ = int8_vectorwise_quant(module.weight.data.half())
        state |= {f"{name}.weight": codes, f"{name}.SCB": statistics, f"{name}.weight_format": torch.tensor(0).byte()}
        found[f"{name}.weight"] = int8_vectorwise_dequant(codes, statistics)
    save_file({key: t.contiguous() for key, t in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    return found


def auto_round(scheme: str, format_name: str, decoded: Callable[[Path, Path], Weights]) -> Maker:
    """Plain rounding by auto-round, and its writer of another library's format."""

    def make(source: Path, folder: Path) -> Weights:
        from auto_round import AutoRound
        from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

        if format_name.startswith("gguf"):  # llama.cpp's list of tokenizers lacks the small model's
            conversion = get_conversion(source).module
            conversion.base.TextModel.get_vocab_base_pre = lambda *_: "default"
        library = AutoRound(
            str(source), scheme=scheme, iters=0, disable_opt_rtn=True, disable_model_free=True, device_map="cpu",
            enable_torch_compile=False, dataset=calibration(), nsamples=4, seqlen=64,
        )  # fmt: skip
        library.quantize_and_save(str(folder), format=format_name)
        return decoded(source, checkpoint_in(folder))

    return make


def checkpoint_in(folder: Path) -> Path:
    """The file or folder that a library wrote somewhere in a folder."""
    return next(folder.rglob("*.gguf"), None) or next(folder.rglob("*.safetensors")).parent


def modules_in(folder: Path, codes: str) -> Iterator[tuple[str, Weights]]:
    """Yield the modules that have codes of that name, each with its tensors."""
    tensors = load_file(next(folder.glob("*.safetensors")))
    for key in tensors:
        module, _, end = key.rpartition(".")
        if end == codes:
            yield module, {name.rpartition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{module}.")}


def by_auto_round(source: Path, folder: Path) -> Weights:  # noqa: ARG001
    from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    is_gptq = config["quant_method"] == "gptq" or "gptq" in config.get("packing_format", "")
    found = {}
    for name, parts in modules_in(folder, "qweight"):
        inputs, outputs = parts["qweight"].shape[0] * 32 // config["bits"], parts["qweight"].shape[1]
        library = qlinear_torch_zp if is_gptq else qlinear_torch
        module = library.QuantLinear(config["bits"], config["group_size"], inputs, outputs, False)
        module.load_state_dict(parts, strict=False)
        module.scales = module.scales.float()  # products in float32
        found[f"{name}.weight"] = module(torch.eye(inputs)).T
    return found


def by_autoawq(source: Path, folder: Path) -> Weights:  # noqa: ARG001
    from make_golden import autoawq

    return {
        f"{name}.weight": autoawq().dequantize_gemm(p["qweight"], p["qzeros"], p["scales"].float(), 4, 128).T
        for name, p in modules_in(folder, "qweight")
    }


def by_transformers_fp8(source: Path, folder: Path) -> Weights:  # noqa: ARG001
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    class Quantizer:
        class quantization_config:  # noqa: N801
            weight_block_size = (128, 128)

    decode = Fp8Dequantize(Quantizer())._dequantize_one
    return {
        f"{name}.weight": decode(parts["weight"], parts["weight_scale_inv"].float(), torch.float32)
        for name, parts in modules_in(folder, "weight_scale_inv")
    }


def by_transformers_gguf(source: Path, file: Path) -> Weights:
    """The weights as transformers reads them, with its own mapping of names and order of rows."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    names = dict(model_of(source).named_parameters())
    return {key: t.data for key, t in model.named_parameters() if t.ndim == 2 and key in names}


def gptqmodel(bits: int, method: str = "gptq", format_name: str = "gptq", **settings: Any) -> Maker:
    """GPTQ and AWQ by GPTQModel, with calibration."""

    def make(source: Path, folder: Path) -> Weights:
        os.environ |= {"GPTQMODEL_CPU_WORKERS": "2", "GPTQMODEL_DISABLE_PACK_EXT": "1"}  # the extension takes minutes
        from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

        config = QuantizeConfig(
            bits=bits, group_size=128, quant_method=method, format=format_name, device="cpu", **settings
        )
        model = GPTQModel.load(str(source), config)
        model.quantize([{"input_ids": ids[0].tolist(), "attention_mask": [1] * 64} for ids in calibration()])
        model.save(str(folder))
        if method == "awq":
            return by_autoawq(source, folder)
        loaded = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16)
        found = {}
        for name, module in loaded.model.named_modules():
            if hasattr(module, "dequantize_weight"):
                module.scales = module.scales.float()
                found[f"{name}.weight"] = module.dequantize_weight().T
        return found

    return make


def modelopt(preset: str) -> Maker:
    def make(source: Path, folder: Path) -> Weights:
        import modelopt.torch.quantization as library
        from modelopt.torch.export import export_hf_checkpoint
        from modelopt.torch.quantization import qtensor

        model = model_of(source)
        library.quantize(model, getattr(library, preset), lambda m: [m(ids) for ids in calibration()])
        export_hf_checkpoint(model, export_dir=folder)
        kind = {"NVFP4": "NVFP4QTensor", "MXFP4": "MXFP4QTensor"}.get(preset.partition("_")[0], "FP8QTensor")
        size, found = {"NVFP4QTensor": 16, "MXFP4QTensor": 32}.get(kind), {}
        for name, parts in modules_in(folder, "weight_scale"):
            codes, scale = parts["weight"], parts["weight_scale"]
            scale = scale[:, 0, :, 0] if scale.ndim == 4 else scale
            shape = (codes.shape[0], codes.shape[1] * (1 if size is None else 2))
            blocks = {-1: size} if scale.numel() > 1 and size else {-1: 128, -2: 128} if scale.numel() > 1 else None
            packed = getattr(qtensor, kind)(torch.Size(shape), torch.float32, codes)
            found[f"{name}.weight"] = packed.dequantize(
                torch.float32, scale=scale, double_scale=parts.get("weight_scale_2"), block_sizes=blocks
            )
        return found

    return make


def mlx(**settings: Any) -> Maker:
    def make(source: Path, folder: Path) -> Weights:
        import mlx.core as mx
        from mlx_lm import convert

        folder.rmdir()
        convert(str(source), str(folder), quantize=True, **settings)
        config = json.loads((folder / "config.json").read_text())["quantization"]
        found = {}
        for name, parts in modules_in(folder, "scales"):
            arrays = [mx.array(parts[key].numpy()) for key in ("weight", "scales", "biases") if key in parts]
            found[f"{name}.weight"] = torch.from_numpy(np.array(mx.dequantize(
                *arrays, group_size=config["group_size"], bits=config["bits"], mode=config["mode"], dtype=mx.float32
            )))  # fmt: skip
        return found

    return make


def gpt_oss(source: Path, folder: Path) -> Weights:
    """The experts in ModelOpt's MXFP4: transformers, whose layout and dequantizer these are, packs on a GPU only."""
    from modelopt.torch.quantization.qtensor import MXFP4QTensor
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    packed: Weights = {}
    found: Weights = {}
    for key, t in load_file(source / "model.safetensors").items():
        if not key.endswith("_proj"):
            packed[key] = t
            continue
        codes, scales = MXFP4QTensor.quantize(t.transpose(1, 2).contiguous(), 32)
        packed[f"{key}_blocks"] = codes._quantized_data.reshape(*scales.reshape(*t.transpose(1, 2).shape[:2], -1).shape,
                                                                16)  # fmt: skip
        packed[f"{key}_scales"] = scales.reshape(packed[f"{key}_blocks"].shape[:-1])
        found[key] = convert_moe_packed_tensors(packed[f"{key}_blocks"], packed[f"{key}_scales"], dtype=torch.float32)
    save_file({key: t.contiguous() for key, t in packed.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "mxfp4"}}))
    return found


def gguf(kind: str) -> Maker:
    """A file of the package's own writer and quantizer, with BERT's names."""

    def make(source: Path, folder: Path) -> Weights:
        import gguf as library
        from gguf.tensor_mapping import get_tensor_name_map

        arch, model = library.MODEL_ARCH.BERT, model_of(source)
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
MX = {"type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
MAKERS: dict[str, tuple[str, str, Maker]] = {
    **{f"pack-quantized int{b} g128": ("compressed-tensors", "llama",
        compressed_tensors({**GROUP, "num_bits": b}, "pack-quantized")) for b in (2, 3, 4, 5, 6, 7, 8)},
    "pack-quantized int4 g128 asymmetric": ("compressed-tensors", "llama",
        compressed_tensors({**GROUP, "num_bits": 4, "symmetric": False}, "pack-quantized")),
    "int-quantized channel": ("compressed-tensors", "llama",
        compressed_tensors({"type": "int", "num_bits": 8, "strategy": "channel"}, "int-quantized")),
    "float-quantized channel": ("compressed-tensors", "llama",
        compressed_tensors({**FLOATS, "strategy": "channel"}, "float-quantized")),
    "nvfp4": ("compressed-tensors", "llama",
        compressed_tensors({"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16,
                            "scale_dtype": torch.float8_e4m3fn}, "nvfp4-pack-quantized")),
    "mxfp4": ("compressed-tensors", "llama", compressed_tensors({**MX, "num_bits": 4}, "mxfp4-pack-quantized")),
    "mxfp8": ("compressed-tensors", "llama", compressed_tensors({**MX, "num_bits": 8}, "mxfp8-quantized")),
    "GPTQ int4 act-order": ("gptqmodel", "llama", gptqmodel(4, desc_act=True)),
    "GPTQ int3": ("gptqmodel", "llama", gptqmodel(3)),
    "GPTQ int4 asymmetric v2": ("gptqmodel", "llama", gptqmodel(4, format_name="gptq_v2", sym=False)),
    "AWQ": ("gptqmodel", "llama", gptqmodel(4, "awq", "gemm", sym=False)),
    **{f"{name} of auto-round": ("auto-round", "llama", auto_round(scheme, format_name, decoded))
       for name, scheme, format_name, decoded in (
           ("GPTQ int4", "W4A16", "auto_gptq", by_auto_round),
           ("GPTQ int3", "W3A16", "auto_gptq", by_auto_round),
           ("auto-round int3", "W3A16", "auto_round", by_auto_round),
           ("AWQ", "W4A16", "auto_awq", by_autoawq),
           ("FP8 128x128", "FP8_BLOCK", "fp8", by_transformers_fp8),
           *((f"GGUF {kind}", f"GGUF:{kind.upper()}", f"gguf:{kind.lower()}", by_transformers_gguf)
             for kind in ("Q2_K_S", "Q3_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")),
       )},
    "ModelOpt NVFP4": ("nvidia-modelopt", "llama", modelopt("NVFP4_DEFAULT_CFG")),
    "ModelOpt MXFP4": ("nvidia-modelopt", "llama", modelopt("MXFP4_DEFAULT_CFG")),
    "ModelOpt FP8": ("nvidia-modelopt", "llama", modelopt("FP8_DEFAULT_CFG")),
    "ModelOpt FP8 128x128": ("nvidia-modelopt", "llama", modelopt("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG")),
    "gpt-oss MXFP4": ("transformers", "gpt_oss", gpt_oss),
    **{f"MLX int{bits} g64": ("mlx-lm", "llama", mlx(q_group_size=64, q_bits=bits)) for bits in (2, 3, 4, 5, 6, 8)},
    **{f"MLX {mode}": ("mlx-lm", "llama", mlx(q_mode=mode)) for mode in ("mxfp4", "mxfp8", "nvfp4")},
    "torchao int8": ("torchao", "llama", torchao("Int8WeightOnlyConfig")),
    "torchao float8": ("torchao", "llama", torchao("Float8WeightOnlyConfig")),
    "quanto int8": ("optimum-quanto", "llama", quanto("qint8")),
    "quanto float8": ("optimum-quanto", "llama", quanto("qfloat8")),
    "bitsandbytes nf4": ("bitsandbytes", "llama", bitsandbytes(quant_type="nf4", compress_statistics=False)),
    "bitsandbytes nf4 nested": ("bitsandbytes", "llama", bitsandbytes(quant_type="nf4", compress_statistics=True)),
    "bitsandbytes int8": ("bitsandbytes", "llama", bitsandbytes_int8),
    "bitsandbytes fp4": ("bitsandbytes", "llama", bitsandbytes(quant_type="fp4", compress_statistics=False)),
    **{f"GGUF {kind}": ("gguf", "bert", gguf(kind)) for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16")},
}  # fmt: skip
"""Name -> library, model, and the function that writes a quantized model."""


def sqnr_db(x: torch.Tensor, y: torch.Tensor) -> float:
    one, two = (t.detach().double().numpy() for t in (x, y))
    return float(10 * np.log10((one * one).sum() / ((one - two) ** 2).sum()))


def measured(make: Maker, source: Path, folder: Path, qdq: str) -> str:
    """Return the number of weights, their lowest SQNR by the library, and the largest difference from that of `qdq`."""
    folder.mkdir()
    decoded = make(source, folder)
    command = [qdq, "compare", source, checkpoint_in(folder), "--format", "json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    rows = {row["name"]: row for row in report["tensors"] if "stats" in row}
    left = [name for name, row in rows.items() if "packed" in row and name not in decoded]
    before = load_file(next(source.glob("*.safetensors")))
    theirs = {key: sqnr_db(before[key], y) for key, y in decoded.items()}
    worst = max(abs(rows[key]["stats"]["sqnr_db"] - db) for key, db in theirs.items())
    return f"{len(theirs)}{f', not {left}' if left else ''} | {min(theirs.values()):.2f} | {worst:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, help="a folder instead of the small models")
    parser.add_argument("--qdq", default="qdq")
    parser.add_argument("--only", default="", help="names with this in them")
    options = parser.parse_args()
    models(options.out)
    print("| format | library | weights | SQNR dB, lowest | largest difference, dB |\n| --- | --- | --- | --- | --- |")
    for name, (library, kind, make) in MAKERS.items():
        if options.only not in name:
            continue
        try:
            found = measured(
                make, options.model or options.out / kind, options.out / name.replace(" ", "-"), options.qdq
            )
        except Exception as error:
            traceback.print_exc()
            found = f"{type(error).__name__}: {error} | |"
        print(f"| {name} | {library} {version(library)} | {found} |", flush=True)


if __name__ == "__main__":
    main()
