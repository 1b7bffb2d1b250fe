"""`qdq check` as a CI job uses it: the exit code is the verdict's and nothing else's."""

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qdqcli.tensors import output_file
from qdqcli.tensors.rename import rename_new
from tests.cli.test_targets import SAMPLES
from tests.conftest import Qdq
from tests.run.checkpoints import NAMES, sample, write_safetensors

BASE = ("--min-ndim", "2", "--axis", "0")
STRICT = "schema = 1\n[limits]\nmin_sqnr_db = 200\n"
LENIENT = "schema = 1\n[limits]\nmin_sqnr_db = -200\n"


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    path = tmp_path / "strict.toml"
    path.write_text(STRICT)
    return path


@pytest.fixture
def lenient(tmp_path: Path) -> Path:
    path = tmp_path / "lenient.toml"
    path.write_text(LENIENT)
    return path


def test_the_exit_code_is_the_verdict(qdq: Qdq, tiny: Path, strict: Path, lenient: Path) -> None:
    assert qdq("check", tiny, *BASE, "--budget", lenient).code == 0
    failed = qdq("check", tiny, *BASE, "--budget", strict)
    assert failed.code == 1
    (note,) = failed.err.splitlines()  # the verdict is the report's, not an error
    assert note.startswith("note: why, and a recipe with what helps: qdq diagnose ")
    first, second, *_ = failed.out.splitlines()
    assert first == "budget exceeded: 4 errors"
    assert second.startswith("  error ")
    assert qdq("check", tiny, *BASE, "--budget", strict, "--exit-zero").code == 0


