"""The manual's jobs for CI: their shell lines run and gate; its page of metrics is the program's."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

DOCS = Path(__file__).parents[2] / "qdqcli" / "docs"
GATE = (DOCS / "gate.md").read_text(encoding="utf-8")


def test_the_metrics_of_the_manual_are_those_of_the_program(qdq: Qdq) -> None:
    page = qdq("info", "--metrics").out
    assert "sqnr_db" in page
    assert page in (DOCS / "reports.md").read_text(encoding="utf-8")


def job(mark: str) -> str:
    """The block below a mark."""
    (block,) = re.findall(rf"<!-- ci: {mark} -->\n```yaml\n(.*?)```", GATE, re.DOTALL)
    return str(block)


def check_lines(mark: str) -> list[str]:
    """The `qdq check` commands of the block below a mark."""
    return [line.split("qdq ", 1)[1] for line in job(mark).splitlines() if "qdq check" in line]


def steps() -> dict[str, dict[str, Any]]:
    """The steps of the job for GitHub, by the action or the first word of the command."""
    workflow = yaml.safe_load(job("github"))
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}
    return {
        step.get("uses", step.get("run", "").split(" ")[0]).partition("@")[0]: step
        for step in workflow["jobs"]["quantization"]["steps"]
    }


def test_the_job_for_github_has_what_its_steps_need() -> None:
    """The model from LFS, kernels from the last run, an install of what is there, alerts whatever the verdict."""
    found = steps()
    assert list(found) == [
        *("actions/checkout", "actions/setup-python", "actions/cache", "pip", "qdq"),
        *("github/codeql-action/upload-sarif", "actions/upload-artifact"),
    ]
    assert found["actions/checkout"]["with"] == {"lfs": True, "submodules": True}
    assert found["actions/cache"]["with"]["path"] == ".qdq-cache"
    assert found["pip"]["run"] == "pip install ./qdq"
    upload = found["github/codeql-action/upload-sarif"]
    assert upload["if"].startswith("always()")
    for report in (upload["with"]["sarif_file"], found["actions/upload-artifact"]["with"]["path"]):
        assert f"--report {report}" in found["qdq"]["run"]


def test_the_other_jobs_install_what_is_there_and_keep_kernels() -> None:
    gitlab = yaml.safe_load(job("gitlab"))["quantization"]
    assert gitlab["variables"]["QDQ_CACHE_DIR"] == f"$CI_PROJECT_DIR/{gitlab['cache']['paths'][0]}"
    assert gitlab["script"][0] == "pip install ./qdq"
    for report in gitlab["artifacts"]["reports"].values():
        assert f"--report {report}" in gitlab["script"][1]
    (hook,) = yaml.safe_load(job("pre-commit"))["repos"][0]["hooks"]
    assert hook["language"] == "system"
    assert re.fullmatch(hook["files"], "budget.toml")
    assert re.fullmatch(hook["files"], "model/model.safetensors")


@pytest.mark.parametrize("mark", ["github", "gitlab", "pre-commit"])
def test_the_line_of_a_job_gates(qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    write_safetensors(tmp_path / "model" / "model.safetensors", {"w": sample((8, 32)), "b": sample((8,))})
    (line,) = check_lines(mark)
    for limit, code in ((10, 0), (200, 1)):
        (tmp_path / "budget.toml").write_text(f"schema = 1\n[limits]\nmin_sqnr_db = {limit}\n")
        outcome = qdq(*shlex.split(line))
        assert outcome.code == code, outcome.err
    for report in re.findall(r"--report (\S+)", line):
        assert (tmp_path / report).read_text(encoding="utf-8")
    assert (tmp_path / "summary.md").exists() is (mark == "github")


def test_the_budget_of_the_manual_is_one(qdq: Qdq, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(\[limits\].*?)```", GATE, re.DOTALL)
    tensors = {name: sample((8, 64)) for name in ("a.down_proj.weight", "lm_head.weight")} | {"router": sample((8,))}
    source = write_safetensors(tmp_path / "m.safetensors", tensors)
    assert qdq("check", source, "--write-baseline", tmp_path / "qdq-baseline.json").code == 0
    (tmp_path / "budget.toml").write_text(text)
    outcome = qdq("check", source, "--budget", tmp_path / "budget.toml", "--today", "2026-12-01")
    assert outcome.code == 0, outcome.out
