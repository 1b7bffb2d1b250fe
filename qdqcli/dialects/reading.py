"""Reading of another tool's recipe: the kind of a file is told by its content."""

from collections.abc import Collection
from pathlib import Path

import yaml

from qdqcli.dialects import auto_round, compressed_tensors, gptqmodel, llama_cpp, mlx, modelopt, torchao
from qdqcli.dialects.imported import Imported
from qdqcli.dialects.table import Table
from qdqcli.errors import UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.plain import Parsed
from qdqcli.recipe.document import read_text
from qdqcli.tensors.strict_json import parse_object

_WHAT = (
    "expected a config.json with quantization_config or quantization, hf_quant_config.json, a recipe of "
    "llm-compressor or ModelOpt, a config of auto-round, GPTQModel or torchao, or a tensor-type file of llama.cpp"
)
_CONFIGS = ("config.json", "hf_quant_config.json", "quantize_config.json")
_MODELOPT = {"quant_algo", "kv_cache_quant_algo", "quantized_layers"}
"""Keys of ModelOpt's `quantization`, where MLX has another."""
METHODS = {
    "compressed-tensors": compressed_tensors.read_config,
    "gptq": gptqmodel.read,
    "awq": gptqmodel.read,
    "auto-round": auto_round.read,
    "intel/auto-round": auto_round.read,
    "torchao": torchao.read_hub,
    "modelopt": modelopt.read_config,
}
"""`quant_method` -> reader of a `quantization_config`."""


def read_foreign(path: Path, names: Collection[str] = ()) -> Imported:
    """Read a recipe of another tool, or the configuration of a quantized model; `names` are those of MODEL's tensors.

    Raises:
        UsageError: no such file, of no known kind, or malformed.
    """
    if path.is_dir():
        found = [path / name for name in _CONFIGS if (path / name).is_file()]
        if not found:
            raise UsageError(f"{show_path(path)}: a folder without {', '.join(_CONFIGS)}")
        path = found[0]
    if path.suffix == ".toml" and path.exists():
        raise UsageError(f"{show_path(path)}: TOML, as the recipes of qdq are: --recipe takes it as it is")
    return parse_foreign(read_text(path, _WHAT, may_be_pipe=True), show_path(path), names)


def parse_foreign(text: str, source: str, names: Collection[str] = ()) -> Imported:
    """Read a recipe from its text; raises like `read_foreign`."""
    lines = llama_cpp.parse(text)
    if lines is not None:
        return llama_cpp.read(lines, names, f"{source}: ")
    data = _object(text, source)
    try:
        found = _of_config(data, source, names) or _of_recipe(data, source, names)
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(source) else f"{source}: {error}") from None
    if found is None and "architectures" in data:
        raise UsageError(f"{source}: has no quantization_config: its model is not quantized")
    if found is None:
        keys = ", ".join(escape_name(str(key), 30) for key in list(data)[:6])
        raise UsageError(f"{source}: no recipe of a tool that is known, with the keys {keys or '(none)'}; {_WHAT}")
    return found


def _object(text: str, source: str) -> Parsed:
    """Return the object of a JSON or YAML file."""
    try:
        data = parse_object(text.encode()) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except MalformedError as error:
        raise UsageError(f"{source}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        raise UsageError(f"{where}: not YAML: {escape_name(error.problem or 'malformed')}; {_WHAT}") from None
    except RecursionError:
        raise UsageError(f"{source}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{source}: not YAML: {escape_name(str(error))}; {_WHAT}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{source}: holds no object; {_WHAT}")
    return data


def _of_config(data: Parsed, source: str, names: Collection[str]) -> Imported | None:
    """Read a config.json of a model, or what stands in one."""
    top = Table(data, f"{source}: ")
    quantization = data.get("quantization")
    if isinstance(quantization, dict):
        inner = top.table("quantization")
        return modelopt.read_config(inner) if _MODELOPT & {*inner.data} else mlx.read(inner)
    if isinstance(data.get("quantization_config"), dict):
        return _of_method(top.table("quantization_config"), names)
    if isinstance(data.get("compression_config"), dict):  # compressed-tensors before 2025
        return _of_method(top.table("compression_config"), names)
    for key in ("text_config", "llm_config", "thinker_config"):  # models of several modalities
        if isinstance(data.get(key), dict) and "quantization_config" in data[key]:
            return _of_method(top.table(key).table("quantization_config"), names)
    return _of_method(top, names) if "quant_method" in data else None


def _of_method(config: Table, names: Collection[str]) -> Imported:
    if "config_groups" in config and config.text("quant_method", default="") != "modelopt":
        return compressed_tensors.read_config(config)
    method = config.text("quant_method").lower()
    if method not in METHODS:
        raise UsageError(f"{config.where}quant_method is {escape_name(method)}, whose layout qdq cannot simulate; "
                         f"expected one of {', '.join(METHODS)}")  # fmt: skip
    reader = METHODS[method]
    return auto_round.read(config, names) if reader is auto_round.read else reader(config)


def _of_recipe(data: Parsed, source: str, names: Collection[str]) -> Imported | None:
    """Read a recipe or the arguments of a tool."""
    table = Table(data, f"{source}: ")
    if isinstance(data.get("quantize"), dict):
        return modelopt.read_recipe(table)
    if "config_groups" in data:
        return compressed_tensors.read_config(table)
    if "layer_config" in data:
        return auto_round.read(table, names)
    if "_type" in data:
        return torchao.read(table)
    if ("bits" in data or "w_bit" in data) and {"group_size", "q_group_size", "dynamic"} & {*data}:
        return gptqmodel.read(table)
    return compressed_tensors.read_recipe(data, f"{source}: ")
