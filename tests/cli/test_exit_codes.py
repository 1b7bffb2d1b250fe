"""Every way to fail: its exit code and its one line."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqcli
from qdqcli.run import pipeline
from tests.cli.process import no_file_beyond, run_process
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")


# 2: the request


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--num-bits", 0), ("num_bits is 0", "1 to 61")),
        (("--num-bits", 62), ("num_bits is 62", "1 to 61")),
        (("--num-bits", 63, "--unsigned-input"), ("num_bits is 63", "1 to 62")),
        (("--num-bits", "eight"), ("--num-bits", "eight")),
        (("--axis", -2), ("--axis", "-2", "last")),
        (("--axis", "first"), ("--axis", "first")),
        (("--axis", 1, "--min-ndim", 0), ("'layer.0.norm.bias'", "'scalar'", "--min-ndim")),
        (("--axis", "last", "--min-ndim", 0), ("'scalar'", "--min-ndim")),
        (("--input-min", -1), ("--input-min", "--input-max", "both or neither")),
        (("--input-max", 1), ("--input-min", "--input-max", "both or neither")),
        (("--input-min", 2, "--input-max", 1), ("min <= max",)),
        (("--input-min", "nan", "--input-max", 1), ("min <= max",)),
        (("--group-size", 4, "--min-ndim", 0), ("'layer.0.norm.bias'", "group_size 4 does not divide")),
        (("--group-size", 0), ("group_size is 0",)),
        (("--group-size", -1), ("group_size is -1", "for one range per row: --axis 0")),
        (("--group-size", 2, "--axis", 0), ("--group-size", "--axis")),
        (("--ragged-groups",), ("--group-size",)),
        (("--round-mode", "HALF_DOWN"), ("HALF_DOWN",)),
        (("--compute-dtype", "float64"), ("float64", "float32", "native")),
        (("--include", "layer.0.mlp.wieght"), ("matches none", "'layer.0.mlp.weight'", "--allow-unmatched")),
        (("--exclude", "embeds"), ("matches none", "'embed'")),
        (("--include", "re:("), ("re:(", "regular expression")),
        (("--include", "ids*", "--allow-unmatched"), ("nothing to quantize",)),
        (("--min-ndim", 4), ("nothing to quantize", "fewer than 4 dimensions (--min-ndim 0 takes them)")),
        (("--min-ndim", -1), ("--min-ndim",)),
        (("--threads", 0), ("--threads",)),
        (("--max-memory", "lots"), ("--max-memory", "lots")),
        (("--max-memory", "9" * 400), ("--max-memory", "is not a size")),
        (("--format", "yaml"), ("yaml",)),
        (("--no-such-option",), ("--no-such-option",)),
        (("--num-bit", 4), ("--num-bit", "--num-bits")),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_what_cannot_be_done_is_exit_code_2(
    qdq: Qdq, tiny: Path, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    outcome = qdq("stats", tiny, *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    for word in words:
        assert word in outcome.error


@pytest.mark.parametrize(
    "arguments",
    [("stats",), ("run", "x.npy"), ("grad", "g.npy"), ("nonsense",)],
    ids=" ".join,
)
def test_an_incomplete_call_is_exit_code_2_and_one_line(qdq: Qdq, arguments: tuple[str, ...]) -> None:
    outcome = qdq(*arguments)
    assert outcome.code == 2
    assert "--help" in outcome.error
    assert len(outcome.err.splitlines()) == 1


def test_no_command_is_exit_code_2_and_the_help(qdq: Qdq) -> None:
    outcome = qdq()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == qdq("--help").out


def test_an_unknown_command_offers_the_nearest(qdq: Qdq) -> None:
    assert "'stats'" in qdq("stat").error.replace('"', "'")


def test_what_is_quoted_from_the_command_line_stays_one_line(qdq: Qdq) -> None:
    for arguments in (("stats", "--a\nb\x1b[2J"), ("a\nb\x1b[2J",), ("stats", "x.npy", "--format", "a\nb")):
        outcome = qdq(*arguments)
        assert outcome.code == 2
        assert outcome.error.isprintable()


def test_more_memory_than_was_allowed_for_ranges_is_a_usage_error(qdq: Qdq, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((2, 30_000))})
    outcome = qdq("stats", source, "--axis", 1, "--max-memory", "1MiB")
    assert outcome.code == 2
    assert "30,000 ranges" in outcome.error
    assert "--max-memory 2MiB or more" in outcome.error
    assert qdq("stats", source, "--axis", 1, "--max-memory", "2MiB").code == 0


@pytest.mark.parametrize("command", ["stats", "calibrate"])
def test_the_least_memory_that_is_named_works_for_all_tensors(qdq: Qdq, tmp_path: Path, command: str) -> None:
    tensors = {"few": sample((2, 20_000)), "many": sample((2, 70_000)), "scalar": sample((2, 2))}
    source = write_safetensors(tmp_path / "in.safetensors", tensors)
    more = ["-o", tmp_path / "r.safetensors"] if command == "calibrate" else []
    outcome = qdq(command, source, *more, "--axis", 1, "--max-memory", 1)
    assert outcome.code == 2
    assert "'many' has 70,000 ranges, for which 5 MiB of memory are needed" in outcome.error
    least = outcome.error.partition("--max-memory ")[2].partition(" ")[0]
    assert qdq(command, source, *more, "--axis", 1, "--max-memory", least).code == 0


def test_less_memory_than_buffers_take_is_said(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("stats", tiny, "--max-memory", 1, "--threads", 2, "--format", "none")
    assert outcome.code == 0
    assert outcome.err == ("note: --max-memory 1 is less than the buffers of 2 threads take: 1536KiB is the least\n")
    assert qdq("stats", tiny, "--max-memory", "1536KiB", "--threads", 2, "--format", "none").err == ""


# 3: the input


def malformed(folder: Path) -> dict[str, Path]:
    good = write_safetensors(folder / "good.safetensors", {"w": sample((4,))}).read_bytes()
    files: dict[str, bytes | None] = {
        "missing.safetensors": None,
        "short.safetensors": good[:-1],
        "long.safetensors": good + b"x",
        "empty.safetensors": b"",
        "empty.npy": b"",
        "not.npz": b"not a zip file at all",
        "unknown.bin": b"\x00" * 20,
        "page.safetensors": b"<!DOCTYPE html><html>",
    }
    for name, data in files.items():
        if data is not None:
            (folder / name).write_bytes(data)
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    (folder / "empty folder").mkdir()
    return {name: folder / name for name in (*files, "objects.npy", "empty folder", "no*match.npy")}


@pytest.mark.parametrize("command", ["stats", "inspect", "run"])
@pytest.mark.parametrize(
    "name",
    [
        *("missing.safetensors", "short.safetensors", "long.safetensors", "empty.safetensors", "empty.npy", "not.npz"),
        *("unknown.bin", "page.safetensors", "objects.npy", "empty folder", "no*match.npy"),
    ],
)
def test_an_input_that_cannot_be_read_is_exit_code_3_and_named(
    qdq: Qdq, tmp_path: Path, command: str, name: str
) -> None:
    path = malformed(tmp_path)[name]
    output = ("-o", tmp_path / "out") if command == "run" else ()
    outcome = qdq(command, path, *output)
    assert outcome.code == 3
    assert outcome.out == ""
    assert outcome.error.startswith(f"error: {path}: ")
    assert not (tmp_path / "out").exists()


def test_one_bad_input_of_several_stops_before_any_work(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    bad = malformed(tmp_path)["short.safetensors"]
    assert qdq("run", tiny, bad, "-o", tmp_path / "out").code == 3
    assert not (tmp_path / "out").exists()


@as_root
def test_an_input_without_permission_is_exit_code_3(qdq: Qdq, tiny: Path) -> None:
    tiny.chmod(0)
    outcome = qdq("stats", tiny)
    assert outcome.code == 3
    assert "permission" in outcome.error.lower()


def test_an_input_that_changes_meanwhile_is_exit_code_3(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdqcli.run import pipeline

    def change_then(*arguments: Any) -> object:
        os.utime(tiny, ns=(1, 1))
        return quantize_tensor(*arguments)

    quantize_tensor = pipeline.quantize_tensor
    monkeypatch.setattr(pipeline, "quantize_tensor", change_then)
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors")
    assert outcome.code == 3
    assert f"{tiny}: changed while being read" in outcome.error
    assert not (tmp_path / "out.safetensors").exists()


# 4: the output


@as_root
@pytest.mark.parametrize("what", ["output", "report"])
def test_a_folder_that_may_not_be_written_is_exit_code_4(qdq: Qdq, tiny: Path, tmp_path: Path, what: str) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    targets = {
        "output": ("run", tiny, "-o", locked / "out.safetensors"),
        "report": ("stats", tiny, "--report", locked / "r.json"),
    }
    outcome = qdq(*targets[what])
    assert outcome.code == 4
    assert str(locked) in outcome.error


def test_an_output_that_does_not_fit_is_exit_code_4_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((64, 1024))})
    process = run_process("run", source, "-o", tmp_path / "out.safetensors", **no_file_beyond(100_000))
    assert process.returncode == 4
    assert process.stderr.startswith(f"error: {tmp_path / 'out.safetensors'}")
    assert "Traceback" not in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_report_that_does_not_fit_is_exit_code_4_and_leaves_the_old_one(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((6,))})
    (tmp_path / "r.json").write_text("old")
    process = run_process("stats", source, "--report", tmp_path / "r.json", **no_file_beyond(500))
    assert process.returncode == 4
    assert process.stderr.startswith(f"error: {tmp_path / 'r.json'}: ")
    assert (tmp_path / "r.json").read_text() == "old"


@pytest.mark.parametrize("call", [("stats", "FILE"), ("inspect", "FILE", "--format", "jsonl"), ("--help",)])
def test_a_full_standard_output_is_exit_code_4(tiny: Path, call: tuple[str, ...]) -> None:
    arguments = [tiny if argument == "FILE" else argument for argument in call]
    with Path("/dev/full").open("w") as full:
        process = run_process(*arguments, stdout=full)
    assert process.returncode == 4
    assert process.stderr == "error: standard output: No space left on device\n"


@pytest.mark.parametrize("arguments", [("stats", "FILE", "--axis", 9), ("stats", "FILE", "--axis", 9, "--debug"), ()])
def test_a_full_standard_error_does_not_change_the_exit_code(tiny: Path, arguments: tuple[object, ...]) -> None:
    arguments = tuple(tiny if argument == "FILE" else argument for argument in arguments)
    with Path("/dev/full").open("w") as full:
        assert run_process(*arguments, stderr=full).returncode == 2


def test_a_full_disk_leaves_nothing_in_the_cache_of_kernels(tmp_path: Path) -> None:
    process = run_process("info", **no_file_beyond(1000, QDQ_CACHE_DIR=str(tmp_path / "cache")))
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "cache").is_dir()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


# 5: what is not there


def test_a_package_that_is_missing_is_exit_code_5(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    monkeypatch.setattr("qdqcli.cli.stats.measure", fail)
    outcome = qdq("stats", tiny)
    assert outcome.code == 5
    assert "numba" in outcome.error


# 70: ours


def fail_as_a_bug(*_: object) -> None:
    raise KeyError("the unexpected")


def test_a_bug_is_exit_code_70_with_version_and_advice(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "quantize_tensor", fail_as_a_bug)
    outcome = qdq("stats", tiny)
    assert outcome.code == 70
    for word in (qdqcli.__version__, "KeyError", "the unexpected", "report", "--debug"):
        assert word in outcome.error
    assert len(outcome.err.splitlines()) == 1


def test_debug_shows_the_traceback_of_a_bug(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "quantize_tensor", fail_as_a_bug)
    outcome = qdq("stats", tiny, "--debug")
    assert outcome.code == 70
    assert "Traceback" in outcome.err
    assert "fail_as_a_bug" in outcome.err
    assert "--debug" not in outcome.err.splitlines()[-1]
    assert outcome.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("arguments", [("missing.npy",), ("tiny", "--axis", 9), ("tiny", "--axis", "x")])
def test_debug_shows_the_traceback_of_any_error(qdq: Qdq, tiny: Path, arguments: tuple[object, ...]) -> None:
    """Also where the option comes behind what is wrong."""
    arguments = tuple(tiny if argument == "tiny" else argument for argument in arguments)
    outcome = qdq("stats", *arguments, "--debug")
    assert outcome.code in (2, 3)
    assert "Traceback" in outcome.err


def test_a_message_of_a_bug_stays_one_line(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first\nsecond\x1b[2J")

    monkeypatch.setattr(pipeline, "quantize_tensor", fail)
    outcome = qdq("stats", tiny)
    assert outcome.code == 70
    assert len(outcome.err.splitlines()) == 1
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    "error",
    [MemoryError(), SystemError("<built-in function compile> returned NULL without setting an exception")],
)
def test_lack_of_memory_is_not_exit_code_1(
    qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "quantize_tensor", fail)
    outcome = qdq("stats", tiny)
    assert outcome.code == 4
    assert "--max-memory" in outcome.error


def test_a_keyboard_interrupt_is_130(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "quantize_tensor", fail)
    assert qdq("stats", tiny).code == 130
