"""What tests of files and of the command line share: tiny checkpoints, and `qdq` called in this process."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.run.checkpoints import sample, write_safetensors


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call of `qdq` left."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Standard output as the JSON report."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error: one line, the last on stderr, and the only one that is an error."""
        lines = self.err.splitlines()
        assert lines, "nothing on stderr"
        assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True], self.err
        assert "Traceback" not in self.err
        return lines[-1]


Qdq = Callable[..., Outcome]


def pytest_configure() -> None:
    # Workers and the processes that tests start: where none may keep bytecode, each start compiles every module,
    # which takes as long as all the rest of a `qdq stats`.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # The first example compiles, and a busy machine is no fault.
    settings.register_profile("qdqcli", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("qdqcli")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-fault",
        action="store_true",
        help="tests marked faults: every point where a run can be killed or fail, not a selection",
    )
    parser.addoption(
        "--fuzz-seconds", type=float, default=0, help="how long -m faults looks for files that a reader gets wrong"
    )


@pytest.fixture
def every_fault(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for every point where a run can be killed or fail."""
    return bool(request.config.getoption("--every-fault"))


@pytest.fixture
def qdq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Qdq:
    """Call `qdq` with arguments, in this process; its streams are no terminals."""
    from qdqcli.cli.main import run

    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("qdqcli.cli.progress.LINE_SECONDS", float("inf"))  # else a slow machine has more on stderr

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call


TINY: dict[str, np.ndarray] = {
    "layer.0.mlp.weight": sample((4, 6), "F32", 1),
    "layer.0.norm.bias": sample((6,), "F32", 2),
    "layer.1.mlp.weight": sample((5, 8), "BF16", 3),
    "embed": sample((7, 4), "F16", 4),
    "position_ids": np.arange(9, dtype=np.int64).reshape(1, 9),
    "wide": sample((2, 3, 4), "F64", 5),
    "scalar": sample((), "F32", 6),
    "mask": np.array([True, False, True]),
}
"""Every dtype that the op takes and two that it does not, ranks 0 to 3."""
TINY_FLOATS = [name for name, array in TINY.items() if array.dtype.kind not in "ib"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A safetensors file that holds `TINY`."""
    return write_safetensors(tmp_path / "tiny.safetensors", TINY, {"format": "pt", "note": "tiny"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as Hugging Face lays it out: two shards, an index, side files, one of them in a sub-folder."""
    folder = tmp_path / "model"
    shards = {f"model-0000{i}-of-00002.safetensors": dict(list(TINY.items())[i - 1 :: 2]) for i in (1, 2)}
    for name, tensors in shards.items():
        write_safetensors(folder / name, tensors, {"format": "pt"})
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {"total_size": sum(a.nbytes for a in TINY.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"hidden_size": 6}\n')
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"mean": true}')
    return folder
