"""Weights that are quantized already: refused by name, and never touched."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Qdq
from tests.tensors.packed.golden import GOLDEN, changed
from tests.tensors.packed.samples import SAMPLES, Sample, Tensors, declared, sparse, write

GPTQ: Tensors = {
    "q.qweight": ("I32", (16, 64)),
    "q.qzeros": ("I32", (4, 8)),
    "q.scales": ("F16", (4, 64)),
    "q.g_idx": ("I32", (128,)),
    "q.input_scale": ("F32", (1,)),
    "lm_head.weight": ("F32", (32, 64)),
}


@pytest.fixture
def gptq(tmp_path: Path) -> Path:
    """A folder with one packed weight, and one in float whose elements are no zeros."""
    folder = tmp_path / "gptq"
    path = sparse(folder / "model.safetensors", GPTQ)
    data = np.random.default_rng(0).standard_normal(32 * 64).astype("<f4").tobytes()
    with path.open("r+b") as file:
        file.seek(-len(data), 2)
        file.write(data)
    (folder / "config.json").write_text(json.dumps(declared("gptq", bits=4)))
    return folder


@pytest.mark.parametrize("command", ["stats", "check", "run", "calibrate", "diagnose"])
def test_what_measures_refuses_packed_weights(gptq: Path, tmp_path: Path, qdq: Qdq, command: str) -> None:
    more = {
        "run": ["-o", tmp_path / "out"],
        "calibrate": ["-o", tmp_path / "ranges.json"],
        "check": ["--write-budget", tmp_path / "b.toml"],
    }
    outcome = qdq(command, gptq, *more.get(command, []))
    assert outcome.code == 3
    assert outcome.error == (
        f"error: {gptq}: already quantized: 1 weight in GPTQ ('q.weight'); qdq compare holds it against the "
        "original, qdq decode writes it in float, qdq stats --from-packed measures what it decodes to, "
        "--allow-packed only what is left in float"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gptq"]


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_every_format_is_refused_by_name(tmp_path: Path, qdq: Qdq, sample: Sample) -> None:
    outcome = qdq("stats", write(tmp_path / "m", sample))
    assert outcome.code == 3
    for title in sample.titles:
        assert f" in {title}" in outcome.error


def test_what_is_left_in_float_is_measured_and_nothing_else_changes(gptq: Path, tmp_path: Path, qdq: Qdq) -> None:
    out = tmp_path / "out"
    outcome = qdq("run", gptq, "-o", out, "--allow-packed", "--verify", "--format", "json")
    assert outcome.code == 0
    rows = {row["name"]: row for row in outcome.report["tensors"]}
    assert [name for name, row in rows.items() if row["status"] == "quantized"] == ["lm_head.weight"]
    assert {name: row["reason"] for name, row in rows.items() if row["status"] == "skipped"} == {
        "q.qweight": "already quantized: GPTQ codes",
        "q.qzeros": "already quantized: GPTQ zero point",
        "q.scales": "already quantized: GPTQ scale",
        "q.g_idx": "already quantized: GPTQ group index",
        "q.input_scale": "already quantized: GPTQ activation scale",
    }
    assert "note: " in outcome.err
    before, after = ((folder / "model.safetensors").read_bytes() for folder in (gptq, out))
    float_bytes = 32 * 64 * 4
    assert before[:-float_bytes] == after[:-float_bytes]
    assert before != after


def test_no_rule_and_no_pattern_reaches_a_scale(gptq: Path, qdq: Qdq, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "*"\nnum_bits = 4\n')
    outcome = qdq("stats", gptq, "--allow-packed", "--include", "*", "--recipe", recipe, "--format", "json")
    assert outcome.code == 0, outcome.err
    assert outcome.report["summary"]["num_quantized"] == 1


def test_inspect_shows_packed_weights_and_does_not_fail(gptq: Path, qdq: Qdq) -> None:
    outcome = qdq("inspect", gptq, "--exclude", "lm_head*", "--data")
    assert outcome.code == 0, outcome.err
    assert "already quantized: GPTQ scale" in outcome.out
    assert "1 weight in GPTQ" in outcome.err


def test_nothing_left_in_float(tmp_path: Path, qdq: Qdq) -> None:
    path = sparse(tmp_path / "m.safetensors", {"w": ("F8_E4M3", (8, 8)), "w_scale": ("F32", ())})
    outcome = qdq("stats", path, "--allow-packed")
    assert outcome.code == 2
    assert "nothing to quantize: 1 tensor: already quantized: FP8 codes; 1 tensor" in outcome.error
    path = sparse(tmp_path / "m.safetensors", {"w": ("F8_E4M3", (8, 8))})
    assert "nothing to quantize: 1 tensor: F8_E4M3 is already quantized" in qdq("stats", path).error


def test_recipe_explain_says_so(gptq: Path, qdq: Qdq) -> None:
    outcome = qdq("recipe", "explain", "linear-only", gptq, "q.scales")
    assert outcome.code == 0
    assert "already quantized: GPTQ scale" in outcome.out


def test_compare_refuses_what_is_not_decoded(tmp_path: Path, qdq: Qdq) -> None:
    tensors: Tensors = {
        "q.W_q": ("BF16", (8, 64)), "q.scale": ("BF16", (32, 1)), "q.zero": ("BF16", (32, 1)), "w": ("F32", (8, 8)),
    }  # fmt: skip
    packed = sparse(tmp_path / "hqq.safetensors", tensors)
    reference = sparse(tmp_path / "float.safetensors", {"q.weight": ("BF16", (16, 64)), "w": ("F32", (8, 8))})
    for one, two in ((reference, packed), (packed, reference), (packed, packed)):
        outcome = qdq("compare", one, two)
        assert outcome.code == 3
        assert outcome.error == (
            f"error: {packed}: already quantized: 1 weight in HQQ ('q.weight'): its codes are not decoded; "
            "'qdq help packed' lists what is decoded"
        )


REFUSED = {
    "GPTQ in bit planes": ("GPTQ", "its layout is 'gptq_p'; gptq and gptq_v2 are decoded"),
    "torchao Int4Tensor": ("torchao", "a layout of U8; a code per byte, I8 or FP8, is decoded"),
    "torchao Int4TilePackedTo4dTensor": ("torchao", "no scale beside it"),
    "EXL3, 4 bits": ("EXL3", "its codes are not decoded"),
    "EXL2": ("EXL2", "its codes are not decoded"),
    "HQQ": ("HQQ", "its codes are not decoded"),
    "quanto int4": ("quanto", "its codes are not decoded"),
    "Quark": ("Quark", "its codes are not decoded"),
    "BitNet": ("BitNet", "its codes are not decoded"),
    "compressed-tensors marlin-24": ("compressed-tensors marlin-24", "its codes are not decoded"),
    "Marlin": ("Marlin", "its codes are not decoded"),
    "AQLM": ("AQLM", "its codes are not decoded"),
    "VPTQ": ("VPTQ", "its codes are not decoded"),
    "a method that this version does not know": ("higgs, unknown layout", "its codes are not decoded"),
}
"""Sample -> name and reason."""


@pytest.mark.parametrize("name", REFUSED)
def test_decode_names_what_is_not_decoded(tmp_path: Path, qdq: Qdq, name: str) -> None:
    outcome = qdq("decode", write(tmp_path / "m", SAMPLES[name]), "-o", tmp_path / "out")
    assert outcome.code == 3
    for text in REFUSED[name]:
        assert text in outcome.error
    assert not (tmp_path / "out").exists()


def test_shards_given_one_by_one_are_one_checkpoint(tmp_path: Path, qdq: Qdq) -> None:
    sparse(tmp_path / "m" / "a.safetensors", {"w.weight": ("F8_E4M3", (256, 256)), "lm_head.weight": ("F32", (32, 64))})
    sparse(tmp_path / "m" / "b.safetensors", {"w.weight_scale_inv": ("F32", (2, 2)), "v.weight": ("F32", (8, 64))})
    shards = sorted((tmp_path / "m").iterdir())
    outcome = qdq("stats", *shards)
    assert outcome.code == 3
    assert "already quantized" in outcome.error
    report = qdq("stats", *shards, "--allow-packed", "--format", "json").report
    measured = {row["name"] for row in report["tensors"] if row["status"] == "quantized"}
    assert measured == {"lm_head.weight", "v.weight"}


def test_a_file_is_read_with_the_configuration_beside_it(tmp_path: Path, qdq: Qdq) -> None:
    codes: Tensors = {"w.odd_codes": ("I32", (16, 64)), "w.odd_scale": ("F32", (16, 4)), "v.weight": ("F32", (8, 64))}
    path = sparse(tmp_path / "m" / "model.safetensors", codes)
    assert qdq("stats", path).code == 0
    (path.parent / "config.json").write_text(json.dumps(declared("brandnew", bits=4)))
    outcome = qdq("stats", path)
    assert outcome.code == 3
    assert "brandnew" in outcome.error


def test_a_plain_cast_to_fp8_is_warned_of_wherever_it_is_not_measured(tmp_path: Path, qdq: Qdq) -> None:
    path = sparse(tmp_path / "m.safetensors", {"a": ("F8_E4M3", (30, 8)), "b": ("F32", (10, 8))})
    budget = tmp_path / "b.toml"
    budget.write_text("[limits]\nmax_abs_error = 1\n")
    for command in (["stats"], ["check", "--budget", budget], ["sweep"]):
        err = qdq(command[0], path, *command[1:]).err
        assert "1 tensor of F8_E4M3, 75.0% of the elements: already quantized and not measured" in err


def test_integer_matrices_that_are_most_of_an_input_are_warned_of(tmp_path: Path, qdq: Qdq) -> None:
    few = sparse(tmp_path / "few.safetensors", {"position_ids": ("I64", (1, 8)), "w": ("F32", (10, 8))})
    assert "are they codes" not in qdq("stats", few).err
    most = sparse(tmp_path / "most.safetensors", {"a.qw": ("I32", (30, 8)), "a.scl": ("F32", (10, 8))})
    assert "1 tensor of I32, 75.0% of the elements: not measured; are they codes?" in qdq("stats", most).err


@pytest.mark.parametrize("command", ["stats", "inspect", "sweep", "diagnose"])
@pytest.mark.parametrize("folder", [GOLDEN / "gptq", GOLDEN / "fp8-blocks"], ids=lambda folder: folder.name)
def test_from_packed_measures_what_weights_decode_to(qdq: Qdq, command: str, folder: Path) -> None:
    more = ["--group-size", 32] if command != "sweep" else ["--group-size", 32, "--num-bits", 4]
    packed = qdq(command, folder / "packed", "--from-packed", *more, "--format", "json")
    assert packed.code == 0, packed.err
    decoded = qdq(command, folder / "decoded.safetensors", *more, "--format", "json")
    one, two = (each.report for each in (packed, decoded))
    assert one["settings"].pop("from_packed") is True
    assert without_files(one) == without_files(two)


def without_files(value: object) -> object:
    """A report without what names its input, and with its lists of tensors by name."""
    if isinstance(value, dict):
        return {key: without_files(inner) for key, inner in value.items() if key not in ("file", "inputs", "input")}
    if isinstance(value, list):
        found = list(map(without_files, value))
        is_of_tensors = all(isinstance(inner, dict) and "name" in inner for inner in value)
        return sorted(found, key=lambda inner: str(inner["name"])) if is_of_tensors else found  # type: ignore[index]
    return value


def test_from_packed_names_what_is_damaged(tmp_path: Path, qdq: Qdq) -> None:
    folder = changed(GOLDEN / "gptq", tmp_path / "packed", lambda tensors: tensors.pop("b4.scales"))
    outcome = qdq("stats", folder, "--from-packed")
    assert outcome.code == 3
    assert "'b4.qweight' is no GPTQ: there is no 'b4.scales'" in outcome.error
