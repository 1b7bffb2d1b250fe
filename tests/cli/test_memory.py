"""Peak memory of a measurement does not follow the size of the tensor."""

import subprocess
import sys
from os import SEEK_END
from pathlib import Path

import numpy as np
import pytest

from tests.cli.process import COMMAND, environment
from tests.run.checkpoints import write_sparse
from tests.tensors.files import raw_safetensors, write

MIB = 1 << 20
ALLOWED = 300_000_000 + 256 * MIB
"""Bytes: 300 MB for the program, and the default of --max-memory."""


LAUNCHER = """
import os, sys
with open(os.devnull, "w") as nothing:
    actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1)]
    pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
"""A process of its own: until it loads its program a child counts the memory of its parent, which may be large here."""


def peak_memory(*arguments: object, code: int = 0) -> int:
    """Bytes of resident memory that a call of `qdq` had at most; it must end with `code`."""
    process = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        check=True,
    )
    ended_with, kibibytes = map(int, process.stdout.split())
    assert ended_with == code, process.stderr
    return kibibytes * 1024


@pytest.mark.parametrize("options", [(), ("--axis", 0)], ids=["whole", "axis 0"])
def test_a_tensor_of_1_gib(tmp_path: Path, options: tuple[object, ...]) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (256, 1 << 20))
    assert peak_memory("stats", source, *options) < ALLOWED


def test_less_memory_may_be_allowed(tmp_path: Path) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (128, 1 << 20))
    assert peak_memory("stats", source, "--max-memory", "8MiB") < 300_000_000 + 8 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--axis", 0), ("--group-size", 128)], ids=["whole", "axis 0", "groups"])
def test_a_tensor_of_4_gib(tmp_path: Path, options: tuple[object, ...]) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (1024, 1 << 20))
    assert peak_memory("stats", source, *options) < ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["percentile", "mse"])
@pytest.mark.parametrize("layout", [(), ("--axis", 0), ("--axis", 1), ("--group-size", 128)], ids=str)
def test_estimators_on_a_tensor_of_1_gib(tmp_path: Path, layout: tuple[object, ...], estimator: str) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (1 << 18, 1024))
    with source.open("r+b") as file:
        for block in range(16):  # no range is all zeros
            file.seek(-(block + 1) * 64 * MIB, SEEK_END)
            file.write(np.random.default_rng(block).standard_normal(MIB, np.float32).tobytes())
    assert peak_memory("calibrate", source, "-o", tmp_path / "r.json", "--estimator", estimator, *layout) < ALLOWED


def test_the_measure_sees_what_a_call_needs(tmp_path: Path) -> None:
    """A test of the test: 24 MiB of ranges, which are held for the whole tensor, show."""
    source = write_sparse(tmp_path / "in.safetensors", (3, 1 << 20))
    few, many = (peak_memory("stats", source, "--axis", axis) for axis in (0, 1))
    assert many > few + 24 * MIB


MAX_TEXT = 32 * MIB - 100
HOSTILE = {
    "lists": b"[],",
    "lists in lists": b"[[]],",
    "objects": b'{"":0},',
    "strings": b'"ab",',
    "numbers": b"1,",
}
"""Values that take up to 40 times the memory of their text."""


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("kind", ["header", "index", "report"])
def test_what_a_hostile_file_may_make(tmp_path: Path, kind: str, unit: bytes) -> None:
    values = unit * (MAX_TEXT // len(unit)) + b"0"
    match kind:
        case "header":
            header = b'{"w":{"dtype":"F32","shape":[' + values + b'],"data_offsets":[0,4]}}'
            path = write(tmp_path / "in.safetensors", raw_safetensors(header, bytes(4)))
            assert peak_memory("inspect", path, code=3) < ALLOWED
        case "index":
            write(tmp_path / "in" / "model.safetensors.index.json", b'{"weight_map":{"w":[' + values + b"]}}")
            assert peak_memory("inspect", tmp_path / "in", code=3) < ALLOWED
        case "report":
            report = write(tmp_path / "r.json", b'{"schema_version":1,"tensors":[' + values + b"]}")
            assert peak_memory("render", report, code=3) < ALLOWED


def test_a_header_of_half_a_million_tensors(tmp_path: Path) -> None:
    record = '"%x":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    header = "{" + ",".join(record % (i, i, i + 1) for i in range(500_000)) + "}"
    path = write(tmp_path / "in.safetensors", raw_safetensors(header, bytes(500_000)))
    assert peak_memory("inspect", path, "--format", "none", code=2) < ALLOWED


REPORTS = ("json", "html", "csv", "md", "xml", "sarif")
"""Suffixes of reports of one call; they are written one after another."""
ROW_BYTES = 3000
"""What a tensor may take of a report's memory; without a report it takes half of that."""
FIXED_BYTES = 45 * MIB
"""What a report may take besides: the 5,000 findings that SARIF is cut to."""


def write_many(path: Path, count: int) -> Path:
    """As many tensors of 4x4 elements, with names as experts have them."""
    names = [f"model.layers.{i // 64}.mlp.experts.{i % 64}.down_proj.weight" for i in range(count)]
    data = np.random.default_rng(count).standard_normal((count, 4, 4)).astype(np.float32)
    record = '"%s":{"dtype":"F32","shape":[4,4],"data_offsets":[%d,%d]}'
    header = ",".join(record % (name, 64 * i, 64 * i + 64) for i, name in enumerate(names))
    return write(path, raw_safetensors("{" + header + "}", data.tobytes()))


def written(folder: Path, name: str) -> list[object]:
    """The options that write a report of each kind."""
    return [part for suffix in REPORTS for part in ("--report", folder / f"{name}.{suffix}")]


def check_reports(folder: Path, count: int, most: int) -> None:
    """Measure and judge `count` tensors, of which none passes, write reports of every kind, and read one back.

    None may take more than `most` bytes, nor more than rows and findings explain.
    """
    source = write_many(folder / "in.safetensors", count)
    budget = write(folder / "b.toml", b"[limits]\nmin_sqnr_db = 200\n")
    check = ("check", source, "--budget", budget, "--format", "none")
    allowed = min(peak_memory(*check, code=1) + count * ROW_BYTES + FIXED_BYTES, most)
    assert peak_memory(*check, *written(folder, "r"), code=1) < allowed
    assert peak_memory(*check, "--report", folder / "r.jsonl", "--per-channel", "--axis", 0, code=1) < allowed
    assert peak_memory("inspect", source, "--format", "none", "--report", folder / "list.json") < allowed
    assert peak_memory("stats", source, "--format", "none", "--report", folder / "read.json") < allowed
    again = written(folder, "again")
    assert peak_memory("render", folder / "read.json", "--format", "none", *again) < allowed


def test_reports_on_10_000_tensors(tmp_path: Path) -> None:
    check_reports(tmp_path, 10_000, ALLOWED)


@pytest.mark.slow
def test_reports_on_100_000_tensors(tmp_path: Path) -> None:
    check_reports(tmp_path, 100_000, ALLOWED)
