"""The jobs of the manual: every block is run, with what the machine lacks (Docker, Slurm) in place of itself."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.runner import ACTION, BIN, Runner
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "qdqcli" / "docs" / "ci.md").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
ELSEWHERE = ("#!/bin/bash", "job=$(sbatch", "apiVersion: batch/v1")
"""Starts of the blocks that tests/cli/test_parts.py runs."""


def test_every_block_is_run_by_a_test() -> None:
    blocks = re.findall(r"(?:<!-- ci: ([\w-]+) -->\n)?```(?:yaml|sh|toml|console)\n(.*?)```", PAGE, re.DOTALL)
    assert [mark for mark, text in blocks if not text.startswith(ELSEWHERE)] == [
        *("github-action", "github", "gitlab", "pre-commit", "slurm", "docker")
    ]
    assert sum(text.startswith(ELSEWHERE) for _, text in blocks) == len(ELSEWHERE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model, a budget that it keeps, and these sources as `qdq`."""
    folder = tmp_path / "project"
    write_safetensors(folder / "model" / "model.safetensors", {"w": sample((8, 32)), "b": sample((8,))})
    (folder / "budget.toml").write_text("[limits]\nmin_sqnr_db = 10\n")
    (folder / "qdq").symlink_to(ROOT)
    return folder


def shell(text: str, folder: Path, **stubs: str) -> subprocess.CompletedProcess[str]:
    """Run lines with bash; `stubs` are scripts in place of commands."""
    commands = folder / "stubs"
    commands.mkdir(exist_ok=True)
    for name, script in stubs.items():
        (commands / name).write_text(f"#!/bin/bash\n{script}\n")
        (commands / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{commands}:{BIN}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", text], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def job(mark: str) -> str:
    """The block below a mark."""
    (block,) = re.findall(rf"<!-- ci: {mark} -->\n```(?:yaml|sh)\n(.*?)```", PAGE, re.DOTALL)
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


@pytest.mark.parametrize("mark", ["github", "gitlab"])
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


def test_the_job_with_the_action(tmp_path: Path) -> None:
    workflow = yaml.safe_load(job("github-action"))
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}
    checkout, measure, tell, upload = workflow["jobs"]["quantization"]["steps"]
    assert checkout["with"] == {"lfs": True, "submodules": True}
    path = measure["uses"].removeprefix("./qdq/")
    assert (ROOT / path / "action.yml").exists()
    assert set(measure["with"]) <= set(ACTION["inputs"])
    runner = Runner(tmp_path)
    write_safetensors(runner.workspace / "model" / "model.safetensors", {"w": sample((8, 32))})
    (runner.workspace / "budget.toml").write_text("[limits]\nmin_sqnr_db = 10\n")
    code, outputs, printed = runner.check(**measure["with"])
    assert code == 0, printed
    for name in upload["with"]["path"].split("\n"):
        assert (runner.workspace / name).exists()
    assert set(re.findall(r"outputs\.(\w+)", str(tell["env"]))) == set(outputs) == set(ACTION["outputs"])
    assert shell(tell["run"], runner.workspace).stdout == "budget kept - , SQNR  dB\n"


@pytest.mark.parametrize("mark", ["github", "gitlab"])
def test_the_lines_of_a_job_run_one_after_the_other(project: Path, mark: str) -> None:
    document = yaml.safe_load(job(mark))
    if mark == "github":
        lines = [step["run"] for step in document["jobs"]["quantization"]["steps"] if "run" in step]
    else:
        lines = document["quantization"]["script"]
    done = shell("\n".join(lines), project, pip='test "$*" = "install ./qdq" && test -f "$2/pyproject.toml"')
    assert done.returncode == 0, done.stderr


def test_the_gate_on_slurm(project: Path) -> None:
    stub = "while (($# > 1)); do case $1 in --cpus-per-task=*) export SLURM_CPUS_PER_TASK=${1#*=};; esac; shift; done\n"
    done = shell(job("slurm"), project, sbatch=f'{stub}exec bash -c "$1"')
    assert done.returncode == 0, done.stderr
    assert (project / "qdq.html").exists()
    (project / "budget.toml").write_text("[limits]\nmin_sqnr_db = 200\n")
    assert shell(job("slurm"), project, sbatch=f'{stub}exec bash -c "$1"').returncode == 1


def test_the_image_and_its_use(project: Path) -> None:
    build = (
        'if [[ $1 == build ]]; then test "$2" = -f && test -f "$3" && test -f "${@: -1}/pyproject.toml"; exit; fi\n'
        'while [[ $1 != qdq ]]; do shift; done; exec "$@"'
    )
    done = shell(job("docker"), project, docker=build)
    assert done.returncode == 0, done.stderr
    assert "budget kept" in done.stdout


def git(*words: str, folder: Path) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(folder: Path) -> str:
    """Commit the files of a folder; returns the commit."""
    git("init", "-q", folder=folder)
    git("add", "-A", folder=folder)
    git("commit", "-qm", "x", folder=folder)
    return git("rev-parse", "HEAD", folder=folder)


@pytest.mark.skipif(shutil.which("pre-commit", path=f"{BIN}:{os.environ['PATH']}") is None, reason="no pre-commit")
def test_the_hooks_with_pre_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page has them, but for the installation, which needs a network: tests/ci/test_package.py has that."""
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "cache"))
    hooks, own = tmp_path / "hooks", tmp_path / "own"
    hooks.mkdir()
    (hooks / ".pre-commit-hooks.yaml").write_text(HOOKS.replace("language: python", "language: system"))
    commit = repository(hooks)
    write_safetensors(own / "model" / "model.safetensors", {"w": sample((8, 32)), "b": sample((8,))})
    (own / "budget.toml").write_text("[limits]\nmin_sqnr_db = 10\n")
    for name in ("recipe.toml", "b.recipe.toml"):
        (own / name).write_text('[[rules]]\nmatch = "w"\nnum_bits = 4\n')
    config = yaml.safe_load(job("pre-commit"))
    assert [hook["id"] for hook in config["repos"][0]["hooks"]] == [hook["id"] for hook in yaml.safe_load(HOOKS)]
    config["repos"][0] |= {"repo": str(hooks), "rev": commit}
    (own / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    repository(own)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return shell(shlex.join(["pre-commit", *words]), own)

    done = run("run", "--all-files", "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "budget kept" in done.stdout
    assert done.stdout.count("nothing wrong with 1 rule, checked against 2 tensors") == 2
    (own / "budget.toml").write_text("[limits]\nmin_sqnr_db = 200\n")
    (own / "recipe.toml").write_text('[[rules]]\nmatch = "v"\nnum_bit = 4\n')
    done = run("run", "--files", "budget.toml", "recipe.toml")
    assert done.returncode == 1
    assert "budget exceeded: 1 error" in done.stdout
    assert "did you mean num_bits" in done.stdout or "num_bits" in done.stdout
    assert "Skipped" in run("run", "qdq-check", "--files", "model/README.md").stdout


def test_hooks_run_for_files_that_matter() -> None:
    found = {hook["id"]: re.compile(hook["files"]) for hook in yaml.safe_load(HOOKS)}
    files = (
        *("m/model-00001-of-00002.safetensors", "m/model.safetensors.index.json", "qdq.toml", "a/pyproject.toml"),
        *("int4.budget.toml", "recipe.toml", "recipes/my-recipe.json", "README.md", "m/config.json", "other.toml"),
    )
    assert [name for name in files if found["qdq-check"].search(name)] == [*files[:6]]
    assert [name for name in files if found["qdq-recipe-lint"].search(name)] == [*files[5:7]]
