"""Runs and budgets of a few lines."""

from datetime import date
from pathlib import Path

from qdqcli.gate.baseline import BaselineComparison
from qdqcli.gate.budget import Budget
from qdqcli.gate.judge import judge
from qdqcli.gate.project import read_budget
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Verdict

TODAY = date(2026, 6, 1)


def budget(folder: Path, text: str) -> Budget:
    path = folder / "budget.toml"
    path.write_text("schema = 1\n" + text, encoding="utf-8")
    return read_budget(path)


def verdict(folder: Path, run: RunResult, text: str, *, baseline: RunResult | None = None) -> Verdict:
    beside = None if baseline is None else BaselineComparison(run=run, baseline=baseline)
    return judge(run, budget(folder, text), beside, TODAY)[0]
