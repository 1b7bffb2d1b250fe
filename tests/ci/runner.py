"""A runner of GitHub's, as far as the steps of our action and jobs need one."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / ".github" / "actions" / "qdq-check"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
BIN = Path(sys.executable).parent
"""Where `qdq` is."""


class Runner:
    """The files that GitHub's runner gives to steps."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "work space"
        self.workspace.mkdir()
        self.temp = folder / "runner temp"
        self.temp.mkdir()
        self.files = {name: folder / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH")}
        self.files["GITHUB_STEP_SUMMARY"] = folder / "GITHUB_STEP_SUMMARY"

    def run(self, step: dict[str, Any], **inputs: str) -> subprocess.CompletedProcess[str]:
        """Run a step with bash, as `shell: bash` does."""
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an expression in a script is text of the script"
        values = {name: given["default"] for name, given in ACTION["inputs"].items()} | inputs
        own = {
            name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: values[found[1]], text)
            for name, text in step.get("env", {}).items()
        }
        added = [line.partition("=") for line in self.lines("GITHUB_ENV")]
        env = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_ACTION_PATH": str(FOLDER),
            **{name: str(path) for name, path in self.files.items()},
            **{name: value for name, _, value in added},
            **own,
        }
        script = self.temp / "step.sh"
        script.write_text(step["run"])
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        return subprocess.run(command, cwd=self.workspace, env=env, capture_output=True, text=True, check=False)

    def lines(self, name: str) -> list[str]:
        path = self.files[name]
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def check(self, **inputs: str) -> tuple[int, dict[str, str], str]:
        """Run the step that measures: exit code, outputs, and what it printed."""
        self.files["GITHUB_OUTPUT"].unlink(missing_ok=True)
        (step,) = (step for step in STEPS if step.get("id") == "check")
        done = self.run(step, **inputs)
        outputs = dict(line.split("=", 1) for line in self.lines("GITHUB_OUTPUT"))
        assert not list(self.workspace.rglob("pwned")), "an input was executed"
        return done.returncode, outputs, done.stdout + done.stderr
