"""`qdq inspect`: what is there and what would happen, from headers alone; `qdq info`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from qdqcli.report.formatter import REPORT_SUFFIXES
from qdqcli.report.forms import LISTING_FORMATS
from tests.cli.process import environment
from tests.conftest import TINY, Qdq
from tests.run.checkpoints import sample, write_safetensors, write_sparse

FLOATS = {"F32", "F16", "BF16", "F64"}


def test_it_lists_every_tensor(qdq: Qdq, model: Path) -> None:
    report = qdq("inspect", model, "--format", "json", "--num-bits", 4, "--axis", 0, "--min-ndim", 1).report
    assert report["command"] == "inspect"
    tensors = {entry["name"]: entry for entry in report["tensors"]}
    assert tensors.keys() == TINY.keys()
    for name, array in TINY.items():
        entry = tensors[name]
        assert (entry["shape"], entry["num_bytes"]) == (list(array.shape), array.nbytes)
        assert (entry["status"] == "quantized") is (entry["dtype"] in FLOATS and array.ndim > 0)
    assert tensors["wide"]["spec"]["num_bits"] == 4
    assert tensors["wide"]["num_ranges"] == 2
    assert tensors["wide"]["stats"]["bits_per_weight"] == 4 + 2 * 16 / 24
    assert tensors["scalar"]["reason"] == "fewer than 1 dimensions"


@pytest.mark.parametrize("name", LISTING_FORMATS)
def test_every_format(qdq: Qdq, tiny: Path, name: str) -> None:
    outcome = qdq("inspect", tiny, "--format", name)
    assert outcome.code == 0
    assert all(tensor in outcome.out for tensor in TINY)


@pytest.mark.parametrize(("suffix", "name"), [item for item in REPORT_SUFFIXES.items() if item[1] in LISTING_FORMATS])
def test_every_suffix(qdq: Qdq, tiny: Path, tmp_path: Path, suffix: str, name: str) -> None:
    outcome = qdq("inspect", tiny, "--format", name, "--report", tmp_path / f"list{suffix}")
    assert (tmp_path / f"list{suffix}").read_text(encoding="utf-8") == outcome.out


def test_an_unknown_suffix_is_refused(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    assert qdq("inspect", tiny, "--report", tmp_path / "list.txt").code == 2


def test_headers_alone_are_read(qdq: Qdq, tmp_path: Path) -> None:
    """A tensor of 4 TiB, listed at once."""
    source = write_sparse(tmp_path / "in.safetensors", (1 << 20, 1 << 20))
    entry = qdq("inspect", source, "--format", "json", "--axis", 0).report["tensors"][0]
    assert (entry["num_bytes"], entry["num_ranges"]) == (1 << 42, 1 << 20)


def test_ranges_are_read_where_they_are_asked_for(qdq: Qdq, tiny: Path) -> None:
    without, with_ranges = (
        qdq("inspect", tiny, "--format", "json"),
        qdq("inspect", tiny, "--format", "json", "--data"),
    )
    assert "input_min" not in without.report["tensors"][0]["stats"]
    for entry in with_ranges.report["tensors"]:
        if entry["status"] == "quantized":
            x = TINY[entry["name"]].astype(np.float64)
            assert (entry["stats"]["input_min"], entry["stats"]["input_max"]) == (x.min(), x.max())
            assert entry["stats"]["num_nonfinite"] == 0


def test_ranges_of_a_tensor_with_elements_that_are_not_finite(qdq: Qdq, tmp_path: Path) -> None:
    x = np.array([np.nan, np.inf, -2.0, 3.0, -np.inf], np.float32)
    source = write_safetensors(tmp_path / "in.safetensors", {"w": x})
    (entry,) = qdq("inspect", source, "--format", "json", "--data").report["tensors"]
    assert entry["stats"]["num_nonfinite"] == 3
    assert (entry["stats"]["input_min"], entry["stats"]["input_max"]) == (-2.0, 3.0)


@pytest.mark.parametrize("ends", [("-inf", "inf"), ("-inf", "1"), ("-1", "inf")])
@pytest.mark.parametrize("command", ["inspect", "stats"])
def test_a_given_range_that_is_not_finite_is_null_in_json(
    qdq: Qdq, tiny: Path, command: str, ends: tuple[str, str]
) -> None:
    outcome = qdq(command, tiny, "--input-min", ends[0], "--input-max", ends[1], "--format", "json")
    assert outcome.code == 0, outcome.err
    settings = outcome.report["settings"]
    assert [settings["input_min"] is None, settings["input_max"] is None] == ["inf" in end for end in ends]


def test_inspect_says_what_run_would_refuse(qdq: Qdq, tiny: Path) -> None:
    assert qdq("inspect", tiny, "--axis", 5).code == 2
    assert qdq("inspect", tiny, "--include", "nope").code == 2


def test_no_numpy_is_imported_for_safetensors(model: Path) -> None:
    """Numba and NumPy take most of a second, which nobody waits for to read a header."""
    import subprocess

    script = (
        "import sys\n"
        "from qdqcli.cli.main import run\n"
        "code = run(sys.argv[1:])\n"
        "print(code, sorted({'numpy', 'numba', 'ml_dtypes', 'safetensors', 'llvmlite'} & set(sys.modules)))\n"
    )
    for arguments in (("inspect", model), ("run", model, "-o", model.parent / "out", "--dry-run", "-q")):
        process = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments), "--format", "json"],
            capture_output=True, text=True, env=environment(), timeout=60, check=False,
        )  # fmt: skip
        assert process.stdout.splitlines()[-1] == "0 []", process.stdout + process.stderr


def test_what_packed_and_remote_inputs_need_is_not_imported_for_others(model: Path) -> None:
    import subprocess

    script = (
        "import sys\n"
        "from qdqcli.cli.main import run\n"
        "code = run(['stats', sys.argv[1], '--format', 'none'])\n"
        "lazy = {'ml_dtypes', 'qdqcli.tensors.packed.decoded', 'gguf', 'obstore', 'distributed', 'yaml'}\n"
        "print(code, sorted(lazy & set(sys.modules)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(model)],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert process.stdout == "0 []\n", process.stdout + process.stderr


def test_info(qdq: Qdq) -> None:
    facts = json.loads(qdq("info", "--format", "json").out)
    assert facts["qdq"] == __import__("qdqcli").__version__
    assert facts["numpy"] == np.__version__
    assert facts["threads"] >= 1
    assert "kernel_cache" in facts
    table = qdq("info")
    assert table.code == 0
    assert facts["numpy"] in table.out


def test_the_same_list_twice(qdq: Qdq, model: Path) -> None:
    assert (
        qdq("inspect", model, "--data", "--format", "json").out
        == qdq("inspect", model, "--data", "--format", "json").out
    )


def test_an_empty_tensor_is_listed(qdq: Qdq, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"none": sample((0, 3)), "w": sample((2,))})
    for command in (("inspect",), ("inspect", "--data"), ("stats",), ("stats", "--axis", 0, "--per-channel")):
        outcome = qdq(*command, source, "--format", "json")
        assert outcome.code == 0, outcome.err
        assert outcome.report["tensors"][0]["stats"]["bits_per_weight"] is None


# What a table shows


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    tensors = {f"model.layers.{i}.mlp.down_proj.weight": sample((16, 64 + i), "BF16", i) for i in range(12)}
    tensors |= {f"model.layers.{i}.norm.weight": sample((16,), "BF16") for i in range(12)}
    return write_safetensors(tmp_path / "m.safetensors", {"ids": np.zeros((2, 3), np.int64), **tensors})


def first_words(out: str) -> list[str]:
    """The first column of the first table."""
    return [line.split()[0] for line in out.partition("\n\n")[0].splitlines()[2:]]


def test_tensors_to_quantize_come_first_and_can_be_sorted(qdq: Qdq, layers: Path) -> None:
    names = first_words(qdq("inspect", layers).out)
    assert names[0] == "model.layers.0.mlp.down_proj.weight"
    assert names[12] == "ids"
    largest = first_words(qdq("inspect", layers, "--sort", "size", "--top", 1).out)
    assert largest == ["model.layers.11.mlp.down_proj.weight", "…"]
    assert "… and 24 more (--top 0 shows all)" in qdq("inspect", layers, "--sort", "size", "--top", 1).out


def test_what_include_leaves_out_is_not_listed(qdq: Qdq, layers: Path) -> None:
    options = ("--include", "*.3.mlp.*")
    assert first_words(qdq("inspect", layers, *options).out) == ["model.layers.3.mlp.down_proj.weight"]
    assert len(first_words(qdq("inspect", layers, *options, "--all").out)) == 25
    assert len(qdq("inspect", layers, *options, "--format", "json").report["tensors"]) == 25


def test_totals_by_kind_and_by_layer(qdq: Qdq, layers: Path) -> None:
    out = qdq("inspect", layers).out
    assert "model.layers.*.mlp.down_proj.weight       12  26.7 kB  13.4 kB  int8\n" in out
    by_layer = qdq("inspect", layers, "--by", "layer", "--format", "markdown").out
    assert "| `model.layers.3` | 2 | 2.18 kB | 1.11 kB | int8, 1 kept |" in by_layer


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_keeps_dtype_shape_and_size(
    qdq: Qdq, layers: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("qdqcli.cli.deliver.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    lines = qdq("inspect", layers, "--top", 0, "-s", "int4-channel").out.splitlines()
    assert max(map(len, lines)) <= width
    assert {"tensor", "dtype", "shape", "size", "becomes"} <= set(lines[0].split())
    assert any(line.endswith("keep: 1-D") for line in lines)
    assert any(line.endswith("keep: no float") for line in lines)
    assert "… and 5 more (--top 0 shows all)" in qdq("inspect", layers).out


def test_the_former_name_of_data_is_answered(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("inspect", tiny, "--ranges")
    assert (outcome.code, "--data" in outcome.error) == (2, True)


def test_groups_that_end_with_a_short_dimension_are_noted(qdq: Qdq, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "conv.safetensors", {"conv": sample((4, 3, 3, 3)), "fc": sample((4, 8))})
    shown = qdq("inspect", path, "--group-size", 8, "--ragged-groups").out
    assert "note: groups of 3 elements, not 8, in conv: groups end with the last dimension" in shown
