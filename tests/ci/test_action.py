"""The action for GitHub: its shell steps as a runner runs them, with inputs that a shell must not read."""

import json
import re
from pathlib import Path

import pytest

from tests.ci.runner import ACTION, FOLDER, STEPS, Runner
from tests.run.checkpoints import sample, write_safetensors

HOSTILE = "a b'\"; touch pwned; $(touch pwned) `touch pwned` &|<> \\ *.npy"


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    found = Runner(tmp_path)
    write_safetensors(found.workspace / "model" / "model.safetensors", {"w": sample((8, 32)), "v": sample((4, 32))})
    (found.workspace / "qdq.toml").write_text('model = "model"\n[budget.limits]\nmin_sqnr_db = 10\n')
    return found


def test_every_input_and_output_is_used() -> None:
    text = (FOLDER / "action.yml").read_text(encoding="utf-8")
    for name in ACTION["inputs"]:
        assert f"inputs.{name}" in text
    ids = {step["id"] for step in STEPS if "id" in step}
    for output in ACTION["outputs"].values():
        assert set(re.findall(r"steps\.(\w+)\.", output["value"])) <= ids
    assert [step["uses"].partition("@")[0] for step in STEPS if "uses" in step] == [
        "actions/cache",
        "github/codeql-action/upload-sarif",
    ]
    assert (FOLDER / "../../../pyproject.toml").exists(), "what the install step installs"


def test_the_verdict_is_output_annotations_and_summary(runner: Runner) -> None:
    (runner.workspace / "r").mkdir()
    code, outputs, printed = runner.check(report="a.html\nr/b.json\n", sarif="s.sarif")
    assert (code, outputs["passed"]) == (0, "true"), printed
    assert float(outputs["sqnr_db"]) > 10
    for name in ("a.html", "r/b.json", "s.sarif"):
        assert (runner.workspace / name).exists()
    assert "budget kept" in "\n".join(runner.lines("GITHUB_STEP_SUMMARY"))
    (runner.workspace / "strict.toml").write_text("[limits]\nmin_sqnr_db = 200\n")
    code, outputs, printed = runner.check(model="model", budget="strict.toml")
    assert (code, outputs["passed"]) == (1, "false")
    assert "::error file=strict.toml,line=2" in printed
    code, outputs, _ = runner.check(budget="strict.toml", arguments="--exit-zero --exclude 'v'")
    assert (code, outputs["passed"]) == (0, "false"), "told, and no failure"


def test_inputs_are_never_executed(runner: Runner) -> None:
    write_safetensors(runner.workspace / HOSTILE.replace("/", "") / "model.safetensors", {"w": sample((8, 32))})
    (runner.workspace / "b $(touch pwned).toml").write_text("[limits]\nmin_sqnr_db = 10\n")
    report = "r $(touch pwned);.json"
    code, outputs, printed = runner.check(
        model=HOSTILE, budget="b $(touch pwned).toml", report=report, arguments="--sort 'name' \"--top\" 3"
    )
    assert (code, outputs["passed"]) == (0, "true"), printed
    assert json.loads((runner.workspace / report).read_text())["inputs"] == [HOSTILE]
    assert runner.check(arguments="; touch pwned; $(touch pwned) `touch pwned` > pwned")[0] == 3, "names of models"
    code, outputs, printed = runner.check(arguments="--exclude 'v")
    assert (code, outputs) == (2, {})
    assert "::error::arguments: No closing quotation" in printed
    assert runner.check(model="--version")[0] == 3, "a model is never an option"


def test_kernels_are_cached_by_processor_and_version(runner: Runner) -> None:
    (step,) = (step for step in STEPS if step.get("id") == "kernels")
    done = runner.run(step)
    assert done.returncode == 0, done.stderr
    (line,) = runner.lines("GITHUB_OUTPUT")
    assert re.fullmatch(r"key=kernels-[\w.]+-\w{16}-[\w-]+-numba-[\d.]+", line)
    assert runner.lines("GITHUB_ENV") == [f"QDQ_CACHE_DIR={runner.temp / 'qdq-kernels'}"]
    (cache,) = (step for step in STEPS if step.get("uses", "").startswith("actions/cache"))
    assert cache["with"]["path"] == "${{ runner.temp }}/qdq-kernels"
    assert "steps.kernels.outputs.key" in cache["with"]["key"]
