"""What standard output, standard error and report files get."""

import csv
import json
import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import pytest

from qdqcli.cli.files import READS, WRITES
from qdqcli.cli.main import COMMANDS
from qdqcli.report.formatter import FORMATTERS, REPORT_SUFFIXES
from qdqcli.report.number import metric_text
from qdqcli.stats.metrics import METRICS
from tests import reference
from tests.cli.test_output import contents
from tests.conftest import TINY, TINY_FLOATS, Qdq
from tests.run.checkpoints import read_safetensors, sample, write_safetensors, write_sparse


def names_in(text: str) -> list[str]:
    """Tensors of a table in their order."""
    return [name for line in text.splitlines() if (name := line.split(" ")[0]) in TINY]


@pytest.fixture
def ranked_file(tmp_path: Path) -> Path:
    """Three tensors, from the one with the largest error relative to its size to the one with none."""
    spiky = np.linspace(-0.1, 0.1, 64, dtype=np.float32)
    spiky[0] = 100.0
    even = np.linspace(-1, 1, 64, dtype=np.float32)
    zeros = np.zeros(64, np.float32)
    return write_safetensors(tmp_path / "ranked.safetensors", {"zeros": zeros, "even": even, "spiky": spiky})


def test_the_range_of_a_tensor_has_no_minus_zero(qdq: Qdq, tmp_path: Path) -> None:
    """Which of the zeros of many slices a union takes depends on the blocks, and on NumPy's instructions."""
    tensors = {f"w{rows}": np.ones((rows, 33), np.float32) for rows in (4, 5, 3000)}
    for x in tensors.values():
        x[:, 0] = np.where(np.arange(len(x)) % 3, 0.0, -0.0)
    path = write_safetensors(tmp_path / "zeros.safetensors", tensors)
    for axis in ("none", "0", "last"):
        found = qdq("stats", path, "--axis", axis, "--format", "json").report["tensors"]
        assert [str(entry["range"]["input_min"]) for entry in found] == ["0.0"] * len(tensors)


def test_the_json_report(qdq: Qdq, tiny: Path) -> None:
    report = qdq("stats", tiny, "--format", "json", "--axis", "last", "--min-ndim", 1).report
    assert list(report) == ["schema_version", "tool", "command", "inputs", "settings", "notes", "summary", "tensors"]
    assert (report["schema_version"], report["tool"]["name"], report["command"]) == (1, "qdq", "stats")
    assert report["inputs"] == [str(tiny)]
    assert [entry["name"] for entry in report["tensors"]] == list(TINY)
    assert {entry["file"] for entry in report["tensors"]} == {str(tiny)}
    summary = report["summary"]
    assert (summary["num_tensors"], summary["num_quantized"], summary["num_skipped"]) == (8, 5, 3)
    assert summary["num_elements"] == sum(TINY[name].size for name in TINY_FLOATS if TINY[name].ndim)
    for entry in report["tensors"]:
        assert entry["shape"] == list(TINY[entry["name"]].shape)
        if entry["status"] == "quantized":
            assert [*METRICS, "bits_per_weight", "share"] == [key for key in entry["stats"] if key != "exact"]
            assert entry["spec"]["axis"] == len(entry["shape"]) - 1


