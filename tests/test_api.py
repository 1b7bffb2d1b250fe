"""The package's public names: typed, documented, and the same figures as the command's."""

import importlib.util
import inspect
import re
import subprocess
import sys
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qdqcli
from qdqcli.api import MeasureSettings
from qdqcli.errors import OutputError, UsageError
from tests.cli.test_output import contents
from tests.conftest import TINY, Qdq
from tests.run.checkpoints import sample, write_safetensors
from tests.tensors.packed.golden import GOLDEN

NAMES = [name for name in qdqcli.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_listed_and_documented(name: str) -> None:
    value = getattr(qdqcli, name)
    assert name in dir(qdqcli)
    if callable(value):
        assert value.__doc__
        assert value.__doc__.strip()[0].isupper()


def test_rooms_do_not_hide_the_functions_of_their_names() -> None:
    script = (
        "import qdqcli.measure.arrays, qdqcli.run.pipeline, qdqcli; "
        "assert qdqcli.measure.__doc__.startswith('Measure what'); "
        "assert qdqcli.run.__doc__.startswith('Quantize and dequantize'); print(1)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_type_checker_sees_what_public_names_are(tmp_path: Path) -> None:
    script = tmp_path / "user.py"
    script.write_text("import qdqcli\n" + "".join(f"reveal_type(qdqcli.{name})\n" for name in NAMES))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    revealed = [line.partition('Revealed type is "')[2].rstrip('"') for line in out.splitlines() if "Revealed" in line]
    assert len(revealed) == len(NAMES), out
    assert not [kind for kind in revealed if kind in ("Any", "object") or kind.startswith("Module")], out
    assert "Success: no issues found" in out, out


SETTINGS: list[tuple[dict[str, Any], tuple[object, ...]]] = [
    ({}, ()),
    ({"num_bits": 4, "group_size": 2}, ("-b", 4, "-g", 2)),
    ({"scheme": "int4-channel", "num_bits": np.int64(5)}, ("-s", "int4-channel", "-b", 5)),
    ({"axis": "last", "min_ndim": 1, "exclude": "embed"}, ("--axis", "last", "--min-ndim", 1, "--exclude", "embed")),
    ({"input_min": -1.0, "input_max": 1.5, "compute_dtype": "native"},
     ("--input-min", -1, "--input-max", 1.5, "--compute-dtype", "native")),
    ({"estimator": "percentile", "percentile": 99, "include": ["layer.*", "wide"], "per_channel": True},
     ("--estimator", "percentile", "--percentile", 99, "--include", "layer.*", "--include", "wide", "--per-channel")),
    ({"preset": "linear-only", "scheme": "uint8-tensor"}, ("--preset", "linear-only", "-s", "uint8-tensor")),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "options"), SETTINGS, ids=str)
def test_measure_is_stats(qdq: Qdq, model: Path, arguments: dict[str, Any], options: tuple[object, ...]) -> None:
    report = qdqcli.measure(str(model), **arguments)
    expected = qdq("stats", model, *options, "--format", "json").report
    found = report.to_json()
    for data in (found, expected):
        for row in data["tensors"]:
            row.pop("decided_by", None)  # argument names there, options here
    assert found["tensors"] == expected["tensors"]
    assert found["summary"] == expected["summary"] == report.summary
    assert found["settings"] == expected["settings"]


def test_settings_are_the_arguments_of_measure() -> None:
    own = {"path", "threads", "max_memory", "device", "dask", "unknown"}
    assert inspect.signature(qdqcli.measure).parameters.keys() - own == MeasureSettings.__annotations__.keys()
    with pytest.raises(TypeError, match="unexpected keyword argument 'bits'"):
        qdqcli.run("x", "y", bits=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'bits'\. Did you mean 'num_bits'\?"):
        qdqcli.measure("x", bits=4)  # type: ignore[arg-type]
    for study in (qdqcli.sweep, partial(qdqcli.plan, avg_bits=4), qdqcli.diagnose):
        with pytest.raises(TypeError, match="unexpected keyword argument 'bits'"):
            study("x", bits=4)


@pytest.mark.parametrize(("arguments", "options"), SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["folder", "file", "batch"])
def test_run_gives_the_output_and_the_report_of_the_command(
    qdq: Qdq, model: Path, tiny: Path, tmp_path: Path, arguments: dict[str, Any], options: tuple[object, ...], kind: str
) -> None:
    inputs = {"folder": [model], "file": [tiny], "batch": [model, tiny]}[kind]
    name = "out.safetensors" if kind == "file" else "out"
    flags = ("--verify", "--provenance", "--format", "json")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    outcome = qdq("run", *inputs, "-o", tmp_path / "one" / name, *options, *flags)
    assert outcome.code == 0, outcome.err
    report = qdqcli.run(inputs, tmp_path / "two" / name, verify=True, provenance=True, **arguments)
    found, expected = report.to_json(), outcome.report
    for data in (found, expected):
        for row in data["tensors"]:
            row.pop("decided_by", None)  # argument names there, options here
    assert found == expected
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_run_reports_progress_and_resumes(model: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    first = qdqcli.run(model, tmp_path / "out", verify=True, on_progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(phase for phase, _, _ in calls)) == ["quantizing", "verifying", "hashing"]
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    with pytest.raises(qdqcli.UsageError, match="exists"):
        qdqcli.run(model, tmp_path / "out")
    before = contents(tmp_path)
    again = qdqcli.run(model, tmp_path / "out", resume=True)
    assert contents(tmp_path) == before
    assert again.to_json()["tensors"] == first.to_json()["tensors"]


@pytest.mark.parametrize(("provenance", "num_hashed"), [(False, 1), (True, 2)])
def test_progress_counts_each_pass_over_a_verified_file(
    tiny: Path, tmp_path: Path, provenance: bool, num_hashed: int
) -> None:
    """Its inputs are hashed for the record of provenance alone."""
    calls: list[tuple[str, int, int]] = []
    output = tmp_path / "out.safetensors"
    qdqcli.run(tiny, output, verify=True, provenance=provenance, on_progress=lambda *call: calls.append(call))
    (*_, (_, done, total)) = calls
    nbytes = total // (2 + num_hashed)
    assert 0 < nbytes * (2 + num_hashed) == total
    assert done == 2 * nbytes + num_hashed * output.stat().st_size


def test_runs_leave_no_file_open(tiny: Path, tmp_path: Path) -> None:
    counts = []
    for name in ("out.safetensors", "other.safetensors"):
        qdqcli.run(tiny, tmp_path / name)
        counts.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
    assert counts[0] == counts[1]


def test_an_interrupted_run_leaves_no_output_and_goes_on(model: Path, tmp_path: Path) -> None:
    qdqcli.quantize(model, tmp_path / "whole")

    def stop(_phase: str, done: int, total: int) -> None:
        if done > 0.4 * total / 3:  # of three passes: within the second file
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qdqcli.run(model, tmp_path / "out", on_progress=stop, threads=1)
    assert not (tmp_path / "out").exists()
    qdqcli.run(model, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob("*.qdq-partial"))


def test_run_harms_no_file_that_it_reads(tiny: Path, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "out" / "recipe.toml"
    qdqcli.run(model, recipe.parent)
    recipe.write_text("[defaults]\nnum_bits = 5\n")
    with pytest.raises(qdqcli.UsageError, match="recipe is or lies in the output"):
        qdqcli.run(model, recipe.parent, recipe=recipe, overwrite=True)
    assert recipe.exists()
    (tmp_path / "out.safetensors.qdq.json").write_text("{}")
    with pytest.raises(qdqcli.UsageError, match=r"out\.safetensors\.qdq\.json"):
        qdqcli.run(tiny, tmp_path / "out.safetensors", provenance=True)


def test_a_recipe_and_ranges(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    recipe, ranges = tmp_path / "r.toml", tmp_path / "ranges.json"
    recipe.write_text('[defaults]\nnum_bits = 5\n[[rules]]\nmatch = "embed"\nscheme = "int3"\n')
    assert qdq("calibrate", tiny, "-o", ranges, "--estimator", "mse").code == 0
    for arguments, options in (({"recipe": recipe}, ("--recipe", recipe)), ({"ranges": ranges}, ("--ranges", ranges))):
        report = qdqcli.measure(tiny, **arguments)
        assert report.to_json()["tensors"] == qdq("stats", tiny, *options, "--format", "json").report["tensors"]


def test_a_report(tiny: Path, tmp_path: Path) -> None:
    report = qdqcli.measure(tiny, num_bits=4)
    first, second = report.worst(2)
    assert first.stats["sqnr_db"] <= second.stats["sqnr_db"]  # type: ignore[operator]
    assert report.worst(1, "share")[0].stats["share"] == max(row.share or 0 for row in report.result.quantized)
    assert [row.name for row in report.tensors] == list(TINY)
    assert f"<td>{first.name}</td>" in report._repr_html_()
    assert first.name in str(report)
    assert repr(report).startswith(f"<Report of {tiny}: 4 tensors, sqnr_db=")
    report.save(tmp_path / "r.json")
    assert qdqcli.check(report, write_budget(tmp_path, 1)).passed
    with pytest.raises(qdqcli.UsageError):
        report.worst(1, "sqnr")
    with pytest.raises(qdqcli.UsageError):
        report.save(tmp_path / "r.txt")


def test_to_pandas(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = qdqcli.measure(tiny)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(qdqcli.UnavailableError, match="pip install pandas"):
        report.to_pandas()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert list(frame.index) == [row.name for row in report.result.quantized]
    assert list(frame["sqnr_db"]) == [row.stats["sqnr_db"] for row in report.result.quantized]


def test_names_in_a_notebook_are_escaped(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "m.safetensors", {"<script>x</script>": sample((4, 6)), "w": sample((4, 6))})
    assert "<script>" not in qdqcli.measure(source)._repr_html_()


def write_budget(folder: Path, limit: float) -> Path:
    path = folder / "budget.toml"
    path.write_text(f'[limits]\nmin_sqnr_db = {limit}\n[[waivers]]\nmatch = "wide"\nreason = "x"\nuntil = 2027-01-31\n')
    return path


def test_check_judges_as_the_command_does(tiny: Path, tmp_path: Path) -> None:
    report = qdqcli.measure(tiny, num_bits=3)
    verdict = qdqcli.check(report, write_budget(tmp_path, 60), today=date(2026, 12, 1))
    assert not verdict.passed
    assert {violation.metric for violation in verdict.violations} == {"sqnr_db"}
    (tmp_path / "budget.toml").write_text("[limits]\n")
    with pytest.raises(qdqcli.UsageError, match="nothing to judge by"):
        qdqcli.check(report, tmp_path / "budget.toml")


def test_compare_and_sweep(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert qdq("run", tiny, "-o", out, "-b", 4).code == 0
    report = qdqcli.compare(tiny, out)
    expected = qdq("compare", tiny, out, "--format", "json").report
    assert report.to_json()["tensors"] == expected["tensors"]
    with pytest.raises(qdqcli.UsageError, match="matches none"):
        qdqcli.compare(tiny, out, include="nope")
    packed = GOLDEN / "gptq"
    report = qdqcli.compare(packed / "original.safetensors", packed / "packed")
    expected = qdq("compare", packed / "original.safetensors", packed / "packed", "--format", "json").report
    assert report.to_json()["tensors"] == expected["tensors"]
    assert all(row["packed"]["format"] == "GPTQ" for row in expected["tensors"])
    found = qdqcli.sweep(tiny, ["int4-channel", "int8-tensor"], estimators=["minmax", "mse"])
    assert list(found) == ["int4 channel", "int4 channel mse", "int8 tensor", "int8 tensor mse"]
    alone = qdqcli.measure(tiny, scheme="int4-channel", estimator="mse")
    assert found["int4 channel mse"].to_json()["tensors"] == alone.to_json()["tensors"]
    assert len(qdqcli.sweep(tiny)) == 17


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_bits": "x"}, "num_bits is 'x'; it must be an integer from 1 to 62"),
        ({"scheme": "nf4"}, "scheme is 'nf4'; it must be one such as int8-channel"),
        ({"axis": 0, "group_size": 2}, "axis and group_size, which exclude each other"),
        ({"include": "nope"}, "pattern 'nope' matches none of 8 tensors"),
        ({"group_size": 64}, "group_size 64 does not divide"),
        ({"scale_bits": "16"}, "scale_bits is '16'; it must be an integer of at least 0"),
        ({"scale_bits": -1}, "scale_bits is -1; it must be an integer of at least 0"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_as_the_command_says_it(tiny: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(qdqcli.UsageError) as raised:
        qdqcli.measure(tiny, **arguments)
    assert words in str(raised.value)


def test_a_checkpoint_is_read_tensor_by_tensor(model: Path, tmp_path: Path) -> None:
    checkpoint = qdqcli.open_checkpoint(str(model))
    assert len(checkpoint) == len(TINY)
    assert {tensor.name for tensor in checkpoint} == set(TINY)
    for name, array in TINY.items():
        tensor = checkpoint[name]
        assert (tensor.shape, tensor.nbytes) == (array.shape, array.nbytes)
        read = tensor.read()
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert checkpoint["layer.1.mlp.weight"].dtype == "BF16"
    assert checkpoint["layer.1.mlp.weight"].read().dtype == ml_dtypes.bfloat16
    assert repr(checkpoint) == f"<Checkpoint {model}: 8 tensors>"
    with pytest.raises(KeyError):
        checkpoint["nope"]
    with pytest.raises(qdqcli.InputError):
        qdqcli.open_checkpoint(tmp_path / "none.safetensors")
    x = np.asfortranarray(sample((3, 5)))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(qdqcli.open_checkpoint(tmp_path / "x.npy")[0].read(), x)


def test_keywords_and_metrics_of_an_array() -> None:
    x = sample((8, 32))
    y, sums = qdqcli.quantize_and_measure(x, num_bits=4, axis=0)
    same, other = qdqcli.quantize_and_measure(x, qdqcli.QuantSpec(num_bits=4, axis=0))
    assert np.array_equal(y, same)
    assert sums == other
    assert sums.metrics() == {name: metric.value(other) for name, metric in qdqcli.METRICS.items()}
    for name in qdqcli.METRICS:
        assert getattr(sums, name) == sums.metrics()[name]
    rounded, _ = qdqcli.quantize_and_measure(x, qdqcli.QuantSpec(num_bits=3), round_mode="HALF_UP")
    assert np.array_equal(rounded, qdqcli.quantize_and_dequantize_v4(x, num_bits=3, round_mode="HALF_UP"))
    with pytest.raises(qdqcli.DTypeError, match="give a NumPy array"):
        qdqcli.quantize_and_measure([1.0, 2.0])


def test_every_field_of_a_spec_is_described() -> None:
    lines = (Path(qdqcli.__file__).parent / "op" / "spec.py").read_text().partition("class QuantSpec:")[2].splitlines()
    fields = [number for number, line in enumerate(lines) if line.startswith("    ") and ": " in line and " = " in line]
    described = [number for number in fields[:12] if lines[number + 1].startswith('    """')]
    assert described == fields[:12]


def test_a_judgement_shows_itself_and_has_the_judged_report(tmp_path: Path) -> None:
    model = write_safetensors(
        tmp_path / "m.safetensors", {"a.<b>.weight": sample((8, 32)), "b.weight": sample((8, 32))}
    )
    report = qdqcli.measure(model, num_bits=4)
    budget = tmp_path / "budget.toml"
    budget.write_text("[limits]\nmin_sqnr_db = 60\n")
    found = qdqcli.check(report, budget)
    assert not found.passed
    assert "budget exceeded: 2 errors" in found._repr_html_()
    assert "<b>" not in found._repr_html_()
    assert [row.bound.limit for row in found.report.worst(2) if row.bound is not None] == [60, 60]
    found.report.save(tmp_path / "check.html")
    assert "What to do" in (tmp_path / "check.html").read_text(encoding="utf-8")
    assert report.result.verdict is None, "the report that was judged stays as it is"


def test_mistakes_are_answered_in_words(tiny: Path, tmp_path: Path) -> None:
    report = qdqcli.measure(tiny)
    for call, error, words in (
        (lambda: qdqcli.measure(3), UsageError, "3: not a path"),
        (lambda: qdqcli.open_checkpoint(None), UsageError, "None: not a path"),
        (lambda: qdqcli.measure(tiny, device="gpu"), UsageError, "it must be cpu, cuda or auto"),
        (lambda: qdqcli.measure(tiny, threads=0), UsageError, "threads is 0"),
        (lambda: qdqcli.measure(tiny, max_memory="1GB"), UsageError, "a number of bytes"),
        (lambda: qdqcli.measure(tiny, axis=0, group_size=2), UsageError, "the call sets axis and group_size"),
        (lambda: qdqcli.measure(tiny, recipe="linear-only"), UsageError, "it is a preset"),
        (lambda: qdqcli.check(tiny, "b.toml"), UsageError, "not a report"),
        (lambda: qdqcli.open_checkpoint(tiny)["embde"], KeyError, "'embed'"),
        (lambda: report.save(tmp_path / "no" / "r.json"), OutputError, "No such file"),
        (lambda: report.worst(3, "sqnr"), UsageError, "try sqnr_db"),
    ):
        with pytest.raises(error, match=re.escape(words)):
            call()


def test_a_number_of_rows_is_one(tiny: Path) -> None:
    with pytest.raises(TypeError, match=r"worst\(\) takes the number of rows first \(found 'rmse'\)"):
        qdqcli.measure(tiny).worst("rmse")  # type: ignore[arg-type]


def test_an_unknown_keyword_gets_the_nearest(tiny: Path, tmp_path: Path) -> None:
    for given, meant in (("bits", "num_bits"), ("exclud", "exclude")):
        with pytest.raises(TypeError, match=rf"keyword argument '{given}'. Did you mean '{meant}'\?"):
            qdqcli.run(tiny, tmp_path / "out", **{given: 4})  # type: ignore[arg-type]
