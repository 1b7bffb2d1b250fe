"""Throw-away environment with other libraries: `run_there` calls a script of this folder in it.

    python tests/peers/environment.py tests/peers/conventions.py

The packages (PyTorch for the CPU will do) take gigabytes and some minutes; the environment is deleted at the end.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACKAGES = ("auto-round", "compressed-tensors", "gguf", "numpy", "nvidia-modelopt", "onnx", "onnxruntime", "torch",
            "torchao")  # fmt: skip
ROOT = Path(__file__).parents[2]


def run_there(script: Path, *arguments: str) -> int:
    """Make the environment, with `qdqcli` from here, run the script in it, and delete it; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="qdq-peers-") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES, str(ROOT)], check=True)
        return subprocess.run([python, script, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(run_there(Path(sys.argv[1]), *sys.argv[2:]))
