"""`qdq decode`: what it writes is what loaders of the original model read."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from qdqcli.tensors.checkpoint import open_checkpoint
from tests.cli.test_resume import stopped
from tests.conftest import Qdq
from tests.tensors.packed.golden import FOLDERS, GOLDEN, NUMPY, Stored, arrays, changed, load
from tests.tensors.packed.test_decoded import split

PACK = GOLDEN / "compressed-tensors-pack-quantized"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_decoded_checkpoint_has_the_weights_and_no_trace_of_quantization(
    tmp_path: Path, qdq: Qdq, folder: Path
) -> None:
    outcome = qdq("decode", folder / "packed", "-o", tmp_path / "out", "--dtype", "f32", "--verify")
    assert outcome.code == 0, outcome.err
    found, expected = arrays(open_checkpoint(tmp_path / "out")), arrays(open_checkpoint(folder / "decoded.safetensors"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name].astype(values.dtype), values), name
    for path in (tmp_path / "out").glob("*.json"):
        assert "quant" not in path.read_text() or path.name == "qdq.json"
    assert qdq("inspect", tmp_path / "out").err == ""
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == expected.keys()


@pytest.mark.parametrize(("option", "dtype"), [([], "BF16"), (["--dtype", "f16"], "F16")])
def test_values_are_rounded_once(tmp_path: Path, qdq: Qdq, option: list[str], dtype: str) -> None:
    folder = GOLDEN / "gptq"
    assert qdq("decode", folder / "packed", "-o", tmp_path / "out", *option).code == 0
    found, expected = arrays(open_checkpoint(tmp_path / "out")), arrays(open_checkpoint(folder / "decoded.safetensors"))
    for name, values in expected.items():
        assert found[name].dtype == NUMPY[dtype]
        assert np.array_equal(found[name], values.astype(NUMPY[dtype]))


def test_the_index_the_configuration_and_what_is_left_in_float(tmp_path: Path, qdq: Qdq) -> None:
    packed = split(tmp_path / "packed", lambda name: name.startswith("b4"))
    config = json.loads((packed / "config.json").read_text())
    config |= {"torch_dtype": "float32", "text_config": {"dtype": "float16", "quantization_config": {}, "x": 1}}
    (packed / "config.json").write_text(json.dumps(config))
    (packed / "tokenizer.json").write_text("{}")
    outcome = qdq("decode", packed, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    out = tmp_path / "out"
    assert json.loads((out / "config.json").read_text()) == {
        "torch_dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "x": 1},
    }  # fmt: skip
    assert (out / "tokenizer.json").read_text() == "{}"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    expected = arrays(open_checkpoint(PACK / "decoded.safetensors"))
    assert index["weight_map"] == {
        name: "b.safetensors" if name.startswith("b4") else "a.safetensors" for name in sorted(expected)
    }
    assert index["metadata"]["total_size"] == 2 * sum(values.size for values in expected.values())
    assert arrays(open_checkpoint(out)).keys() == expected.keys()


def test_other_tensors_keep_their_bytes(tmp_path: Path, qdq: Qdq) -> None:
    norm: Stored = ("F32", (3,), b"abcdefghijkl")

    def add(tensors: dict[str, Stored]) -> None:
        tensors["norm.weight"], tensors["b4.input_scale"] = norm, ("F32", (1,), bytes(4))
        tensors["ids"] = "U8", (5,), b"12345"

    packed = changed(PACK, tmp_path / "packed", add)
    assert qdq("decode", packed, "-o", tmp_path / "out", "--verify").code == 0
    found = load(tmp_path / "out" / "model.safetensors")
    assert found["norm.weight"] == norm
    assert found["ids"] == ("U8", (5,), b"12345")
    assert "b4.input_scale" not in found, "the scale of an activation is of no use without quantization"


@pytest.mark.parametrize("lines", [2, 4, 7])
def test_an_interrupted_run_goes_on(tmp_path: Path, qdq: Qdq, lines: int) -> None:
    packed = split(tmp_path / "packed", lambda name: name.startswith("b4"))
    assert qdq("decode", packed, "-o", tmp_path / "whole").code == 0
    arguments = ["decode", str(packed), "-o", str(tmp_path / "out"), "--threads", "1"]
    first = stopped(lines, signal.SIGTERM, *arguments)
    assert first.returncode == 143, first.stderr
    assert not (tmp_path / "out").exists()
    outcome = qdq(*arguments, "--resume")
    assert outcome.code == 0, outcome.err
    for path in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert "is finished already" in qdq(*arguments, "--resume").err


def test_other_settings_do_not_resume(tmp_path: Path, qdq: Qdq) -> None:
    arguments = ["decode", str(PACK / "packed"), "-o", str(tmp_path / "out")]
    stopped(2, signal.SIGTERM, *arguments)
    outcome = qdq(*arguments, "--dtype", "f32", "--resume")
    assert outcome.code == 2
    assert "dtype was bf16 and is f32" in outcome.error
    assert qdq(*arguments, "--resume").code == 0


def test_what_there_is_not_to_decode(tmp_path: Path, qdq: Qdq) -> None:
    outcome = qdq("decode", PACK / "original.safetensors", "-o", tmp_path / "out.safetensors")
    assert outcome.code == 2
    assert "no packed weights; there is nothing to decode" in outcome.error
    shutil.copytree(PACK / "packed", tmp_path / "packed")
    assert qdq("decode", tmp_path / "packed", "-o", tmp_path / "packed").code == 2
