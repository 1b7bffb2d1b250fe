"""Every member of every registry keeps what its registry promises: a new one is tested by being listed."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from qdqcli.cli.main import COMMANDS, cli
from qdqcli.op.histogram import NUM_PATTERNS, PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import ESTIMATORS, WholeSlices, estimator
from qdqcli.report.allocation import PLAN
from qdqcli.report.conventions import LAB
from qdqcli.report.diagnosis import DIAGNOSIS
from qdqcli.report.formatter import FORMATTERS, REPORT_SUFFIXES, formatter
from qdqcli.report.forms import LISTING_FORMATS
from qdqcli.report.options import ReportOptions
from qdqcli.report.sweep import SWEEP
from qdqcli.result.result import RunResult
from qdqcli.stats.metrics import METRICS, Better
from qdqcli.stats.sums import CHUNK_ELEMENTS, ErrorSums
from qdqcli.tensors.checkpoint import FORMATS, copy_tensor, open_checkpoint
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors
from tests.tensors.packed.gguf_files import write_gguf


def load(target: str) -> Any:
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


def is_documented(thing: Any) -> bool:
    """A sentence of its own."""
    return bool(thing.__doc__) and len(inspect.cleandoc(thing.__doc__).split("\n")[0]) > 20


# Commands


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(name: str) -> None:
    target, line = COMMANDS[name]
    command = load(target)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert is_documented(import_module(target.split(":")[0]))
    file = {"help": "manual"}.get(name, name)  # help.py is what all commands' help is made with
    assert target == f"qdqcli.cli.{file}:{file}"
    assert line.endswith(".")
    assert len(line) < 80
    assert command.help
    assert len(command.help) > 20
    assert command.epilog
    assert "Examples:" in command.epilog
    assert f"  qdq {name}" in command.epilog


# File formats


def make(suffix: str, folder: Path) -> Path:
    path = folder / f"made{suffix}"
    x = sample((4, 6))
    match suffix:
        case ".safetensors":
            return write_safetensors(path, {"made": x})
        case ".npy":
            np.save(path, x)
        case ".npz":
            np.savez(path, made=x)
        case ".gguf":
            write_gguf(path, {"made": x})
        case _:
            raise AssertionError(f"tell this test how to make a {suffix} file")
    return path


WRITTEN = [suffix for suffix in FORMATS if suffix != ".gguf"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_format(suffix: str, tmp_path: Path) -> None:
    assert is_documented(load(FORMATS[suffix]))
    path = make(suffix, tmp_path)
    (shard,) = open_checkpoint(path).shards
    (tensor,) = shard.tensors
    assert (tensor.name, tensor.dtype.name, tensor.shape) == ("made", "F32", (4, 6))
    with shard.open() as reader:
        data = bytearray(tensor.nbytes)
        reader.read_into(tensor, 0, memoryview(data))
        assert bytes(data) == sample((4, 6)).tobytes()
        if suffix not in WRITTEN:
            return
        writer = shard.create(tmp_path / f"copy{suffix}", reader)
        copy_tensor(tensor, reader, writer)
        writer.commit()
    assert (tmp_path / f"copy{suffix}").read_bytes() == path.read_bytes() or suffix == ".npz"


@pytest.mark.parametrize("suffix", [*WRITTEN, *map(str.upper, WRITTEN)])
def test_the_command_line_takes_a_file_of_every_format(qdq: Qdq, tmp_path: Path, suffix: str) -> None:
    path = make(suffix.lower(), tmp_path)
    path = path.rename(path.with_suffix(suffix))
    assert qdq("run", path, "-o", tmp_path / f"out{suffix}").code == 0
    again = qdq("stats", tmp_path / f"out{suffix}", "--format", "json")
    assert again.report["summary"]["num_elements"] == 24


# Report formats


@pytest.mark.parametrize("name", FORMATTERS)
def test_a_report_format(name: str) -> None:
    render = formatter(name)
    assert render is load(FORMATTERS[name])
    assert is_documented(import_module(FORMATTERS[name].split(":")[0]))
    empty = RunResult(command="stats", inputs=["in"], settings={}, rows=[])
    text = "".join(render(empty, ReportOptions()))
    assert text.endswith("\n")
    assert text == "".join(render(empty, ReportOptions()))


def test_every_suffix_has_a_format() -> None:
    assert set(REPORT_SUFFIXES.values()) <= set(FORMATTERS)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in REPORT_SUFFIXES)


@pytest.mark.parametrize("suffix", REPORT_SUFFIXES)
def test_every_suffix_is_taken_by_every_command_that_reports(qdq: Qdq, tiny: Path, tmp_path: Path, suffix: str) -> None:
    budget = tmp_path / "budget.toml"
    budget.write_text("schema = 1\n[limits]\nmin_sqnr_db = 200\n")
    is_listed = REPORT_SUFFIXES[suffix] in LISTING_FORMATS
    for command in (["stats"], ["inspect"], ["check", "--budget", budget]):
        report = tmp_path / f"{command[0]}{suffix}"
        code = 1 if len(command) > 1 else 0 if command == ["stats"] or is_listed else 2
        assert qdq(*command, tiny, "--report", report).code == code
        assert report.exists() == (code != 2)
    if REPORT_SUFFIXES[suffix] != "badge":  # one line on the whole
        assert "layer.0.mlp.weight" in (tmp_path / f"check{suffix}").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMATTERS)
def test_every_format_is_a_choice_of_every_command_that_reports(qdq: Qdq, tiny: Path, name: str) -> None:
    for command in ("stats", "inspect"):
        is_listed = command != "inspect" or name in LISTING_FORMATS
        assert qdq(command, tiny, "--format", name).code == (0 if is_listed else 2)


# Metrics


@pytest.mark.parametrize("name", METRICS)
def test_a_metric(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.title
    assert metric.formula
    assert metric.better in Better
    value = metric.value(ErrorSums())
    assert value is None or value == 0, "a metric of nothing is nothing"
    json.dumps(value, allow_nan=False)


CONTRACT = (
    *("num_elements", "num_nonfinite", "num_nonfinite_output", "num_degenerate", "input_min", "input_max"),
    *("max_abs_error", "mean_error", "mean_abs_error", "mse", "rmse", "relative_l2", "sqnr_db", "cosine_similarity"),
    *("clipped_fraction", "zeroed_fraction"),
)


def test_the_metrics_of_the_contract_are_there() -> None:
    assert set(CONTRACT) <= set(METRICS)
    lower = {name for name in CONTRACT if METRICS[name].better is Better.LOWER}
    assert {
        "max_abs_error",
        "mean_abs_error",
        "mse",
        "rmse",
        "relative_l2",
        "clipped_fraction",
        "zeroed_fraction",
    } <= lower
    assert {name for name in METRICS if METRICS[name].better is Better.HIGHER} == {"sqnr_db", "cosine_similarity"}


def test_every_metric_is_in_every_report(qdq: Qdq, tiny: Path) -> None:
    report = qdq("stats", tiny, "--format", "json").report
    for part in (report["summary"], report["tensors"][0]["stats"]):
        assert set(METRICS) <= set(part)
    header = qdq("stats", tiny, "--format", "csv").out.splitlines()[0].split(",")
    assert set(METRICS) <= set(header)


# Range estimators


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator(name: str) -> None:
    """Whole, in parts of any order, or as counts of patterns: a slice has one range, and it has its order."""
    found = estimator(name)
    assert is_documented(found)
    assert is_documented(import_module(ESTIMATORS[name].split(":")[0]))
    x = sample((3, CHUNK_ELEMENTS), "BF16", 17)
    stored, layout = x.reshape(-1).view(STORAGE["BF16"]), Layout.of(x.shape, QuantSpec(axis=0))
    estimate = found(QuantSpec(estimator=name, num_bits=4, percentile=99.0), "BF16")
    whole = estimate.of_slices(WholeSlices(x=stored[CHUNK_ELEMENTS:], start=CHUNK_ELEMENTS, layout=layout))
    assert whole.shape == (2, 2)
    assert whole.dtype == np.float32
    assert (whole[0] <= whole[1]).all()
    long_slice = estimate.of_long_slice(stored.size)
    while True:
        for start in (2 * CHUNK_ELEMENTS, 0, CHUNK_ELEMENTS):
            long_slice.see(stored[start : start + CHUNK_ELEMENTS], start, start + CHUNK_ELEMENTS)
        if long_slice.finish_pass():
            break
    counts = np.bincount(stored.view(np.uint16), minlength=NUM_PATTERNS)
    by_patterns = estimate.of_patterns(PatternHistogram(dtype="BF16", counts=counts))
    assert long_slice.ranges().tolist() == by_patterns.tolist()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_a_choice_of_every_command_that_measures(qdq: Qdq, tiny: Path, name: str) -> None:
    report = qdq("stats", tiny, "--estimator", name, "--format", "json").report
    specs = [row["spec"] for row in report["tensors"] if row["status"] == "quantized"]
    assert {(spec["estimator"], spec["range_given"]) for spec in specs} == {(name, name != "minmax")}
    assert qdq("inspect", tiny, "--estimator", name).code == 0


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("sweep", SWEEP.names),
        ("plan", PLAN.names),
        ("diagnose", DIAGNOSIS.names),
        ("conventions", LAB.names),
        ("inspect", list(LISTING_FORMATS)),
        ("stats", list(FORMATTERS)),
    ],
)
def test_the_help_lists_the_formats_that_a_command_has(command: str, names: list[str]) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    texts = {option.name: option.help for option in found.params if isinstance(option, click.Option)}
    assert texts["format_name"] == f"Choose what standard output gets: {', '.join([*names, 'none'])}."
    suffixes = [suffix for suffix, name in REPORT_SUFFIXES.items() if name in names]
    assert f"({' '.join(suffixes)})" in (texts["reports"] or "")
