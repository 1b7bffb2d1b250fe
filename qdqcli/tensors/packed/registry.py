"""PACKED: the recognised packed formats, most specific first.

To add one: an entry here, and its names, dtypes and shapes in `tests/tensors/packed/samples.py`. Sources: the formats'
own loaders, as of 2026: compressed-tensors, ModelOpt, GPTQModel, AutoAWQ, mlx-lm, bitsandbytes, torchao, transformers,
ComfyUI, exllamav3, HQQ, optimum-quanto, Quark.
"""

from dataclasses import replace

from qdqcli.tensors.gguf import QUANTIZED
from qdqcli.tensors.packed.format import (
    BOOK_OF_SCALES,
    CODE_BOOK,
    CODES,
    E8M0,
    FLOATS,
    FORMAT,
    FP8,
    GLOBAL_SCALE,
    GROUP_INDEX,
    INPUT_SCALE,
    OFFSET,
    SCALE,
    SCALE_OF_SCALES,
    SHAPE,
    ZERO_POINT,
    PackedFormat,
    Parts,
    WeightPart,
    scales_on_grid,
)


def _part(role: str, suffix: str, *dtypes: str) -> WeightPart:
    return WeightPart(role=role, suffix=suffix, dtypes=dtypes)


def _may(role: str, suffix: str, *dtypes: str) -> WeightPart:
    return WeightPart(role=role, suffix=suffix, dtypes=dtypes, is_optional=True)


def _is_gptq(parts: Parts) -> bool:
    """Codes are packed along the first axis: codes and scales have one column per output."""
    return len(parts[CODES].shape) == len(parts[SCALE].shape) == 2 and (
        parts[CODES].shape[1] == parts[SCALE].shape[1] and parts[SCALE].shape[0] <= parts[CODES].shape[0]
    )


def _is_awq(parts: Parts) -> bool:
    """Codes and zero points are packed along the columns."""
    codes, scale, zero_point = (parts[role].shape for role in (CODES, SCALE, ZERO_POINT))
    return len(codes) == len(scale) == 2 and scale[1] == 8 * codes[1] and zero_point == (scale[0], codes[1])


def _is_row_scale(parts: Parts) -> bool:
    return parts[SCALE].shape == parts[CODES].shape[:1]


def _is_stack(parts: Parts) -> bool:
    """Experts of (inputs, outputs), packed along the inputs."""
    return len(parts[CODES].shape) == 3