def test_run_and_stats_measure_the_same(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    stats = qdq("stats", tiny, "--format", "json", "--num-bits", 4).report
    run = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--format", "json", "--num-bits", 4).report
    assert run.pop("command") == "run"
    assert stats.pop("command") == "stats"
    assert run == stats


def test_the_report_speaks_of_the_file_that_was_written(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    report = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--format", "json", "--num-bits", 4).report
    written = read_safetensors(tmp_path / "out.safetensors")
    xs, ys = [], []
    for entry in report["tensors"]:
        if entry["status"] == "skipped":
            continue
        x, y = TINY[entry["name"]], written[entry["name"]]
        xs.append(x.astype(np.float64).ravel())
        ys.append(y.astype(np.float64).ravel())
        expected = reference.error_statistics(x, y)
        for metric in ("max_abs_error", "rmse", "zeroed_fraction"):
            tolerance = reference.tolerance_for(metric, expected)
            assert entry["stats"][metric] == pytest.approx(expected[metric], rel=0, abs=tolerance), (
                entry["name"],
                metric,
            )
        if not entry["stats"].get("exact"):
            assert entry["stats"]["sqnr_db"] == pytest.approx(expected["sqnr_db"], rel=0, abs=1e-5)
    whole = reference.error_statistics(np.concatenate(xs), np.concatenate(ys))
    for metric in ("sqnr_db", "mse", "max_abs_error", "cosine_similarity", "mean_abs_error"):
        tolerance = reference.tolerance_for(metric, whole)
        assert report["summary"][metric] == pytest.approx(whole[metric], rel=0, abs=tolerance), metric


def test_an_exact_tensor_has_no_sqnr_and_says_so(qdq: Qdq, ranked_file: Path) -> None:
    zeros = qdq("stats", ranked_file, "--format", "json").report["tensors"][0]
    assert (zeros["name"], zeros["stats"]["sqnr_db"], zeros["stats"]["exact"]) == ("zeros", None, True)
    assert zeros["stats"]["num_degenerate"] == 1


def test_a_degenerate_tensor_is_warned_about_with_what_to_do(qdq: Qdq, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": -np.ones((2, 2), np.float32)})
    outcome = qdq("stats", source, "--unsigned-input")
    assert "degenerate" in outcome.out
    assert "--signed-input" in outcome.out
    assert "--exclude" in outcome.out


@pytest.mark.parametrize("memory", ["256M", "3M"])
@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        (("--axis", "none"), lambda x: x.reshape(1, -1)),
        (("--axis", 0), lambda x: x.reshape(len(x), -1)),
        (("--axis", 1), lambda x: x.transpose(1, 0, 2).reshape(x.shape[1], -1)),
        (("--axis", "last"), lambda x: x.reshape(-1, x.shape[-1]).T),
        (("--group-size", 8), lambda x: x.reshape(-1, 8)),
        (("--group-size", 256), lambda x: x.reshape(-1, 256)),
        (("--axis", 0, "--estimator", "mse"), lambda x: x.reshape(len(x), -1)),
    ],
)
def test_slices_that_are_all_zero_are_told_from_spoilt_ones(
    qdq: Qdq, tmp_path: Path, settings: tuple[object, ...], groups: Callable[[np.ndarray], np.ndarray], memory: str
) -> None:
    x = sample((8, 80, 512), "F32", 3)
    x[2], x[:, 5], x[..., 6:300], x[7] = 0, -0.0, 0, np.nan
    tensors = {"w": x, "zeros": np.zeros((3, 4, 512), "<f2"), "small": x[2:4, :2, :256].copy()}
    source = write_safetensors(tmp_path / "in.safetensors", tensors)
    for threads in (1, 3):
        call = ("stats", source, *settings, "--format", "json", "--max-memory", memory, "--threads", threads)
        for row in qdq(*call).report["tensors"]:
            slices = groups(tensors[row["name"]])
            expected = int(((slices == 0) | np.isnan(slices)).all(axis=1).sum() - np.isnan(slices).all(axis=1).sum())
            assert row.get("num_zero_slices", 0) == expected, row["name"]


def test_zeros_that_do_not_stay_zero_are_warned_about(qdq: Qdq, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": np.array([[0, 0], [1, 2]], np.float32)})
    assert "all zero" in qdq("stats", source, "--axis", 0).out
    for settings in (("--num-bits", 1), ("--input-min", 0, "--input-max", 0)):
        out = qdq("stats", source, "--axis", 0, *settings).out
        assert "all zero" not in out
        assert "degenerate slice" in out


def test_a_stored_report_tells_zeros_too(qdq: Qdq, ranked_file: Path, tmp_path: Path) -> None:
    out = qdq("stats", ranked_file, "--report", tmp_path / "r.json").out
    assert "1 of 1 slice (tensor, channel or group) is all zero and stays so, in zeros" in out
    assert "all zero and stays so, in zeros" in qdq("render", tmp_path / "r.json").out


@pytest.mark.parametrize("per_channel", [(), ("--per-channel",)])
@pytest.mark.parametrize(
    "options",
    [(), ("--axis", 0), ("--axis", "last"), ("--group-size", 96)],
    ids=lambda options: " ".join(map(str, options)),
)
def test_the_report_is_the_same_text_whatever_the_threads_and_the_memory(
    qdq: Qdq,
    tmp_path: Path,
    options: tuple[object, ...],
    per_channel: tuple[str, ...],
) -> None:
    tensors = {dtype: sample((723, 288), dtype, 30) for dtype in ("BF16", "F16", "F32", "F64")}
    tensors["F32"][5, 7], tensors["F32"][227] = np.nan, 0.0
    source = write_safetensors(tmp_path / "in.safetensors", tensors | {"long": sample((2, 100_800), "F32", 31)})
    arguments = ("stats", source, "--format", "json", *options, *per_channel)
    if per_channel and options == ("--axis", "last"):
        arguments += ("--exclude", "long")  # 100,800 channels: a report of 30 MB
    texts = []
    for threads, memory in [(1, "256MiB"), (2, "8MB"), (5, "8MB"), (9, "8MB")]:  # blocks of 4 MiB to one chunk
        outcome = qdq(*arguments, "--threads", threads, "--max-memory", memory)
        assert outcome.code == 0, outcome.err
        texts.append(outcome.out)
    assert all(text == texts[0] for text in texts)


def test_per_channel_reports_each_slice(qdq: Qdq, tiny: Path) -> None:
    report = qdq(
        "stats", tiny, "--axis", 0, "--include", "layer.0.mlp.weight", "--per-channel", "--format", "json"
    ).report
    (entry,) = (entry for entry in report["tensors"] if entry["status"] == "quantized")
    x = TINY["layer.0.mlp.weight"]
    assert entry["channels"]["input_max"] == [float(row.max()) for row in x]
    assert entry["channels"]["num_elements"] == [6] * 4
    assert set(entry["channels"]) == set(METRICS)


@pytest.mark.parametrize(
    ("shape", "options", "num_channels"),
    [((3, 0), ("--axis", 0), 0), ((0, 3), ("--axis", 0), 0), ((0,), (), 0), ((2, 0), ("--group-size", 4), 0),
     ((4, 6), (), 1), ((4, 1), ("--axis", 1), 1)],
)  # fmt: skip
def test_channels_of_a_tensor_without_elements_and_of_one_with_a_single_range(
    qdq: Qdq, tmp_path: Path, shape: tuple[int, ...], options: tuple[object, ...], num_channels: int
) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample(shape)})
    (entry,) = qdq("stats", source, *options, "--per-channel", "--format", "json").report["tensors"]
    assert {len(values) for values in entry["channels"].values()} == {num_channels}
    if num_channels:
        assert entry["channels"] == {name: [entry["stats"][name]] for name in METRICS}