def test_a_verdict_of_errors_ends_with_a_command_that_proposes_a_fix(
    qdq: Qdq, tiny: Path, strict: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "r.json"
    for words in (
        ("-s", "int4-channel", "--budget", strict, "--report", report, "--top", "3", "--exclude=wide"),
        ("--input-min", "-1", f"--input-max={1}", "--per-channel", "--budget", strict, "--format", "none"),
    ):
        note = qdq("check", tiny, *words).err.splitlines()[-1]
        command = shlex.split(note.partition("helps: ")[2])
        assert qdq(*command[1:]).code == 0
        assert "num_bits" in (tmp_path / "fix.toml").read_text()
        (tmp_path / "fix.toml").unlink()
    note = qdq("check", "--report-in", report, "--budget", strict).err.splitlines()[-1]
    assert note.endswith("qdq diagnose MODEL --write-recipe fix.toml")
    (tmp_path / "structure.toml").write_text("[structure]\nmax_bits_per_weight = 1\n")
    assert "diagnose" not in qdq("check", tiny, "--budget", tmp_path / "structure.toml").err


def test_the_json_report_has_the_verdict(qdq: Qdq, tiny: Path, strict: Path, lenient: Path) -> None:
    verdict = qdq("check", tiny, *BASE, "--budget", strict, "--format", "json").report["verdict"]
    assert verdict["passed"] is False
    for violation in verdict["violations"]:
        assert violation["metric"] == "sqnr_db"
        assert violation["limit"] == 200
        assert violation["actual"] < 200
        assert violation["severity"] == "error"
    over = [violation["excess_db"] for violation in verdict["violations"]]
    assert over == sorted(over, reverse=True)
    assert qdq("check", tiny, *BASE, "--budget", lenient, "--format", "json").report["verdict"]["passed"] is True


def test_a_stored_report_is_judged_without_the_checkpoint(qdq: Qdq, tiny: Path, strict: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    qdq("stats", tiny, *BASE, "--report", report)
    there = qdq("check", "--report-in", report, "--budget", strict, "--format", "json")
    here = qdq("check", tiny, *BASE, "--budget", strict, "--format", "json")
    assert there.code == here.code == 1
    assert there.report["verdict"] == here.report["verdict"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--budget", "none.toml"], 2, "No such file"),
        (["--budget", "bad.toml"], 2, "unknown key"),
        (["--budget", "unmatched.toml"], 2, "unmatched.toml:2: [[tensors]] 1: pattern 'x*' matches none"),
        (["--budget", "idle.toml"], 2, "idle.toml: sets no limit and has no baseline"),
        (["--budget", "pipe.toml"], 2, "pipe.toml: is not a regular file"),
        (["--baseline", "pipe.toml"], 3, "pipe.toml: is not a regular file"),
        (["--overwrite", "--budget", "none.toml"], 2, "add --write-budget or --write-baseline"),
        (["--baseline", "none.json"], 3, "No such file"),
        (["--baseline", "bad.toml"], 3, "not JSON"),
        (["--today", "tomorrow"], 2, "expected YYYY-MM-DD"),
        (["--headroom", "5%"], 2, "expected decibels"),
        (["--ratchet"], 2, "--budget"),
        (["--headroom", "1dB", "--budget", "budget.toml"], 2, "--write-budget FILE or --ratchet"),
        (["--write-baseline", "no/such/folder.json"], 2, "no folder"),
        (["--report-in", "x.json"], 2, "give INPUT, or"),
        ([], 2, "nothing to judge"),
    ],
)
def test_everything_else_has_another_exit_code(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("schema = 1\n[limits]\nmin_snqr = 3\n")
    (tmp_path / "idle.toml").write_text("schema = 1\n[summary]\nmin_sqnr_db = 'none'\n")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "unmatched.toml").write_text('schema = 1\n[[tensors]]\nmatch = "x*"\nmin_sqnr_db = 3\n')
    outcome = qdq("check", tiny, *BASE, *arguments)
    assert outcome.code == code
    assert message in outcome.error


@pytest.mark.parametrize("option", [["--num-bits", "4"], ["--exclude", "x"], ["--threads", "1"], ["--histograms"]])
def test_no_option_of_measuring_is_ignored(
    qdq: Qdq, tiny: Path, strict: Path, tmp_path: Path, option: list[str]
) -> None:
    report = tmp_path / "r.json"
    assert qdq("stats", tiny, "--report", report, "--format", "none").code == 0
    outcome = qdq("check", "--report-in", report, "--budget", strict, *option)
    assert outcome.code == 2
    assert f"{option[0]} has no meaning" in outcome.error


def test_the_limits_of_a_pyproject_are_ratcheted(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    before = "[project]\nname = 'x'\n[tool.qdq.budget]\nschema = 1\n[tool.qdq.budget.limits] # all\nmin_sqnr_db = 1\n"
    path.write_text(before + "[tool.other]\nmin_sqnr_db = 1\n")
    assert qdq("check", tiny, *BASE, "--budget", path, "--ratchet").code == 0
    after = path.read_text()
    assert after.startswith(before.removesuffix("1\n"))
    assert float(after.splitlines()[5].split("=")[1]) > 20
    assert after.endswith("[tool.other]\nmin_sqnr_db = 1\n")


def test_neither_an_input_nor_a_report(qdq: Qdq, strict: Path) -> None:
    assert qdq("check", "--budget", strict).code == 2


def test_the_budget_of_a_pyproject(qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\n[tool.qdq.budget]\nschema = 1\n[tool.qdq.budget.limits]\nmin_sqnr_db = 200\n"
    )
    found = qdq("check", tiny, *BASE)
    assert found.code == 1
    assert found.err.startswith("note: pyproject.toml: budget\n")
    assert qdq("check", tiny, *BASE, "--budget", "pyproject.toml").code == 1
    assert qdq("check", tiny, *BASE, "--budget", "pyproject.toml", "--ratchet").code == 1


def test_waivers_are_judged_as_on_the_day(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    budget.write_text(STRICT + '[[waivers]]\nmatch = "*"\nreason = "why"\nuntil = 2026-06-30\n')
    kept = qdq("check", tiny, *BASE, "--budget", budget, "--today", "2026-06-30")
    assert kept.code == 0
    assert '(waived: "why")' in kept.out
    ended = qdq("check", tiny, *BASE, "--budget", budget, "--today", "2026-07-01")
    assert ended.code == 1
    assert '  error *: waiver "why" expired on 2026-06-30; fix the tensors or renew it' in ended.out
    assert "lowest SQNR" in ended.out, "it is measured all the same"


def test_a_baseline_passes_its_own_settings_and_no_worse_ones(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert qdq("check", tiny, *BASE, "--write-baseline", baseline, "--format", "none").code == 0
    assert qdq("check", tiny, *BASE, "--baseline", baseline).code == 0
    worse = qdq("check", tiny, *BASE, "--baseline", baseline, "--num-bits", "4")
    assert worse.code == 1
    assert worse.out.startswith(
        "budget exceeded: 1 error\n"
        "  error the run: measured with other settings than the baseline: num_bits 4 instead of num_bits 8\n"
    )
    budget = tmp_path / "b.toml"
    budget.write_text("schema = 1\n[baseline]\nfile = 'baseline.json'\nsqnr_db_drop = 0.1\n")
    assert qdq("check", tiny, *BASE, "--budget", budget).code == 0, "the file is found beside the budget"
    assert qdq("check", tiny, *BASE, "--budget", budget, "--exclude", "wide").code == 1


def test_a_written_budget_is_kept_and_tightened(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    written = qdq("check", tiny, *BASE, "--write-budget", budget, "--headroom", "0.1dB")
    assert written.code == 0
    call = shlex.join(["qdq", "check", str(tiny), *BASE, "--budget", str(budget)])
    assert re.fullmatch(rf"wrote {budget} in .*\nnext: {call}\n", written.err)
    kept = qdq(*shlex.split(call)[1:])
    assert kept.code == 0
    nearest = r"nearest its limit: \S+, SQNR \d\d\.\d\d dB, 0\.10?\d* dB above"
    assert re.fullmatch(rf"budget kept: 4 tensors; {nearest}\n", kept.out)
    report = tmp_path / "r.json"
    for more in (["--top", 1], ["--sort", "name"], ["--by", "kind"], ["--report", report]):
        lines = qdq("check", tiny, *BASE, "--budget", budget, *more).out.count("\n")
        assert (lines > 5) is (report not in more), f"{more} asks for the table, or does not"
    assert qdq("render", report).out.count("\n") > 5
    before = budget.read_text()
    assert qdq("check", tiny, *BASE, "--budget", budget, "--ratchet", "--headroom", "0.01dB").code == 0
    assert budget.read_text() != before
    assert qdq("check", tiny, *BASE, "--budget", budget).code == 0


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        (["--num-bits", "6"], "num_bits is 6 and not 8"),
        (["--axis", "none"], "axis is none and not 0"),
        (["--round-mode", "half_up"], "round_mode is HALF_UP and not HALF_TO_EVEN"),
        (["--estimator", "percentile"], "estimator is percentile and not minmax; percentile is 99.99 and not none"),
        (["--exclude", "wide"], "exclude is 'wide' and not none"),
        (["--min-ndim", "3"], "min_ndim is 3 and not 2"),
        (["--input-min", "-1", "--input-max", "1"], "input_min is -1.0 and not none; input_max is 1.0 and not none"),
        (["--preset", "linear-only"], "rules is "),
    ],
)
def test_a_run_with_other_settings_is_one_error_before_the_work(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str], difference: str
) -> None:
    budget, report = tmp_path / "b.toml", tmp_path / "r.json"
    assert qdq("check", tiny, *BASE, "--write-budget", budget).code == 0
    qdq("stats", tiny, *BASE, *option, "--report", report)
    line = 1 + budget.read_text().splitlines().index("[settings] # a run with others is not judged")
    stored = qdq("check", "--report-in", report, "--budget", budget)
    monkeypatch.setattr("qdqcli.cli.check.measure", None)
    for outcome in (qdq("check", tiny, *BASE, *option, "--budget", budget), stored):
        assert outcome.code == 2
        start = f"error: {budget}:{line}: the budget is for a run with other settings: {difference}"
        assert outcome.error.startswith(start)


def test_what_the_headers_violate_is_told_before_anything_is_measured(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdqcli.cli.check.measure", None)
    budget = tmp_path / "b.toml"
    for text, words in (
        ("forbid = 'wide'", "wide: must not be quantized, and 'wide' would be"),
        ("max_bits_per_weight = 8", "bits per weight: 10.48 is above the limit 8.000"),
    ):
        budget.write_text(f"[structure]\n{text}\n")
        outcome = qdq("check", tiny, *BASE, "--budget", budget, "--report", tmp_path / "r.json")
        assert outcome.code == 1
        assert outcome.out.splitlines()[1].startswith(f"  error {words}")
        assert json.loads((tmp_path / "r.json").read_text())["verdict"]["violations"][0]["line"] == 2


def test_a_pattern_that_matches_nothing_is_told_before_the_work(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdqcli.cli.check.measure", None)
    budget = tmp_path / "b.toml"
    for text in (
        "[[tensors]]\nmatch = 'wild'\nmin_sqnr_db = 1",
        "[structure]\nforbid = 'wild'",
        "[limits]\nmin_sqnr_db = 1\n[[waivers]]\nmatch = 'wild'\nreason = 'r'\nuntil = 2999-01-01",
    ):
        budget.write_text(text)
        outcome = qdq("check", tiny, *BASE, "--budget", budget, "--write-baseline", tmp_path / "r.json")
        assert outcome.code == 2
        assert "pattern 'wild' matches none of" in outcome.error


def test_weights_that_cannot_be_measured_are_missed(qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint half of which is quantized already; integers that are no codes are not asked for."""
    weights = {f"{name}.weight": sample((32, 32)) for name in ("a", "b")}
    codes = {f"{name}.weight": np.zeros((32, 32), ml_dtypes.float8_e4m3fn) for name in ("c", "d")}
    others = {"c.weight_scale": sample((1,)), "ids": np.zeros((99, 99), np.int64)}
    monkeypatch.setitem(NAMES, np.dtype(ml_dtypes.float8_e4m3fn), "F8_E4M3")
    source = write_safetensors(tmp_path / "m.safetensors", weights | codes | others)
    budget = tmp_path / "b.toml"
    for share, more, code in (
        (0.5, [], 0), (0.51, [], 1), (0.66, ["--exclude", "d.weight"], 0), (1, ["--include", "[ab].weight"], 0),
    ):  # fmt: skip
        budget.write_text(f"[structure]\nmin_quantized = {share}\n")
        report = tmp_path / "r.json"
        call = [source, "--allow-packed", *more, "--report", report]
        assert qdq("check", *call, "--budget", budget).code == code, (share, more)
        assert qdq("stats", *call).code == 0
        assert qdq("check", "--report-in", report, "--budget", budget).code == code


def test_a_structure_that_is_kept_is_measured(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    budget.write_text("[structure]\nforbid = 'wide'\nmin_quantized = 1\nmax_bits_per_weight = 12\n")
    outcome = qdq("check", tiny, *BASE, "--exclude", "wide", "--budget", budget)
    assert (outcome.code, outcome.out) == (0, "budget kept: 3 tensors\n")
    budget.write_text("[structure]\nforbid = 'wild'\n")
    outcome = qdq("check", tiny, *BASE, "--exclude", "wide", "--budget", budget)
    assert outcome.code == 2
    assert f"{budget}:2: [structure] forbid: pattern 'wild' matches none" in outcome.error


def test_a_gate_that_measured_nothing_is_an_error(qdq: Qdq, tiny: Path, strict: Path, tmp_path: Path) -> None:
    empty = write_safetensors(tmp_path / "empty.safetensors", {"w": sample((0, 4))})
    other = write_safetensors(tmp_path / "other.safetensors", {"else": sample((4, 4))})
    report = tmp_path / "r.json"
    assert qdq("stats", empty, "--report", report).code == 0
    calls = [["check", empty], ["check", "--report-in", report], ["compare", tiny, other], ["compare", empty, empty]]
    assert [qdq(*call, "--budget", strict).code for call in calls] == [2] * len(calls)


def test_files_are_replaced_by_their_own_kind_and_with_overwrite_alone(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text("[project]\nname = 'x'\n")
    Path("notes.md").write_text("# Notes\n")
    Path("other.json").write_text("{}")
    Path("budget.toml").write_text("# kept by hand\n[limits]\nmin_sqnr_db = 10\n")
    assert qdq("stats", tiny, *BASE, "--report", "report.json").code == 0
    texts = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    for option, path in (
        ("--write-budget", "pyproject.toml"), ("--write-budget", "notes.md"), ("--write-budget", "report.json"),
        ("--write-baseline", "budget.toml"), ("--write-baseline", "other.json"), ("--write-baseline", "notes.md"),
    ):  # fmt: skip
        for more in ([], ["--overwrite"]):
            outcome = qdq("check", tiny, *BASE, option, path, *more)
            assert outcome.code == 2
            assert f"{path}: exists and is not replaced: it is not a " in outcome.error
    for option, path in (("--write-budget", "budget.toml"), ("--write-baseline", "report.json")):
        outcome = qdq("check", tiny, *BASE, option, path)
        assert outcome.error == f"error: {path}: exists; choose another name or pass --overwrite to replace it"
        assert {path: path.read_bytes() for path in texts} == texts
    for option, path in (("--write-budget", "budget.toml"), ("--write-baseline", "report.json")):
        assert qdq("check", tiny, *BASE, option, path, "--overwrite").code == 0
        assert Path(path).read_bytes() != texts[Path(path)]
        assert qdq("check", tiny, *BASE, "--budget" if "budget" in path else "--baseline", path).code == 0


def test_a_budget_is_tightened_where_it_is_and_as_it_is(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "budget.toml", tmp_path / "link.toml"
    real.parent.mkdir()
    real.write_bytes(b"\xef\xbb\xbf# ours\r\nlimits.min_sqnr_db = 10 # why\r\n")
    real.chmod(0o640)
    link.symlink_to(real)
    assert qdq("check", tiny, *BASE, "--budget", link, "--ratchet").code == 0
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert re.fullmatch(rb"\xef\xbb\xbf# ours\r\nlimits.min_sqnr_db = \d\d\.\d+ # why\r\n", real.read_bytes())


WRITING = (
    ("check", "--write-budget"), ("check", "--write-baseline"), ("plan", "--avg-bits", 4, "-o"),
    ("diagnose", "-b", 4, "--write-recipe"), ("calibrate", "-o"),
)  # fmt: skip


@pytest.mark.parametrize("command", WRITING, ids=lambda command: f"{command[0]} {command[-1]}")
def test_a_file_that_another_process_made_meanwhile_is_not_replaced(
    qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[object, ...]
) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 128), "F32", 1)})
    path = tmp_path / "w.json"

    def write_first(*arguments: Any, **options: Any) -> Any:
        path.write_text("theirs")
        return rename_new(*arguments, **options)

    monkeypatch.setattr(output_file, "rename_new", write_first)
    name, *options = command
    outcome = qdq(name, source, *options, path)
    assert outcome.code == 2
    assert f"{path}: exists: another process made it meanwhile" in outcome.error
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("change", [lambda path: path.write_text("[limits]\nmin_sqnr_db = 60\n"), Path.unlink])
def test_a_budget_that_changed_meanwhile_is_not_tightened(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any]
) -> None:
    from qdqcli.cli import check

    budget, report, measure = tmp_path / "b.toml", tmp_path / "r.json", check.measure
    budget.write_text("[limits]\nmin_sqnr_db = 5\n")

    def measure_slowly(*arguments: Any) -> Any:
        change(budget)
        return measure(*arguments)

    monkeypatch.setattr(check, "measure", measure_slowly)
    outcome = qdq("check", tiny, *BASE, "--budget", budget, "--ratchet", "--report", report)
    assert outcome.code == 2
    assert f"{budget}: changed after it was read; nothing was tightened" in outcome.error
    assert not budget.exists() or budget.read_text() == "[limits]\nmin_sqnr_db = 60\n"
    assert report.exists(), "what was measured is not lost"


def test_the_schema_of_a_budget_is_printed(qdq: Qdq) -> None:
    outcome = qdq("check", "--schema")
    assert outcome.code == 0
    assert json.loads(outcome.out)["title"] == "Budget of qdq"


def test_an_unknown_key_of_the_project_is_an_error(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text("[project]\nname = 'x'\n[tool.qdq.buget.limits]\nmin_sqnr_db = 200\n")
    outcome = qdq("check", tiny, *BASE, "--write-baseline", "b.json")
    assert outcome.code == 2
    assert outcome.error == "error: pyproject.toml:3: unknown key 'buget' in [tool.qdq]; the nearest is budget"
    Path("pyproject.toml").write_text("[project\n")
    assert "pyproject.toml:1: not TOML" in qdq("check", tiny, *BASE, "--write-baseline", "b.json").error
    Path("pyproject.toml").write_text("[tool.other]\n")
    assert qdq("check", tiny, *BASE, "--write-baseline", "b.json").code == 0


def test_no_written_file_replaces_an_input(qdq: Qdq, tiny: Path) -> None:
    before = tiny.read_bytes()
    for option in ("--write-baseline", "--write-budget"):
        assert qdq("check", tiny, *BASE, option, tiny).code == 2
    assert tiny.read_bytes() == before


def test_a_baseline_is_the_same_bytes_for_any_threads(qdq: Qdq, tmp_path: Path) -> None:
    texts = set()
    for threads, memory in ((1, "256MiB"), (2, "1MiB"), (5, "64MiB")):
        path = tmp_path / "b.json"
        assert qdq("check", SAMPLES / "tiny-llama", *BASE, "--threads", threads, "--max-memory", memory,
                   "--write-baseline", path, "--overwrite").code == 0  # fmt: skip
        texts.add(path.read_bytes())
    assert len(texts) == 1


def test_the_next_command_has_its_options_before_the_end_of_options(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    budget.write_text("[limits]\nmin_sqnr_db = 200\n")
    outcome = qdq("check", "--budget", budget, "--", tiny)
    assert outcome.err.endswith(f"qdq diagnose --write-recipe fix.toml -- {tiny}\n")