def _is_mxfp4(parts: Parts) -> bool:
    """16 bytes of two codes each share one scale."""
    codes = parts[CODES].shape
    return len(codes) > 1 and codes[-1] % 16 == 0 and parts[SCALE].shape == (*codes[:-1], codes[-1] // 16)


def _is_mxfp4_in_blocks(parts: Parts) -> bool:
    """The last axis has the 16 bytes that share one scale."""
    codes = parts[CODES].shape
    return len(codes) > 1 and codes[-1] == 16 and parts[SCALE].shape == codes[:-1]


_SCALE = _part(SCALE, ".weight_scale", *FLOATS)
_CT = ("compressed-tensors",)

GPTQ = PackedFormat(
    name="GPTQ", methods=("gptq",), codes=".qweight", dtypes=("I32",), fits=_is_gptq,
    parts=(_part(SCALE, ".scales", *FLOATS), _may(ZERO_POINT, ".qzeros", "I32"), _may(GROUP_INDEX, ".g_idx", "I32")),
        decoder="qdqcli.tensors.packed.gptq:gptq",
)  # fmt: skip
AWQ = PackedFormat(
    name="AWQ", methods=("awq",), codes=".qweight", dtypes=("I32",), fits=_is_awq,
    parts=(_part(SCALE, ".scales", *FLOATS), _part(ZERO_POINT, ".qzeros", "I32")),
        decoder="qdqcli.tensors.packed.awq:awq",
)  # fmt: skip
NVFP4 = PackedFormat(
    name="ModelOpt NVFP4", methods=("modelopt",), codes=".weight", dtypes=("U8",), fits=scales_on_grid,
    parts=(_part(SCALE, ".weight_scale", "F8_E4M3"), _part(GLOBAL_SCALE, ".weight_scale_2", "F32"),
           _may(INPUT_SCALE, ".pre_quant_scale", *FLOATS)),
        decoder="qdqcli.tensors.packed.scaled:nvfp4",
)  # fmt: skip
FP8_SCALE = PackedFormat(
    name="FP8", methods=("fp8", "fbgemm_fp8"), codes="", weight="", dtypes=FP8, fits=scales_on_grid,
    parts=(_part(SCALE, "_scale", *FLOATS, "F8_E8M0"),),
        decoder="qdqcli.tensors.packed.scaled:fp8",
)  # fmt: skip
INT8_SCALE = PackedFormat(
    name="compressed-tensors int-quantized", methods=_CT, codes=".weight", dtypes=("I8",), fits=scales_on_grid,
    parts=(_SCALE, _may(ZERO_POINT, ".weight_zero_point", "I8", "I32", *FLOATS)),
        decoder="qdqcli.tensors.packed.compressed_tensors:quantized",
)  # fmt: skip
_COMFY = ("comfyui",)
_MARK = _part(FORMAT, ".comfy_quant", "U8")
_COMFY_SCALED = PackedFormat(
    name="ComfyUI", methods=_COMFY, codes=".weight", dtypes=(*FP8, "I8", "U8"),
    parts=(_part(SCALE, ".weight_scale", *FLOATS),), decoder="qdqcli.tensors.packed.scaled:comfyui",
)  # fmt: skip
_COMFY_MXFP8 = replace(
    _COMFY_SCALED, name="ComfyUI MXFP8", parts=(_part(SCALE, ".weight_scale", *E8M0),), is_tiled=True
)
_QUANTO = PackedFormat(
    name="quanto", methods=("quanto",), codes=".weight._data", dtypes=("I8", "U8", *FP8),
    parts=(_part(SCALE, ".weight._scale", *FLOATS), _may(ZERO_POINT, ".weight._shift", "I8", "U8", *FLOATS)),
    decoder="qdqcli.tensors.packed.scaled:quanto",
)  # fmt: skip

PACKED: tuple[PackedFormat, ...] = (
    PackedFormat(
        name="GGUF", codes="", weight="", dtypes=tuple(QUANTIZED), decoder="qdqcli.tensors.packed.gguf:blocks",
    ),
    PackedFormat(
        name="ComfyUI NVFP4", methods=_COMFY, codes=".weight", dtypes=("U8",),
        parts=(_part(SCALE, ".weight_scale", "F8_E4M3"), _part(GLOBAL_SCALE, ".weight_scale_2", "F32"), _MARK),
        decoder="qdqcli.tensors.packed.scaled:comfyui_nvfp4",
    ),
    replace(NVFP4, name="ComfyUI NVFP4", methods=_COMFY, is_declared=True, fits=lambda _: True,  # scales are in tiles
            decoder="qdqcli.tensors.packed.scaled:comfyui_nvfp4"),
    *(replace(own, parts=(*own.parts, _MARK)) for own in (_COMFY_SCALED, _COMFY_MXFP8)),
    *(replace(own, is_declared=True) for own in (_COMFY_SCALED, _COMFY_MXFP8)),
    PackedFormat(
        name="compressed-tensors pack-quantized", methods=_CT, codes=".weight_packed", dtypes=("I32",),
        parts=(_SCALE, _may(SHAPE, ".weight_shape", "I64", "I32"),
               _may(ZERO_POINT, ".weight_zero_point", "I32"), _may(GROUP_INDEX, ".weight_g_idx", "I32")),
        decoder="qdqcli.tensors.packed.compressed_tensors:pack_quantized",
    ),
    PackedFormat(
        name="compressed-tensors marlin-24", methods=_CT, codes=".weight_packed", dtypes=("I32",),
        parts=(_part(SCALE, ".scale_packed", *FLOATS), _part("sparsity", ".meta", "I16")),
    ),
    PackedFormat(
        name="compressed-tensors nvfp4-pack-quantized", methods=_CT, codes=".weight_packed", dtypes=("U8",),
        parts=(_part(SCALE, ".weight_scale", "F8_E4M3"), _part(GLOBAL_SCALE, ".weight_global_scale", "F32")),
        fits=scales_on_grid, decoder="qdqcli.tensors.packed.scaled:nvfp4_inverse",
    ),
    PackedFormat(
        name="compressed-tensors mxfp4-pack-quantized", methods=_CT, codes=".weight_packed", dtypes=("U8",),
        parts=(_part(SCALE, ".weight_scale", *E8M0),), fits=scales_on_grid,
        decoder="qdqcli.tensors.packed.scaled:mxfp4",
    ),
    PackedFormat(
        name="compressed-tensors mxfp8-quantized", methods=_CT, codes=".weight", dtypes=FP8,
        parts=(_part(SCALE, ".weight_scale", *E8M0),), fits=scales_on_grid,
        decoder="qdqcli.tensors.packed.scaled:mxfp8",
    ),
    PackedFormat(
        name="compressed-tensors float-quantized", methods=_CT, codes=".weight", dtypes=FP8, is_declared=True,
        parts=(_SCALE, _may(ZERO_POINT, ".weight_zero_point", *FP8)), fits=scales_on_grid,
        decoder="qdqcli.tensors.packed.compressed_tensors:quantized",
    ),
    GPTQ,
    AWQ,
    replace(GPTQ, name="auto-round, GPTQ packing", methods=("auto-round",), is_declared=True,
            decoder="qdqcli.tensors.packed.gptq:auto_round"),
    replace(AWQ, name="auto-round, AWQ packing", methods=("auto-round",), is_declared=True),
    PackedFormat(
        name="bitsandbytes 4-bit", methods=("bitsandbytes",), codes=".weight", dtypes=("U8",),
        parts=(_part(SCALE, ".weight.absmax", "F32", "U8"), _part(CODE_BOOK, ".weight.quant_map", "F32"),
               _may(SCALE_OF_SCALES, ".weight.nested_absmax", "F32"),
               _may(BOOK_OF_SCALES, ".weight.nested_quant_map", "F32"),
               _may(FORMAT, ".weight.quant_state.bitsandbytes__nf4", "U8"),
               _may(FORMAT, ".weight.quant_state.bitsandbytes__fp4", "U8")),
        decoder="qdqcli.tensors.packed.bitsandbytes:four_bits",
    ),
    PackedFormat(
        name="bitsandbytes int8", methods=("bitsandbytes",), codes=".weight", dtypes=("I8",), fits=_is_row_scale,
        parts=(_part(SCALE, ".SCB", "F32"), _may(FORMAT, ".weight_format", "U8")),
        decoder="qdqcli.tensors.packed.scaled:bitsandbytes_int8",
    ),
    PackedFormat(
        name="gpt-oss MXFP4", methods=("mxfp4",), codes="_blocks", weight="", dtypes=("U8",),
        fits=_is_mxfp4_in_blocks,
        parts=(_part(SCALE, "_scales", *E8M0),),
        decoder="qdqcli.tensors.packed.experts:mxfp4",
    ),
    PackedFormat(
        name="MLX", methods=("mlx",), codes=".weight", dtypes=("U32",), fits=scales_on_grid,
        parts=(_part(SCALE, ".scales", *FLOATS, "U8"), _may(OFFSET, ".biases", *FLOATS)),
        decoder="qdqcli.tensors.packed.mlx:mlx",
    ),
    PackedFormat(
        name="DeepSeek V4", methods=("fp8",), codes=".weight", dtypes=("F8_E4M3", "I8"), fits=scales_on_grid,
        parts=(_part(SCALE, ".scale", "F8_E8M0"),),
        decoder="qdqcli.tensors.packed.scaled:deepseek_v4",
    ),
    PackedFormat(
        name="ComfyUI", methods=_COMFY, codes=".weight", dtypes=FP8, fits=scales_on_grid,
        decoder="qdqcli.tensors.packed.scaled:comfyui",
        parts=(_part(SCALE, ".scale_weight", *FLOATS),),
    ),
    NVFP4,
    replace(NVFP4, codes="", weight="", fits=_is_stack, decoder="qdqcli.tensors.packed.experts:nvfp4",
            parts=(_part(SCALE, "_weight_scale", "F8_E4M3"), _part(GLOBAL_SCALE, "_weight_scale_2", "F32"))),
    replace(NVFP4, name="ModelOpt MXFP4", fits=_is_mxfp4, parts=(_part(SCALE, ".weight_scale", *E8M0),),
            decoder="qdqcli.tensors.packed.scaled:mxfp4"),
    replace(FP8_SCALE, name="ModelOpt FP8", methods=("modelopt",), is_declared=True),
    replace(FP8_SCALE, name="ModelOpt FP8", methods=("modelopt",), parts=(_part(SCALE, "_weight_scale", *FLOATS),)),
    PackedFormat(
        name="Quark", methods=("quark",), codes=".weight", dtypes=("I8", "U8", "I32", *FP8), is_declared=True,
        parts=(_part(SCALE, ".weight_scale", *FLOATS, *E8M0),
               _may(ZERO_POINT, ".weight_zero_point", "I32", "I8", "U8", *FLOATS)),
    ),
    PackedFormat(
        name="BitNet", methods=("bitnet",), codes=".weight", dtypes=("U8",), is_declared=True, parts=(_SCALE,),
    ),
    replace(FP8_SCALE, parts=(_part(SCALE, "_scale_inv", *FLOATS, "F8_E8M0"),)),
    FP8_SCALE,
    PackedFormat(
        name="Mistral FP8", codes=".weight", dtypes=FP8, parts=(_part(SCALE, ".qscale_weight", *FLOATS),),
        decoder="qdqcli.tensors.packed.scaled:fp8",
        fits=scales_on_grid,
    ),
    INT8_SCALE,
    PackedFormat(
        name="integers with weight_scale", codes=".weight", dtypes=("U8", "I32", "U32"), fits=scales_on_grid,
        parts=(_part(SCALE, ".weight_scale", *FLOATS, "F8_E8M0"),),
    ),
    PackedFormat(
        name="torchao", methods=("torchao",), codes="._weight_qdata", dtypes=("I8", "U8", "I32", *FP8),
        parts=(_may(SCALE, "._weight_scale", *FLOATS, *E8M0, "F8_E4M3"),
               _may(ZERO_POINT, "._weight_zero_point", "I8", "U8", "I32", *FLOATS),
               _may(GLOBAL_SCALE, "._weight_per_tensor_scale", "F32"),
               _may("scale and zero point", "._weight_scale_and_zero", *FLOATS)),
        decoder="qdqcli.tensors.packed.scaled:torchao",
    ),
    PackedFormat(
        name="EXL3", methods=("exl3",), codes=".trellis", dtypes=("I16",),
        parts=(_part("output signs", ".svh", "F16"), _part("input signs", ".suh", "F16"),
               _may(CODE_BOOK, ".mcg", "I32"), _may(CODE_BOOK, ".mul1", "I32")),
    ),
    PackedFormat(
        name="EXL2", methods=("exl2",), codes=".q_weight", dtypes=("I32",),
        parts=(_part(SCALE, ".q_scale", "I32"), _part(SCALE_OF_SCALES, ".q_scale_max", "F16"),
               _may("groups", ".q_groups", "I16"), _may(GROUP_INDEX, ".q_invperm", "I32", "I16")),
    ),
    PackedFormat(
        name="Marlin", methods=("gptq", "marlin"), codes=".B", dtypes=("I32",), parts=(_part(SCALE, ".s", "F16"),),
    ),
    PackedFormat(
        name="AQLM", methods=("aqlm",), codes=".codes", dtypes=("I8", "I16", "U8", "U16"),
        parts=(_part(CODE_BOOK, ".codebooks", *FLOATS), _part(SCALE, ".scales", *FLOATS)),
    ),
    PackedFormat(
        name="VPTQ", methods=("vptq",), codes=".indices", dtypes=("I32", "I16", "U16"),
        parts=(_part(CODE_BOOK, ".centroids.weight", *FLOATS),
               _may("residual code book", ".res_centroids.weight", *FLOATS),
               _may("outliers' code book", ".outlier_centroids.weight", *FLOATS),
               _may(INPUT_SCALE, ".weight_scale", *FLOATS),
               _may(OFFSET, ".weight_bias", *FLOATS)),
    ),
    PackedFormat(
        name="HQQ", methods=("hqq",), codes=".W_q", dtypes=("U8", "I32", "I8", *FLOATS),
        parts=(_part(SCALE, ".scale", *FLOATS), _part(ZERO_POINT, ".zero", *FLOATS)),
    ),
    _QUANTO,
    replace(_QUANTO, codes=".weight._data._data", decoder=None),
)  # fmt: skip
