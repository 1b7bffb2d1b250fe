"""`--device`: what is not there is refused with exit code 5, and who asks for the CPU does not pay for CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qdqcli.op import backend as backend_module
from qdqcli.op.backend import missing_for_cuda
from tests.cli.process import environment, run_process
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

NO_DEVICE = environment(CUDA_VISIBLE_DEVICES="-1")
"""Without a driver, and on a machine with devices too."""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "w.safetensors", {"w": sample((8, 40), "F32", 1)})


@pytest.fixture
def without_numba_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backend_module, "find_spec", lambda _: None)
    missing_for_cuda.cache_clear()
    yield
    missing_for_cuda.cache_clear()


@pytest.mark.parametrize("command", ["stats", "run", "grad", "check"])
def test_a_device_that_is_not_there_is_refused(weights: Path, tmp_path: Path, command: str) -> None:
    budget = tmp_path / "budget.toml"
    budget.write_text("schema = 1\n[limits]\nmin_sqnr_db = 1\n")
    more = {"run": ["-o", tmp_path / "out"], "grad": [weights, "-o", tmp_path / "out"], "check": ["--budget", budget]}
    outcome = run_process(command, weights, *more.get(command, []), "--device", "cuda", env=NO_DEVICE)
    assert outcome.returncode == 5
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert "pip install" in outcome.stderr or "--device cpu" in outcome.stderr
    assert sorted(tmp_path.iterdir()) == sorted([weights, budget])


@pytest.mark.usefixtures("without_numba_cuda")
def test_a_missing_package_is_named(qdq: Qdq, weights: Path) -> None:
    outcome = qdq("stats", weights, "--device", "cuda")
    assert outcome.code == 5
    assert outcome.error == "error: CUDA needs the package numba-cuda; install it: pip install 'qdqcli[cuda]'"


@pytest.mark.usefixtures("without_numba_cuda")
def test_auto_is_the_cpu_where_there_is_no_device(qdq: Qdq, weights: Path) -> None:
    auto, cpu = (qdq("stats", weights, "--device", name, "--format", "json") for name in ("auto", "cpu"))
    assert auto.code == cpu.code == 0
    assert auto == cpu


@pytest.mark.usefixtures("without_numba_cuda")
def test_info_says_why_there_is_no_device(qdq: Qdq) -> None:
    assert "numba-cuda" in json.loads(qdq("info", "--format", "json").out)["cuda"]


@pytest.mark.parametrize("command", ["compare", "inspect", "calibrate"])
def test_commands_that_do_not_compute_the_op_have_no_device(qdq: Qdq, weights: Path, command: str) -> None:
    outcome = qdq(command, weights, weights, "--device", "cuda")
    assert outcome.code == 2
    assert "--device" in outcome.error


@pytest.mark.usefixtures("without_numba_cuda")
def test_arrays_on_a_device_need_cuda() -> None:
    from qdqcli import quantize_and_dequantize_v4
    from qdqcli.errors import UnavailableError

    class OnDevice:
        __cuda_array_interface__ = {"shape": (1,), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012

    with pytest.raises(UnavailableError, match="numba-cuda"):
        quantize_and_dequantize_v4(OnDevice())


def test_the_cpu_does_without_cuda(weights: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", sample((300, 40), "F32", 2))
    script = (
        "import sys\n"
        "from qdqcli.cli.main import run\n"
        "for path in sys.argv[1:]: assert run(['stats', path, '--format', 'none', '--per-channel']) == 0\n"
        "import numpy as np, qdqcli\n"
        "qdqcli.quantize_and_dequantize_v4(np.zeros(9, np.float32))\n"
        "assert 'numba' in sys.modules\n"
        "print([name for name in sys.modules if 'cuda' in name and name != 'qdqcli.op.on_device'])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, weights, tmp_path / "w.npy"], capture_output=True, text=True, timeout=60,
        check=True, env=os.environ | {"QDQ_CACHE_DIR": ""},
    )  # fmt: skip
    assert not [name for name in eval(process.stdout) if "redirector" not in name]
