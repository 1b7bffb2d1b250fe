"""The manual's page of metrics is the program's, its budget is one."""

import re
from pathlib import Path

from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

DOCS = Path(__file__).parents[2] / "qdqcli" / "docs"
GATE = (DOCS / "gate.md").read_text(encoding="utf-8")


def test_the_metrics_of_the_manual_are_those_of_the_program(qdq: Qdq) -> None:
    page = qdq("info", "--metrics").out
    assert "sqnr_db" in page
    assert page in (DOCS / "reports.md").read_text(encoding="utf-8")


def test_the_budget_of_the_manual_is_one(qdq: Qdq, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(\[limits\].*?)```", GATE, re.DOTALL)
    tensors = {name: sample((8, 64)) for name in ("a.down_proj.weight", "lm_head.weight")} | {"router": sample((8,))}
    source = write_safetensors(tmp_path / "m.safetensors", tensors)
    assert qdq("check", source, "--write-baseline", tmp_path / "qdq-baseline.json").code == 0
    (tmp_path / "budget.toml").write_text(text)
    outcome = qdq("check", source, "--budget", tmp_path / "budget.toml", "--today", "2026-12-01")
    assert outcome.code == 0, outcome.out
