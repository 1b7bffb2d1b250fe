"""`qdq run`: what is written, where, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # safetensors needs it to be imported before it reads BF16
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from qdqcli import quantize_and_dequantize_v4
from qdqcli.run import pipeline
from tests.cli.process import run_process
from tests.conftest import TINY, TINY_FLOATS, Qdq
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import header_of, read_safetensors, sample, write_safetensors
from tests.run.slices import expected_output


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_quantized(
    got: dict[str, np.ndarray], original: dict[str, np.ndarray] = TINY, skipped: tuple[str, ...] = (), **settings: Any
) -> None:
    """Floating-point tensors are what the public function gives, all others are as they were."""
    assert got.keys() == original.keys()
    for name, x in original.items():
        if x.dtype.kind in "ib" or name in skipped:
            assert (got[name].dtype, got[name].shape, got[name].tobytes()) == (x.dtype, x.shape, x.tobytes()), name
        else:
            want = expected_output(quantize_and_dequantize_v4, x, **({"compute_dtype": "float32"} | settings))
            assert_same_bits(got[name], want, x, name)


# Layouts


def test_a_file_becomes_a_file(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    assert qdq("run", tiny, "-o", output, "--min-ndim", 0).code == 0
    assert header_of(output) == header_of(tiny)
    assert output.stat().st_size == tiny.stat().st_size
    assert_quantized(read_safetensors(output))


def test_the_safetensors_library_reads_the_output(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    assert qdq("run", tiny, "-o", output, "--min-ndim", 0, "--num-bits", 4).code == 0
    assert_quantized(load_file(output), num_bits=4)
    with safe_open(output, framework="np") as file:
        assert file.metadata() == {"format": "pt", "note": "tiny"}
        assert set(file.keys()) == set(TINY)


def test_a_folder_becomes_a_folder_with_all_its_files(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    before = contents(model)
    assert qdq("run", model, "-o", output, "--axis", 0, "--min-ndim", 1).code == 0
    after = contents(output)
    assert contents(model) == before
    assert after.keys() == before.keys() | {"qdq.json"}
    got: dict[str, np.ndarray] = {}
    for name in before:
        if name.endswith(".safetensors"):
            assert header_of(output / name) == header_of(model / name)
            got |= read_safetensors(output / name)
        else:
            assert after[name] == before[name], name
    assert_quantized({name: got[name] for name in TINY}, axis=0, skipped=("scalar",))


def test_a_folder_of_npy_files_becomes_one(qdq: Qdq, tmp_path: Path) -> None:
    source, output = tmp_path / "arrays", tmp_path / "out"
    (source / "sub").mkdir(parents=True)
    arrays = {"a": sample((3, 4)), "b": sample((5,), "F64"), "c": np.arange(4)}
    for name, array in arrays.items():
        np.save(source / f"{name}.npy", array)
    (source / "sub" / "readme.txt").write_text("hello")
    assert qdq("run", source, "-o", output, "--min-ndim", 0).code == 0
    assert contents(output).keys() == contents(source).keys() | {"qdq.json"}
    assert_quantized({name: np.load(output / f"{name}.npy") for name in arrays}, arrays)
    assert (output / "sub" / "readme.txt").read_text() == "hello"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_becomes_one(qdq: Qdq, tmp_path: Path, save: Any) -> None:
    arrays = {
        "z": sample((30, 40)),
        "a": sample((5,), "F16"),
        "i": np.arange(7),
        "big": sample((3, 4), np.dtype(">f4")),
    }
    save(tmp_path / "in.npz", **arrays)
    assert qdq("run", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--min-ndim", 0).code == 0
    with np.load(tmp_path / "out.npz") as got:
        assert got.files == list(arrays)
        found = {name: got[name] for name in arrays}
    assert found["big"].dtype.str == ">f4"
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    assert_quantized({name: array.astype(native[name].dtype) for name, array in found.items()}, native)


def test_bfloat16_in_an_npy_file_is_quantized_where_the_option_says_so(qdq: Qdq, tmp_path: Path) -> None:
    x = sample((4, 6), "BF16")
    np.save(tmp_path / "x.npy", x.view("V2"))
    refused = qdq("run", tmp_path / "x.npy", "-o", tmp_path / "out.npy")
    assert refused.code == 2
    assert "--dtype bf16" in refused.err
    assert qdq("run", tmp_path / "x.npy", "-o", tmp_path / "out.npy", "--dtype", "bf16").code == 0
    assert_quantized({"x": np.load(tmp_path / "out.npy").view(x.dtype)}, {"x": x})


def test_several_inputs_become_a_folder_with_one_entry_each(qdq: Qdq, tiny: Path, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample((4, 6)))
    output = tmp_path / "out"
    assert qdq("run", tiny, model, tmp_path / "x.npy", "-o", output, "--min-ndim", 0).code == 0
    assert sorted(path.name for path in output.iterdir()) == ["model", "qdq.json", "tiny.safetensors", "x.npy"]
    assert_quantized(read_safetensors(output / "tiny.safetensors"))
    assert contents(output / "model").keys() == contents(model).keys()
    assert_quantized({"x": np.load(output / "x.npy")}, {"x": sample((4, 6))})


def test_a_glob_names_several_inputs(qdq: Qdq, tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"w{i}.npy", sample((4, 6), seed=i))
    assert qdq("run", tmp_path / "w[01].npy", "-o", tmp_path / "out", "--min-ndim", 0).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["qdq.json", "w0.npy", "w1.npy"]


def test_two_inputs_of_one_name_are_refused(qdq: Qdq, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_safetensors(tmp_path / folder / "m.safetensors", {"w": sample((4,))})
    inputs = [tmp_path / folder / "m.safetensors" for folder in ("a", "b")]
    outcome = qdq("run", *inputs, "-o", tmp_path / "out", "--min-ndim", 0)
    assert outcome.code == 2
    assert "same name" in outcome.error
    assert not (tmp_path / "out").exists()


def test_files_get_the_mode_of_the_umask(model: Path, tmp_path: Path) -> None:
    assert run_process("run", model, "-o", tmp_path / "out", umask=0o027).returncode == 0
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {"0o640"}
    assert {(path.stat().st_mode & 0o777) for path in (tmp_path / "out", tmp_path / "out" / "1_Pooling")} == {0o750}


def test_what_others_cannot_read_of_the_input_they_cannot_read_of_the_output(model: Path, tmp_path: Path) -> None:
    """Shards, archives, side files and folders: at most the input's permissions for others, whatever the umask."""
    np.savez(model / "1_Pooling" / "extra.npz", w=sample((4, 4)))
    shard = next(path.name for path in model.iterdir() if path.suffix == ".safetensors")
    modes = {shard: 0o604, "config.json": 0o600, "1_Pooling/config.json": 0o640, "1_Pooling/extra.npz": 0o400}
    modes["1_Pooling"] = 0o750
    for name, mode in modes.items():
        (model / name).chmod(mode)
    model.chmod(0o700)
    assert run_process("run", model, "-o", tmp_path / "out", umask=0o022).returncode == 0
    found = {name: (tmp_path / "out" / name).stat().st_mode & 0o777 for name in modes}
    assert found == modes | {"1_Pooling/extra.npz": 0o600}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    assert run_process("run", model / shard, "-o", tmp_path / "one.safetensors", umask=0).returncode == 0
    assert (tmp_path / "one.safetensors").stat().st_mode & 0o777 == 0o604