def test_without_per_channel_there_are_no_channels(qdq: Qdq, tiny: Path) -> None:
    assert all("channels" not in entry for entry in qdq("stats", tiny, "--format", "json").report["tensors"])


def test_scale_bits_count_in_bits_per_weight(qdq: Qdq, tiny: Path) -> None:
    arguments = ("stats", tiny, "--include", "layer.0.mlp.weight", "--axis", 0, "--num-bits", 4, "--format", "json")
    assert qdq(*arguments).report["summary"]["bits_per_weight"] == (4 * 24 + 16 * 4) / 24
    assert qdq(*arguments, "--scale-bits", 32).report["summary"]["bits_per_weight"] == (4 * 24 + 32 * 4) / 24


# Order and length of the table


def test_the_worst_tensor_comes_first(qdq: Qdq, ranked_file: Path) -> None:
    lines = qdq("stats", ranked_file).out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["spiky", "even", "zeros"]


@pytest.mark.parametrize(
    ("sort", "first"), [("name", "even"), ("max_abs_error", "spiky"), ("num_degenerate", "zeros"), ("mse", "spiky")]
)
def test_sort(qdq: Qdq, ranked_file: Path, sort: str, first: str) -> None:
    assert qdq("stats", ranked_file, "--sort", sort).out.splitlines()[2].split()[0] == first


