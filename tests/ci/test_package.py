"""The package: wheel and sdist, in empty environments with the oldest and the newest of all dependencies.

Needs a network. Run with `-m package`, or `.ci/run package`; each interpreter of 3.11 to 3.14 that is found takes part.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.ci.runner import BIN, STEPS, Runner
from tests.ci.test_page import job, repository, shell
from tests.run.checkpoints import sample, write_safetensors

pytestmark = pytest.mark.package

ROOT = Path(__file__).parents[2]
PACKAGE = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "qdqcli")
SOURCES = (*PACKAGE, "tests", "sample_data", ".ci", ".github", ".pre-commit-hooks.yaml", ".dockerignore")
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
COMMANDS = """\
qdqcli --version
python -m qdqcli info
qdq demo
qdq sweep tiny-llama --scheme int4-g32 --scheme int8-channel
qdq init tiny-llama --scheme int4-g32 > job.yml
qdq check --report page.html --report badge.json
qdq run tiny-llama -o out --scheme int8-channel --verify --report report.json --format none
qdq render report.json --for model-card --base-model a/b > card.md
qdq plan tiny-llama --avg-bits 5 -o plan.toml
qdq recipe export plan.toml tiny-llama --to llm-compressor > recipe.yaml
qdq help environment
qdq help sweep
python -c 'import qdqcli; assert qdqcli.measure("tiny-llama", scheme="int4-g32").summary["sqnr_db"] > 17'
"""
"""What a user of an installed package does first, on every kind of dependency."""


def run(*command: object, folder: Path, **env: str) -> str:
    """Run a command to its end; returns what it printed."""
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*words: object, folder: Path) -> str:
    found = shutil.which("uv", path=f"{BIN}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("no uv")
    return run(found, *words, folder=folder)


def interpreter(version: str) -> Path:
    """Return a Python of that version; skips where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = shutil.which(f"python{version}")
    for path in (Path(sys.base_prefix) / "bin" / f"python{version}", *pyenv.glob(f"{version}.*/bin/python"), named):
        if path is not None and Path(path).exists():
            done = subprocess.run(
                [path, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=False
            )
            if done.stdout.startswith(f"{version}."):
                return Path(path)
    pytest.skip(f"no Python {version}")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    copy_sources(sources, SOURCES)
    uv("build", "--quiet", "--out-dir", folder, sources, folder=sources)
    return folder


def copy_sources(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)


def wheel_of(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    with zipfile.ZipFile(wheel_of(dist)) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entry_points).decode()
    inside = {name for name in names if ".dist-info/" not in name}
    committed = {f"qdqcli/{path.relative_to(ROOT / 'qdqcli').as_posix()}" for path in (ROOT / "qdqcli").rglob("*")
                 if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    assert inside == committed
    assert {line.partition(" ")[0] for line in commands.splitlines() if "=" in line} == {"qdq", "qdqcli"}
    assert "License-Expression: Apache-2.0" in described
    assert "Requires-Python: >=3.11" in described


def test_the_sdist_has_what_the_tests_need(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py"} <= names
    assert {"sample_data/tiny-llama/config.json", ".pre-commit-hooks.yaml", ".github/Dockerfile", ".ci/run"} <= names


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("version", VERSIONS)
def test_it_works_in_an_empty_environment(dist: Path, tmp_path: Path, version: str, resolution: str) -> None:
    venv = tmp_path / "venv"
    uv("venv", "--quiet", "--python", interpreter(version), venv, folder=tmp_path)
    python = ("--quiet", "--python", venv / "bin" / "python")
    uv("pip", "install", *python, "--resolution", resolution, "-r", ROOT / "pyproject.toml", folder=tmp_path)
    uv("pip", "install", *python, "--no-deps", wheel_of(dist), folder=tmp_path)
    uv("pip", "check", *python, folder=tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    env = {
        "PATH": f"{venv / 'bin'}:/usr/bin:/bin",
        "QDQ_CACHE_DIR": str(tmp_path / "kernels"),
        "PYTHONWARNINGS": "error",
    }
    for line in COMMANDS.splitlines():
        run("bash", "-c", line, folder=work, **env)
    assert (work / "page.html").stat().st_size > 10_000


def test_the_action_installs_this_package(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    (step,) = (step for step in STEPS if step.get("id") == "install")
    done = runner.run(step, python=sys.executable)
    assert done.returncode == 0, done.stderr
    (added,) = runner.lines("GITHUB_PATH")
    assert run(f"{added}/qdq", "--version", folder=tmp_path).startswith("qdq ")


def test_the_steps_of_the_image(tmp_path: Path) -> None:
    """Its RUN lines, below another root; kernels are compiled by tests/cli/test_warmup.py."""
    text = (ROOT / ".github" / "Dockerfile").read_text(encoding="utf-8")
    sources = tmp_path / "src"
    sources.mkdir()
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copy_sources(sources, tuple(allowed))
    lines = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    assert lines[-1] == "qdq info --warmup"
    (tmp_path / "opt").mkdir()
    kernels = tmp_path / "opt" / "qdq-kernels"
    env = {"PATH": f"{tmp_path}/opt/qdq/bin:{BIN}:{os.environ['PATH']}", "QDQ_CACHE_DIR": str(kernels)}
    for line in [*lines[:-1], "qdq info --format json"]:
        own = re.sub(r"(?<![\w.])/(opt|src)\b", rf"{tmp_path}/\1", line)
        printed = run("bash", "-euo", "pipefail", "-c", own, folder=tmp_path, uid=str(os.getuid()), **env)
    assert f'"kernel_cache": "{kernels}/' in printed
    assert {"QDQ_CACHE_DIR=/opt/qdq-kernels", "PATH=/opt/qdq/bin:$PATH"} <= set(
        re.findall(r"^ENV (.*)", text, re.M)[0].split()
    )
    assert re.search(r'^ENTRYPOINT \["qdq"\]$', text, re.MULTILINE)


def test_the_hooks_install_this_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "cache"))
    hooks, own = tmp_path / "hooks", tmp_path / "own"
    hooks.mkdir()
    copy_sources(hooks, (".pre-commit-hooks.yaml", *PACKAGE))
    repository(hooks)
    write_safetensors(own / "model" / "model.safetensors", {"w": sample((8, 32))})
    (own / "qdq.toml").write_text('model = "model"\n[budget.limits]\nmin_sqnr_db = 10\n')
    repository(own)
    assert yaml.safe_load(job("pre-commit"))
    done = shell(f"pre-commit try-repo --verbose '{hooks}' qdq-check --all-files", own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "budget kept" in done.stdout
