"""The README's jobs for CI: their shell lines run and gate; its page of metrics is the program's."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_metrics_of_the_readme_are_those_of_the_program(qdq: Qdq) -> None:
    page = qdq("info", "--metrics").out
    assert "sqnr_db" in page
    assert page in README


def check_lines(mark: str) -> list[str]:
    """The `qdq check` commands of the block below a mark."""
    (block,) = re.findall(rf"<!-- ci: {mark} -->\n```yaml\n(.*?)```", README, re.DOTALL)
    return [line.split("qdq ", 1)[1] for line in block.splitlines() if "qdq check" in line]


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


def test_the_budget_of_the_readme_is_one(qdq: Qdq, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(schema = 1\n\[limits\].*?)```", README, re.DOTALL)
    tensors = {"a.down_proj.weight": sample((8, 32)), "lm_head.weight": sample((8, 32))}
    source = write_safetensors(tmp_path / "m.safetensors", tensors)
    assert qdq("check", source, "--write-baseline", tmp_path / "qdq-baseline.json").code == 0
    (tmp_path / "budget.toml").write_text(text)
    outcome = qdq("check", source, "--budget", tmp_path / "budget.toml", "--today", "2026-12-01")
    assert outcome.code == 0, outcome.out
