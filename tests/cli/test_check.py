"""`qdq check` as a CI job uses it: the exit code is the verdict's and nothing else's."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_targets import SAMPLES
from tests.conftest import Qdq

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
    assert failed.err == "", "the verdict is the report's, not an error"
    first, second, *_ = failed.out.splitlines()
    assert first == "budget exceeded: 4 errors"
    assert second.startswith("  error ")
    assert qdq("check", tiny, *BASE, "--budget", strict, "--exit-zero").code == 0


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
        (["--budget", "unmatched.toml"], 2, "matches none"),
        (["--baseline", "none.json"], 3, "No such file"),
        (["--baseline", "bad.toml"], 3, "not JSON"),
        (["--today", "tomorrow"], 2, "no day"),
        (["--headroom", "5%"], 2, "no headroom"),
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
    assert "[tool.qdq.budget]" in found.err
    assert qdq("check", tiny, *BASE, "--budget", "pyproject.toml").code == 1
    assert qdq("check", tiny, *BASE, "--budget", "pyproject.toml", "--ratchet").code == 1


def test_waivers_are_judged_as_on_the_day(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    budget.write_text(STRICT + '[[waivers]]\nmatch = "*"\nreason = "why"\nuntil = 2026-06-30\n')
    kept = qdq("check", tiny, *BASE, "--budget", budget, "--today", "2026-06-30")
    assert kept.code == 0
    assert "(waived: why)" in kept.out
    assert qdq("check", tiny, *BASE, "--budget", budget, "--today", "2026-07-01").code == 1


def test_a_baseline_passes_its_own_settings_and_no_worse_ones(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert qdq("check", tiny, *BASE, "--write-baseline", baseline, "--format", "none").code == 0
    assert qdq("check", tiny, *BASE, "--baseline", baseline).code == 0
    worse = qdq("check", tiny, *BASE, "--baseline", baseline, "--num-bits", "4")
    assert worse.code == 1
    assert "measured otherwise than the baseline: num_bits 4 instead of num_bits 8" in worse.out
    budget = tmp_path / "b.toml"
    budget.write_text("schema = 1\n[baseline]\nfile = 'baseline.json'\nsqnr_db_drop = 0.1\n")
    assert qdq("check", tiny, *BASE, "--budget", budget).code == 0, "the file is found beside the budget"
    assert qdq("check", tiny, *BASE, "--budget", budget, "--exclude", "wide").code == 1


def test_a_written_budget_is_kept_and_a_worse_run_is_not(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    assert qdq("check", tiny, *BASE, "--write-budget", budget, "--headroom", "0.1dB").code == 0
    assert qdq("check", tiny, *BASE, "--budget", budget).code == 0
    assert qdq("check", tiny, *BASE, "--budget", budget, "--num-bits", "7").code == 1
    before = budget.read_text()
    assert qdq("check", tiny, *BASE, "--budget", budget, "--num-bits", "10", "--ratchet").code == 0
    assert budget.read_text() != before
    assert qdq("check", tiny, *BASE, "--budget", budget).code == 1, "8 bits are not enough any more"


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
                   "--write-baseline", path).code == 0  # fmt: skip
        texts.add(path.read_bytes())
    assert len(texts) == 1


PROGRAM = """
import sys
from qdqcli.cli.main import run
assert run(sys.argv[1:]) == 0
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 processors")
def test_a_baseline_is_the_same_bytes_on_every_processor(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    arguments = ["check", str(SAMPLES / "weights.npy"), "--axis", "0", "--write-baseline", str(path)]
    texts = set()
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "QDQ_CACHE_DIR": str(tmp_path / "kernels")}
    for environment in ({}, generic):
        call = [sys.executable, "-c", PROGRAM, *arguments]
        subprocess.run(call, env=os.environ | environment, check=True, capture_output=True)
        texts.add(path.read_bytes())
    assert list((tmp_path / "kernels").rglob("*.bin"))
    assert len(texts) == 1
