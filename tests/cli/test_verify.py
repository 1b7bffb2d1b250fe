"""`qdq run --verify`: what was written is read back; one wrong byte anywhere is found before OUTPUT has its name."""

import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from qdqcli.run import verify
from qdqcli.tensors.tensor import DTYPES
from tests.cli.test_output import contents
from tests.cli.test_resume import SETTINGS, partial_of, stopped
from tests.conftest import TINY, Qdq
from tests.run.checkpoints import write_safetensors
from tests.tensors.files import safetensors_bytes, write


def flip(path: Path, place: int) -> None:
    """Change a byte so that size and time tell nothing."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_verified_output_has_its_digests_in_the_report(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    plain = qdq("run", model, "-o", tmp_path / "plain", *SETTINGS)
    outcome = qdq("run", model, "-o", tmp_path / "out", *SETTINGS, "--verify")
    assert outcome.code == 0
    files = contents(tmp_path / "out")
    assert files == contents(tmp_path / "plain")
    del files["qdq.json"]
    report = outcome.report
    assert report.pop("verification") == {
        "num_files": len(files),
        "num_bytes": sum(map(len, files.values())),
        "num_opened_by_safetensors": 2,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    assert report == plain.report


def test_the_table_says_so(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    out = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--verify").out
    size = tiny.stat().st_size
    assert f"verified      1 file, {size:,} bytes read back, each as it must be; 1 opened with safetensors\n" in out
    assert "verified" not in qdq("run", tiny, "-o", tmp_path / "plain.safetensors").out


@pytest.mark.parametrize("kind", ["npz", "compressed npz", "npy", "bf16 npy", "fortran"])
def test_every_format_can_be_verified(qdq: Qdq, tmp_path: Path, kind: str) -> None:
    source, output = tmp_path / ("x.npz" if "npz" in kind else "x.npy"), tmp_path / "out"
    match kind:
        case "npz":
            np.savez(source, **{name: array for name, array in TINY.items() if array.dtype.kind != "V"})
        case "compressed npz":
            np.savez_compressed(source, a=TINY["wide"], b=TINY["position_ids"])
        case "npy":
            np.save(source, TINY["wide"])
        case "bf16 npy":
            np.save(source, TINY["layer.1.mlp.weight"])
        case _:
            np.save(source, np.asfortranarray(TINY["layer.0.mlp.weight"]))
    extra = ["--dtype", "bf16"] if kind == "bf16 npy" else []
    outcome = qdq("run", source, "-o", output, "--verify", "--format", "json", *extra)
    assert (outcome.code, list(outcome.report["verification"]["sha256"])) == (0, ["out"])


def spoiled(model: Path, output: Path, name: str, place: int) -> None:
    """A run that was killed when all was built, and one byte of a file that it finished."""
    lines = 2 + len(list(model.glob("*.safetensors")))
    assert stopped(lines, signal.SIGKILL, "run", model, "-o", output, *SETTINGS, small=False).returncode == -9
    flip(partial_of(output) / "result" / name, place)


@pytest.mark.parametrize("place", ["header", "first byte of a tensor", "last byte"])
def test_a_wrong_byte_in_a_shard_is_found(qdq: Qdq, model: Path, tmp_path: Path, place: str) -> None:
    output, name = tmp_path / "out", "model-00001-of-00002.safetensors"
    data = (model / name).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    # In the metadata, so that the header stays well formed.
    at = {"header": data.index(b'"pt"') + 1, "first byte of a tensor": header, "last byte": len(data) - 1}[place]
    spoiled(model, output, name, at)
    outcome = qdq("run", model, "-o", output, *SETTINGS, "--resume", "--verify")
    assert outcome.code == 4
    assert f"{name}: verification failed: " in outcome.error
    assert ("its header is not" if place == "header" else "is not what it must be at its byte") in outcome.error
    assert not output.exists()
    # The file counts as finished no more.
    again = qdq("run", model, "-o", output, *SETTINGS, "--resume", "--verify")
    whole = qdq("run", model, "-o", tmp_path / "whole", *SETTINGS, "--verify")
    assert (again.code, again.out) == (0, whole.out)
    assert contents(output) == contents(tmp_path / "whole")


def test_a_file_that_is_too_much_is_found(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    spoiled(model, output, "model-00001-of-00002.safetensors", -1)
    flip(partial_of(output) / "result" / "model-00001-of-00002.safetensors", -1)
    (partial_of(output) / "result" / "more.txt").write_text("words")
    outcome = qdq("run", model, "-o", output, *SETTINGS, "--resume", "--verify")
    assert outcome.code == 4
    assert "more.txt: verification failed: is not part of the output" in outcome.error
    shutil.rmtree(partial_of(output))


def test_an_output_that_got_its_name_before_can_be_verified(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    outcome = qdq("run", model, "-o", output, *SETTINGS)
    again = qdq("run", model, "-o", output, *SETTINGS, "--resume", "--verify")
    assert again.code == outcome.code == 0
    flip(output / "config.json", 0)
    assert qdq("run", model, "-o", output, *SETTINGS, "--resume", "--verify").code == 2
    shutil.rmtree(partial_of(output), ignore_errors=True)


def test_a_dry_run_has_nothing_to_verify(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--dry-run", "--verify")
    assert outcome.code == 2
    assert "--dry-run writes nothing" in outcome.error


def test_a_stored_report_keeps_the_verification(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--verify", "--report", report)
    rendered = qdq("render", report, "--format", "json")
    assert rendered.out == report.read_text()
    assert "verified" in qdq("render", report).out


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda path: write_safetensors(path, dict(list(TINY.items())[1:])), "is missing for safetensors"),
        (lambda path: write_safetensors(path, {**TINY, "more": TINY["wide"]}), f"finds {len(TINY) + 1} tensors"),
        (lambda path: write_safetensors(path, {**TINY, "wide": TINY["scalar"]}), "'wide' is another for safetensors"),
        (lambda path: path.write_bytes(b"?"), "the safetensors library refuses it"),
    ],
)
def test_the_library_must_find_the_same_tensors(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Callable[[Path], object], words: str
) -> None:
    """Shown another file than the one that was written, it does not."""
    other = tmp_path / "other.safetensors"
    found(other)
    monkeypatch.setattr(verify, "safe_open", lambda _, framework: safe_open(other, framework))
    output = tmp_path / "out.safetensors"
    outcome = qdq("run", tiny, "-o", output, "--verify")
    assert outcome.code == 4
    assert words in outcome.error
    assert not output.exists()
    shutil.rmtree(partial_of(output))


def test_the_library_opens_every_dtype_of_its_format(qdq: Qdq, tmp_path: Path) -> None:
    """And a file whose name is not UTF-8."""
    dtypes = {name: (name, (2, 4)) for name in DTYPES}
    source = write(tmp_path / os.fsdecode(b"in\xff.safetensors"), safetensors_bytes(dtypes))
    outcome = qdq("run", source, "-o", tmp_path / os.fsdecode(b"out\xff.safetensors"), "--verify", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert outcome.report["verification"]["num_opened_by_safetensors"] == 1