@pytest.mark.parametrize("sort", [*METRICS, "bits_per_weight", "name"])
def test_every_metric_can_be_sorted_by(qdq: Qdq, ranked_file: Path, sort: str) -> None:
    assert qdq("stats", ranked_file, "--sort", sort).code == 0


def test_an_unknown_sort_offers_the_nearest(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("stats", tiny, "--sort", "sqnr")
    assert outcome.code == 2
    assert "sqnr_db" in outcome.error


def test_an_unknown_sort_is_noticed_before_any_work(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    assert qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--sort", "sqnr").code == 2
    assert not (tmp_path / "out.safetensors").exists()


def test_top_shows_the_first_and_says_how_many_more(qdq: Qdq, tiny: Path) -> None:
    everything = names_in(qdq("stats", tiny, "--min-ndim", 0).out)
    shortened = qdq("stats", tiny, "--min-ndim", 0, "--top", 2).out
    assert names_in(shortened) == everything[:2]
    assert "4 more" in shortened
    assert names_in(qdq("stats", tiny, "--min-ndim", 0, "--top", 0).out) == everything
    assert len(everything) == len(TINY_FLOATS)


# Where it goes


@pytest.mark.parametrize("name", FORMATTERS)
def test_every_format_goes_to_standard_output(qdq: Qdq, tiny: Path, name: str) -> None:
    outcome = qdq("stats", tiny, "--format", name, "--min-ndim", 2)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("\n")
    # Findings: there is nothing to complain about. The badge is one line, the card has a row per layer.
    names_tensors = name not in ("github", "gitlab", "sarif", "badge")
    for tensor in ("wide",) if name == "card" else ("layer.0.mlp.weight", "wide"):
        assert (tensor in outcome.out) is names_tensors


def test_no_format_leaves_standard_output_empty(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--format", "none")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("wrote ")


@pytest.mark.parametrize(("suffix", "name"), [*REPORT_SUFFIXES.items(), (".JSON", "json")])
def test_a_report_file_is_what_standard_output_would_get(
    qdq: Qdq, tiny: Path, tmp_path: Path, suffix: str, name: str
) -> None:
    report = tmp_path / f"report{suffix}"
    outcome = qdq("stats", tiny, "--report", report, "--format", name)
    assert outcome.code == 0
    assert report.read_text(encoding="utf-8") == outcome.out


def test_several_report_files(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"r{suffix}" for suffix in REPORT_SUFFIXES]
    assert qdq("stats", tiny, *(part for path in paths for part in ("--report", path)), "--format", "none").code == 0
    assert all(path.stat().st_size for path in paths)
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == list(TINY)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines[1:-1]] == list(TINY)
    assert lines[-1]["summary"] == json.loads((tmp_path / "r.json").read_text())["summary"]


def test_a_report_file_replaces_an_old_one(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("old")
    assert qdq("stats", tiny, "--report", tmp_path / "r.json").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["command"] == "stats"


@pytest.mark.parametrize("name", ["report.txt", "report", "report.json.gz"])
def test_an_unknown_suffix_is_noticed_before_any_work(qdq: Qdq, tiny: Path, tmp_path: Path, name: str) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--report", tmp_path / name)
    assert outcome.code == 2
    assert all(suffix in outcome.error for suffix in REPORT_SUFFIXES)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_report_in_a_folder_that_is_not_there_is_noticed_before_any_work(
    qdq: Qdq, tiny: Path, tmp_path: Path
) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--report", tmp_path / "none" / "r.json")
    assert outcome.code == 2
    assert outcome.error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("command", ["stats", "run", "inspect"])
def test_a_report_must_not_replace_an_input(qdq: Qdq, model: Path, tmp_path: Path, command: str) -> None:
    """`config.json` has a report's suffix."""
    before = (model / "config.json").read_bytes()
    output = ("-o", tmp_path / "out") if command == "run" else ()
    outcome = qdq(command, model, *output, "--report", model / "config.json")
    assert (model / "config.json").read_bytes() == before
    assert outcome.code == 2


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_report_must_not_replace_an_input_under_another_name(
    qdq: Qdq, model: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    link(tmp_path / "r.json", model / "config.json")
    outcome = qdq("stats", model, "--report", tmp_path / "r.json")
    assert outcome.code == 2
    assert outcome.error.startswith(f"error: {tmp_path / 'r.json'}: ")
    assert (tmp_path / "r.json").read_text() == (model / "config.json").read_text()


MORE: dict[str, tuple[str, ...]] = {"run": ("-o", "out"), "check": ("--budget", "b.toml"), "compare": ("model",)}


@pytest.mark.parametrize("command", ["stats", "run", "inspect", "check", "compare", "sweep"])
@pytest.mark.parametrize("suffix", REPORT_SUFFIXES)
def test_a_report_in_an_input_folder_works_always_or_never(
    qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, suffix: str
) -> None:
    """A job writes its report beside its input, day by day: a report that says who wrote it is known again."""
    monkeypatch.chdir(tmp_path)
    is_listing = command == "inspect"
    if suffix in (".html", ".xml", ".sarif", ".gitlab.json") and command in ("inspect", "sweep"):
        pytest.skip("no such form")
    Path("b.toml").write_text("[limits]\nmin_sqnr_db = 1\n")
    report = model / f"r{suffix}"
    arguments = (command, "model", *MORE.get(command, ()), "--report", f"model/{report.name}", "--format", "none")
    before = contents(model)
    codes = [qdq(*arguments).code]
    written = report.read_bytes() if report.exists() else b""
    codes += [qdq(*arguments, *(["--resume"] if command == "run" else [])).code for _ in range(2)]
    if suffix in (".json", ".jsonl", ".xml", ".sarif"):
        assert codes == [0, 0, 0]
        assert report.read_bytes() == written
        assert is_listing or command != "run" or not (tmp_path / "out" / report.name).exists()
        report.unlink()
    else:
        assert codes == [2, 2, 2]
    assert contents(model) == before


@pytest.mark.parametrize("name", ["config.json", "linked.json", "sub/r.json"])
def test_what_a_checkpoint_holds_is_not_taken_for_a_report(qdq: Qdq, model: Path, tmp_path: Path, name: str) -> None:
    """Also where a link in it would lead the report elsewhere."""
    (tmp_path / "home").mkdir()
    assert qdq("stats", model, "--report", tmp_path / "home" / "r.json").code == 0
    (model / "linked.json").symlink_to("../home/r.json")
    (model / "sub").symlink_to("../home")
    before = contents(tmp_path)
    assert qdq("stats", model, "--follow-links", "--report", model / name).code == 2
    assert contents(tmp_path) == before


READERS: dict[str, tuple[str, ...]] = {
    "ranges.json": ("stats", "w.npy", "--ranges"),
    "recipe.json": ("stats", "w.npy", "--recipe"),
    "budget.toml": ("check", "w.npy", "--budget"),
    "baseline.json": ("check", "w.npy", "--baseline"),
    "report.json": ("check", "--report-in"),
    "linked.json": ("check", "w.npy", "--budget", "linked.toml", "--baseline"),
}
"""File -> the command that reads it, the file coming last. The budget linked.toml names a baseline, too."""


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("option", ["--report", "--write-baseline", "--write-budget", "GITHUB_STEP_SUMMARY"])
def test_no_file_is_written_that_the_command_reads(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", sample((4, 6)))
    assert qdq("stats", "w.npy", "--report", "report.json").code == 0
    for copy in ("baseline.json", "linked.json"):
        Path(copy).write_bytes(Path("report.json").read_bytes())
    Path("recipe.json").write_text('{"schema": 1, "rules": []}')
    Path("ranges.json").write_text('{"w": {"input_min": -1, "input_max": 1}}')
    Path("budget.toml").write_text("schema = 1\n[limits]\nmin_sqnr_db = 1\n")
    Path("linked.toml").write_text('schema = 1\n[baseline]\nfile = "linked.json"\n')
    before = contents(tmp_path)
    command, *rest = READERS[name]
    if option.startswith("--write"):
        command = "check"
    target = Path("alias" + Path(name).suffix)
    target.symlink_to(name)
    if option == "GITHUB_STEP_SUMMARY":
        monkeypatch.setenv(option, str(target))
        written: tuple[str, ...] = ("--format", "github")
    elif option == "--report" and target.suffix == ".toml":
        pytest.skip("no report has this suffix")
    else:
        written = (option, str(target))
    outcome = qdq(command, *rest, name, *written)
    assert (outcome.code, option in outcome.error) == (2, True), outcome.err
    target.unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["calibrate", "plan"])
@pytest.mark.parametrize("option", ["--recipe", "--report"])
def test_the_file_of_minus_o_is_none_of_the_others(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", sample((4, 6)))
    more = ("--avg-bits", 6) if command == "plan" else ()
    Path("r.json").write_text('{"rules": []}')
    before = contents(tmp_path)
    outcome = qdq(command, "w.npy", "-o", "r.json", "--overwrite", option, "./r.json", *more)
    assert outcome.code == 2
    assert "-o" in outcome.error
    assert contents(tmp_path) == before


def test_every_option_that_names_a_file_is_compared() -> None:
    """A new command's as well: its options stand in one of the tables, or are INPUT and OUTPUT."""
    inputs = {"inputs", "reference", "candidate", "gradients", "input_", "model", "models", "recipe_name", "names"}
    folders = {"folder", "name"}  # of `qdq demo` and `qdq help --man`, which read nothing
    foreign = {"file"}  # of `qdq recipe import`, which stands among READS as `foreign`
    found = set()
    for where, _ in COMMANDS.values():
        module, name = where.split(":")
        command = getattr(import_module(module), name)
        for one in [command, *getattr(command, "commands", {}).values()]:
            found |= {parameter.name for parameter in one.params if isinstance(parameter.type, click.Path)}
    assert found - inputs - folders - foreign <= {*READS, *WRITES}
    assert {*READS, *WRITES} <= found | {"tie_file", "foreign"}  # --tie also takes words


@pytest.mark.parametrize(
    "options",
    [
        ("--write-budget", "b.json", "--write-baseline", "b.json"),
        ("--write-baseline", "b.json", "--report", "B.json"),
        ("--report", "r.json", "--report", "./r.json"),
    ],
)
def test_no_two_files_are_written_under_one_name(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", sample((4, 6)))
    outcome = qdq("check", "w.npy", "--write-budget", "b.toml", *options)
    assert outcome.code == 2
    assert "is written by" in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["w.npy"]


def test_a_report_goes_through_a_link_and_keeps_the_mode(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.touch(0o600)
    (tmp_path / "r.json").symlink_to("real.json")
    assert qdq("stats", tiny, "--report", tmp_path / "r.json").code == 0
    assert (tmp_path / "r.json").is_symlink()
    assert json.loads(real.read_text())["command"] == "stats"
    assert real.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["out.json", "out.json/r.json", "out.json/sub/r.json", "link/r.json"])
def test_a_report_must_not_have_the_place_of_the_output(qdq: Qdq, model: Path, tmp_path: Path, name: str) -> None:
    if name != "out.json":
        (tmp_path / "out.json" / "sub").mkdir(parents=True)
        (tmp_path / "link").symlink_to("out.json")
    outcome = qdq("run", model, "-o", tmp_path / "out.json", "--overwrite", "--report", tmp_path / name)
    assert outcome.code == 2
    assert "the output" in outcome.error
    assert [path.parent for path in tmp_path.rglob("model-00001*")] == [model]


def test_a_report_that_is_a_folder_is_noticed_before_any_work(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").mkdir()
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--report", tmp_path / "r.json")
    assert outcome.code == 2
    assert "is a folder" in outcome.error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_report_without_permission_is_noticed_before_any_work(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--report", tmp_path / "locked" / "r.json")
    assert outcome.code == 4
    assert not (tmp_path / "out.safetensors").exists()


def test_the_same_run_twice_reports_the_same_bytes(qdq: Qdq, model: Path) -> None:
    for name in FORMATTERS:
        arguments = ("stats", model, "--format", name, "--axis", "last", "--min-ndim", 1)
        assert qdq(*arguments).out == qdq(*arguments).out


# What is said on the side


def test_notes_go_to_standard_error_and_quiet_ends_them(qdq: Qdq, tiny: Path) -> None:
    loud = qdq("stats", tiny, "--axis", -1, "--format", "json")
    quiet = qdq("stats", tiny, "--axis", -1, "--format", "json", "--quiet")
    assert "--axis last" in loud.err
    assert quiet.err == ""
    assert loud.out == quiet.out


def test_axis_minus_one_is_the_whole_tensor(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("stats", tiny, "--axis", -1, "--format", "json")
    assert outcome.code == 0
    assert {entry["spec"]["axis"] for entry in outcome.report["tensors"] if "spec" in entry} == {-1}
    assert outcome.report["tensors"] == qdq("stats", tiny, "--format", "json").report["tensors"]


def test_verbose_says_more_on_standard_error_only(qdq: Qdq, tiny: Path) -> None:
    plain, verbose = qdq("stats", tiny), qdq("stats", tiny, "--verbose", "--threads", 2)
    assert plain.out == verbose.out
    assert "2 threads" in verbose.err
    assert "2 threads" not in plain.err


def test_a_warning_of_an_allowed_pattern_goes_to_standard_error(qdq: Qdq, tiny: Path) -> None:
    outcome = qdq("stats", tiny, "--min-ndim", 0, "--exclude", "embd", "--allow-unmatched", "--format", "json")
    assert outcome.code == 0
    assert "embd" in outcome.err
    assert outcome.report["summary"]["num_quantized"] == len(TINY_FLOATS)


def test_hostile_names_reach_no_terminal(qdq: Qdq, tmp_path: Path) -> None:
    hostile = "\x1b[2Jevil\r\n::error::boo\u202e"
    source = write_safetensors(tmp_path / "in.safetensors", {hostile: sample((4, 6)), "w": sample((4,))})
    for command in (("stats",), ("inspect",), ("run", "-o", tmp_path / "out.safetensors", "--dry-run")):
        for name in FORMATTERS:
            out = qdq(*command, source, "--format", name).out
            assert all(char.isprintable() or char == "\n" for char in out), (command, name)
            assert "\n::error::" not in out
    outcome = qdq("stats", source, "--axis", 3)
    assert outcome.code == 2
    assert outcome.error.isprintable()


def test_there_is_no_progress_bar_where_nobody_watches(qdq: Qdq, tmp_path: Path) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (16 << 20,))
    assert qdq("stats", source).err == ""


# Shares, groups, and how much is shown


def test_the_share_of_the_error_is_in_every_report(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    run = qdq("stats", tiny, "--format", "json", "--report", report, "--report", tmp_path / "r.csv").report
    rows = [row for row in run["tensors"] if row["status"] == "quantized"]
    errors = [row["stats"]["mse"] * row["stats"]["num_elements"] for row in rows]
    assert [row["stats"]["share"] for row in rows] == pytest.approx([error / sum(errors) for error in errors])
    assert ",share," in (tmp_path / "r.csv").read_text().splitlines()[0]
    largest = rows[errors.index(max(errors))]["name"]
    for text in (qdq("stats", tiny).out, qdq("render", report).out, qdq("stats", tiny, "--format", "markdown").out):
        assert largest in next(line for line in text.splitlines() if "largest share" in line)
    assert names_in(qdq("stats", tiny, "--sort", "share").out)[0] == largest


def test_a_report_without_shares_is_still_read(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    report = qdq("stats", tiny, "--format", "json").report
    for row in report["tensors"]:
        row.get("stats", {}).pop("share", None)
    path.write_text(json.dumps(report))
    outcome = qdq("render", path)
    assert outcome.code == 0
    assert "share" not in outcome.out
    assert qdq("check", tiny, "--baseline", path).code == 0


@pytest.mark.parametrize("name", ["table", "markdown", "csv"])
def test_tensors_in_groups(qdq: Qdq, tiny: Path, name: str) -> None:
    out = qdq("stats", tiny, "--by", "kind", "--format", name).out
    assert "layer.*.mlp.weight" in out
    assert "layer.0.mlp.weight" not in out.partition("quantized")[0]
    top = qdq("stats", tiny, "--by", "kind", "--format", name, "--top", 1).out
    assert ("2 more" in top) is (name != "csv")


def test_groups_that_no_report_would_show_are_refused(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    refused = qdq("stats", tiny, "--by", "layer", "--format", "json")
    assert (refused.code, "--by shows in table, markdown, csv, card alone" in refused.error) == (2, True)
    assert qdq("stats", tiny, "--by", "layer", "--format", "json", "--report", tmp_path / "r.csv").code == 0
    assert (tmp_path / "r.csv").read_text().startswith("layer,num_tensors,")


@pytest.mark.parametrize(("top", "count"), [((), 20), (("--top", 0), 30), (("--top", 25), 25)])
def test_a_terminal_gets_twenty_rows(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: tuple[object, ...], count: int
) -> None:
    source = write_safetensors(tmp_path / "m.safetensors", {f"layer.{i}.w": sample((2, 3), seed=i) for i in range(30)})
    assert qdq("stats", source).out.count(" F32 ") == 30
    monkeypatch.setattr("qdqcli.cli.deliver.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    out = qdq("stats", source, *top).out
    assert out.count(" F32 ") == count
    assert (f"… and {30 - count} more (--top 0 shows all)" in out) is (count < 30)


def test_a_report_of_very_many_channels_is_announced(qdq: Qdq, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdqcli.cli.measure.LARGE_BYTES", 5000)
    per_channel = ("stats", tiny, "--per-channel", "--format")
    assert "22 channels or groups take about 0 MB of JSON" in qdq(*per_channel, "json", "--axis", "last").err
    for quiet in (("json",), ("csv", "--axis", "last"), ("json", "--axis", "last", "--include", "embed")):
        assert "--per-channel" not in qdq(*per_channel, *quiet).err


@pytest.mark.parametrize("name", ["table", "markdown"])
@pytest.mark.parametrize(("options", "noun"), [(("--axis", 0), "channels"), (("-g", 4), "groups")])
def test_the_worst_channels_of_the_three_worst_tensors_are_shown(
    qdq: Qdq, tmp_path: Path, name: str, options: tuple[object, ...], noun: str
) -> None:
    source = write_safetensors(tmp_path / "m.safetensors", {f"w{i}": sample((24, 8), seed=i) for i in range(4)})
    common = (source, *options, "-b", 4, "--per-channel")
    out = qdq("stats", *common, "--include", "w1", "--format", name).out
    rows = qdq("stats", *common, "--format", "json").report["tensors"]
    (row,) = [r for r in rows if r["name"] == "w1"]
    sqnr = row["channels"]["sqnr_db"]
    lines = out.partition(f"orst 10 of {len(sqnr)} {noun} of ")[2].splitlines()
    cells = [re.sub(r"[|`]", " ", line).split() for line in lines if re.match(r"(\| )?\d", line)][:10]
    worst = sorted(range(len(sqnr)), key=lambda k: sqnr[k])[:10]
    assert [(int(cell[0]), cell[1]) for cell in cells] == [(k, f"{sqnr[k]:.2f}") for k in worst]
    assert [cell[4] for cell in cells] == [metric_text("input_min", row["channels"]["input_min"][k]) for k in worst]
    of_all = re.findall(rf"orst 10 of \d+ {noun} of `?(w\d)", qdq("stats", *common, "--format", name).out)
    assert of_all == [r["name"] for r in sorted(rows, key=lambda r: r["stats"]["sqnr_db"])][:3]