def test_two_runs_write_the_same_bytes(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    settings = ("--group-size", 3, "--ragged-groups", "--num-bits", 5)
    assert qdq("run", model, "-o", tmp_path / "a", *settings, "--threads", 1).code == 0
    assert qdq("run", model, "-o", tmp_path / "b", *settings, "--threads", 3, "--max-memory", "1kB").code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (("--num-bits", 3), {"num_bits": 3}),
        (("--unsigned-input", "--num-bits", 62), {"signed_input": False, "num_bits": 62}),
        (("--narrow-range",), {"narrow_range": True}),
        (("--round-mode", "half_up"), {"round_mode": "HALF_UP"}),
        (("--round-mode", "HALF_UP", "--num-bits", 2), {"round_mode": "HALF_UP", "num_bits": 2}),
        (("--axis", "0"), {"axis": 0}),
        (("--axis", "last"), {"axis": 1}),
        (("--axis", "none"), {}),
        (("--group-size", "2"), {"group_size": 2}),
        (("--group-size", "5", "--ragged-groups"), {"group_size": 5, "ragged_groups": True}),
        (("--input-min", "-0.5", "--input-max", "0.25"), {"given_range": (-0.5, 0.25)}),
        (("--input-min", "0", "--input-max", "1", "--axis", "1"), {"given_range": (0.0, 1.0), "axis": 1}),
        (("--compute-dtype", "native"), {"compute_dtype": "native"}),
        (("--compute-dtype", "float32"), {"compute_dtype": "float32"}),
        (("--compute-dtype", "native", "--input-min", "-0.3", "--input-max", "0.3"),
         {"compute_dtype": "native", "given_range": (-0.3, 0.3)}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_each_option_of_the_op(qdq: Qdq, tmp_path: Path, options: tuple[object, ...], settings: dict[str, Any]) -> None:
    # Kernels of each dtype round half up in `tests/measure`; they are compiled apart from those of the default mode.
    dtypes = ("F32",) if "round_mode" in settings else ("BF16", "F16", "F32", "F64")
    tensors = {dtype: sample((4, 6), dtype, 20) for dtype in dtypes}
    source = write_safetensors(tmp_path / "in.safetensors", tensors)
    outcome = qdq("run", source, "-o", tmp_path / "out.safetensors", "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    assert_quantized(read_safetensors(tmp_path / "out.safetensors"), tensors, **settings)
    spec = outcome.report["tensors"][0]["spec"]
    expected = {"compute_dtype": "float32"} | {k: v for k, v in settings.items() if k in spec}
    assert {name: spec[name] for name in expected} == expected
    assert spec["range_given"] is ("given_range" in settings)


@pytest.mark.parametrize(
    ("options", "skipped"),
    [
        (("--min-ndim", 2), ("layer.0.norm.bias", "scalar")),
        (("--include", "layer.*", "--min-ndim", 0), ("embed", "wide", "scalar")),
        (
            ("--exclude", "layer.0*", "--exclude", "re:emb..", "--min-ndim", 0),
            ("layer.0.mlp.weight", "layer.0.norm.bias", "embed"),
        ),
        (("--include", "*", "--exclude", "*"), None),
    ],
)  # fmt: skip
def test_tensors_that_are_not_selected_are_copied_byte_for_byte(
    qdq: Qdq, tiny: Path, tmp_path: Path, options: tuple[object, ...], skipped: tuple[str, ...] | None
) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", *options)
    if skipped is None:
        assert outcome.code == 2
        assert "nothing to quantize" in outcome.error
        assert not (tmp_path / "out.safetensors").exists()
        return
    assert outcome.code == 0
    assert_quantized(read_safetensors(tmp_path / "out.safetensors"), skipped=skipped)


def test_not_a_number_of_a_tensor_that_is_copied_keeps_its_bits(qdq: Qdq, tmp_path: Path) -> None:
    odd = np.array([0x7FC12345, 0xFFA00001, 0x00000001, 0x80000000], np.uint32).view(np.float32)
    source = write_safetensors(tmp_path / "in.safetensors", {"odd": odd, "w": sample((4,))})
    assert qdq("run", source, "-o", tmp_path / "out.safetensors", "--exclude", "odd").code == 0
    assert read_safetensors(tmp_path / "out.safetensors")["odd"].tobytes() == odd.tobytes()


# Where it may be written


def test_an_output_that_exists_is_refused_and_kept(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("precious")
    outcome = qdq("run", tiny, "-o", output, "--min-ndim", 0)
    assert outcome.code == 2
    assert outcome.error.startswith(f"error: {output}: exists")
    assert "--overwrite" in outcome.error
    assert output.read_text() == "precious"


def test_overwrite_replaces_a_file(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("old")
    assert qdq("run", tiny, "-o", output, "--min-ndim", 0, "--overwrite").code == 0
    assert_quantized(read_safetensors(output))


def test_overwrite_replaces_a_whole_folder(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (model / "old.txt").write_text("old")
    assert qdq("run", model, "-o", output).code == 0
    (model / "old.txt").unlink()
    before = contents(output)
    assert qdq("run", model, "-o", output).code == 2
    assert contents(output) == before
    assert "old.txt" in before, "the earlier run wrote it, says qdq.json"
    assert qdq("run", model, "-o", output, "--overwrite").code == 0
    assert contents(output).keys() == contents(model).keys() | {"qdq.json"}


@pytest.mark.parametrize("command", ["run", "grad"])
def test_overwrite_never_deletes_what_is_not_an_output(qdq: Qdq, model: Path, tmp_path: Path, command: str) -> None:
    output = tmp_path / "project"
    (output / ".git").mkdir(parents=True)
    (output / "thesis.txt").write_text("precious")
    inputs = [model, model] if command == "grad" else [model]
    outcome = qdq(command, *inputs, "-o", output, "--overwrite")
    assert outcome.code == 2
    assert outcome.error.startswith(f"error: {output}/.git: belongs to no output of qdq, and --overwrite would delete")
    assert (output / ".git").is_dir()
    assert contents(output) == {"thesis.txt": b"precious"}


@pytest.mark.parametrize("place", ["../out", "."])
def test_the_working_folder_may_be_in_the_output(
    qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It moves with the old output; paths that lead out of it mean what they meant before."""
    output = tmp_path / "out"
    assert qdq("run", model, "-o", output).code == 0
    before = contents(output)
    monkeypatch.chdir(output)
    arguments = ("run", "../model", "-o", place, "--overwrite", "--num-bits", 4, "--report", "../r.json")
    outcome = qdq(*arguments)
    monkeypatch.chdir(tmp_path)
    assert outcome.code == (0 if place == "../out" else 2), outcome.err
    assert (contents(output) != before) == (place == "../out")
    assert contents(output).keys() == before.keys()
    assert (tmp_path / "r.json").exists() == (place == "../out")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_overwrite_does_not_change_the_kind(qdq: Qdq, tiny: Path, model: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    output.mkdir() if kind == "folder" else output.write_text("old")
    outcome = qdq("run", tiny if kind == "folder" else model, "-o", output, "--overwrite")
    assert outcome.code == 2
    assert f"{output}: is a {kind}" in outcome.error


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors", "OUT.NPY"])
def test_a_folder_is_not_named_like_a_file(qdq: Qdq, tiny: Path, model: Path, tmp_path: Path, name: str) -> None:
    for inputs in ([model], [tiny, model]):
        outcome = qdq("run", *inputs, "-o", tmp_path / name)
        assert outcome.code == 2
        assert f"{name}: is the name of a file, the output is a folder" in outcome.error
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["out.npz", "OUT.NPY"])
def test_a_file_is_not_named_like_one_of_another_kind(qdq: Qdq, tiny: Path, tmp_path: Path, name: str) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / name)
    assert outcome.code == 2
    assert f"{name}: is the name of another kind of file than the input" in outcome.error
    assert "choose a name that ends with .safetensors" in outcome.error
    assert not (tmp_path / name).exists()
    assert qdq("run", tiny, "-o", tmp_path / "out.bin").code == 0


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("way", ["itself", "dots", "symlink", "hardlink"])
def test_an_output_that_is_the_input_is_refused_always(
    qdq: Qdq, tiny: Path, tmp_path: Path, way: str, overwrite: tuple[str, ...]
) -> None:
    before = tiny.read_bytes()
    output = tmp_path / "link.safetensors"
    match way:
        case "itself":
            output = tiny
        case "dots":
            (tmp_path / "sub").mkdir()
            output = tmp_path / "sub" / ".." / tiny.name
        case "symlink":
            output.symlink_to(tiny)
        case "hardlink":
            os.link(tiny, output)
    outcome = qdq("run", tiny, "-o", output, *overwrite)
    assert outcome.code == 2
    assert outcome.error
    assert tiny.read_bytes() == before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("way", ["itself", "inside", "around", "link", "a shard of it"])
def test_an_output_that_is_holds_or_lies_in_the_input_folder_is_refused(
    qdq: Qdq, model: Path, tmp_path: Path, way: str, overwrite: tuple[str, ...]
) -> None:
    before = contents(model)
    (tmp_path / "link").symlink_to(model)
    shard = "model-00001-of-00002.safetensors"
    paths = {"itself": model, "inside": model / "out", "around": tmp_path, "link": tmp_path / "link"}
    outcome = qdq("run", model, "-o", paths.get(way, model / shard), *overwrite)
    assert outcome.code == 2
    assert outcome.error
    assert contents(model) == before


def test_an_output_in_a_folder_that_is_not_there_is_refused(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "none" / "out.safetensors")
    assert outcome.code == 2
    assert not (tmp_path / "none").exists()


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    outcome = qdq("run", model, "-o", tmp_path / "out", "--axis", 0, "--min-ndim", 2, "--dry-run", "--format", "json")
    assert outcome.code == 0
    assert contents(tmp_path) == before
    tensors = {entry["name"]: entry for entry in outcome.report["tensors"]}
    assert tensors.keys() == TINY.keys()
    assert tensors["wide"]["status"] == "quantized"
    assert tensors["wide"]["spec"]["axis"] == 0
    assert tensors["wide"]["num_bytes"] == TINY["wide"].nbytes
    assert tensors["scalar"] | {"status": "skipped", "reason": "fewer than 2 dimensions"} == tensors["scalar"]
    assert "dry run" in outcome.err


@pytest.mark.parametrize("options", [("--axis", "7"), ("--include", "nothing"), ("-o", "model")])
def test_a_dry_run_fails_where_the_run_would(qdq: Qdq, model: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    output = () if "-o" in options else ("-o", tmp_path / "out")
    options = tuple(str(model) if option == "model" else option for option in options)
    assert qdq("run", model, *output, *options, "--dry-run").code == 2


def test_a_failed_run_leaves_what_was_there(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.safetensors"
    output.write_text("old")

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(pipeline, "quantize_tensor", fail)
    assert qdq("run", tiny, "-o", output, "--min-ndim", 0, "--overwrite").code == 70
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "tiny.safetensors"]


def test_a_stale_partial_folder_of_a_killed_run_is_taken_over(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.safetensors.qdq-partial"
    partial.mkdir()
    (partial / "lock").touch()
    (partial / "result").write_text("half")
    assert qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--min-ndim", 0).code == 0
    assert_quantized(read_safetensors(tmp_path / "out.safetensors"))


def test_the_index_names_the_shards_that_are_there(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    assert qdq("run", model, "-o", tmp_path / "out").code == 0
    weight_map = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    for name, shard in weight_map.items():
        assert name in read_safetensors(tmp_path / "out" / shard)
    assert len(weight_map) == len(TINY) == len(TINY_FLOATS) + 2
