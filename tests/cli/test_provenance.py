"""`qdq.json`: how an output was made, the same for two runs, by which a run that resumes knows that all is done."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import qdqcli
from qdqcli.run import write
from tests.cli.test_output import contents
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

SETTINGS = ("--axis", 0, "--num-bits", 5)


def digests(folder: Path, *, but: str = "") -> dict[str, dict[str, object]]:
    return {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents(folder).items()
        if name != but
    }


def provenance(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


def test_a_folder_says_how_it_was_made(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    report = qdq("run", model, "-o", tmp_path / "out", *SETTINGS, "--format", "json").report
    found = provenance(tmp_path / "out" / "qdq.json")
    assert found["tool"] == {"name": "qdq", "version": qdqcli.__version__}
    assert found["simulated"] is True
    assert found["settings"] == report["settings"]
    assert found["recipe"] is None
    assert found["inputs"] == [{"name": "model", "files": digests(model)}]
    assert found["outputs"] == digests(tmp_path / "out", but="qdq.json")
    assert found["summary"] == report["summary"]


def test_two_runs_say_the_same_wherever_the_files_are(
    qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that the user did not want to publish: no folder above the input, no host, no time."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "embed"\nnum_bits = 3\n')
    assert qdq("run", model, "-o", tmp_path / "out", "--recipe", recipe, "--threads", 1).code == 0
    (tmp_path / "moved").mkdir()
    for path in (model, recipe):
        path.rename(tmp_path / "moved" / path.name)
    monkeypatch.chdir(tmp_path / "moved")
    os.utime("model/config.json", (0, 0))
    assert qdq("run", "./model", "-o", "out", "--recipe", "recipe.toml", "--threads", 3).code == 0
    text = (tmp_path / "out" / "qdq.json").read_text()
    assert Path("out/qdq.json").read_text() == text
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text or os.uname().nodename in str(json.loads(text)["settings"])
    assert json.loads(text)["recipe"]["recipe"] == "recipe.toml"
    assert json.loads(text)["recipe"]["rules"][0]["num_bits"] == 3


def test_several_inputs_have_one_file(qdq: Qdq, tiny: Path, model: Path, tmp_path: Path) -> None:
    assert qdq("run", tiny, model, "-o", tmp_path / "out").code == 0
    found = provenance(tmp_path / "out" / "qdq.json")
    assert [entry["name"] for entry in found["inputs"]] == ["tiny.safetensors", "model"]  # type: ignore[attr-defined]
    assert found["outputs"] == digests(tmp_path / "out", but="qdq.json")
    assert not (tmp_path / "out" / "model" / "qdq.json").exists()


def test_a_file_says_it_where_that_is_asked_for(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    output, beside = tmp_path / "out.safetensors", tmp_path / "out.safetensors.qdq.json"
    assert qdq("run", tiny, "-o", output).code == 0
    assert not beside.exists()
    beside.write_text("precious")
    refused = qdq("run", tiny, "-o", tmp_path / "out.safetensors", "--overwrite", "--provenance", "--report", beside)
    assert refused.code == 2
    output.unlink()
    assert qdq("run", tiny, "-o", output, "--provenance").code == 2
    assert beside.read_text() == "precious"
    beside.unlink()
    assert qdq("run", tiny, "-o", output, "--provenance").code == 0
    data = output.read_bytes()
    found = provenance(beside)
    assert found["outputs"] == {output.name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, beside.name, tiny.name]


def test_what_a_removed_output_left_is_no_output(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    arguments = ("run", tiny, "-o", tmp_path / "out.safetensors", "--provenance", "--format", "none")
    assert qdq(*arguments).code == 0
    (tmp_path / "out.safetensors").unlink()
    assert qdq(*arguments, "--resume").code == 0
    assert (tmp_path / "out.safetensors").exists()


def test_the_file_of_an_input_is_not_taken_over(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    assert qdq("run", model, "-o", tmp_path / "first", *SETTINGS).code == 0
    again = qdq("run", tmp_path / "first", "-o", tmp_path / "second", "--num-bits", 4)
    assert again.code == 0
    assert f"{tmp_path}/first/qdq.json: not copied: the input was written by qdq run" in again.err
    assert provenance(tmp_path / "second" / "qdq.json")["settings"]["num_bits"] == 4  # type: ignore[index]
    (model / "qdq.json").write_text('{"mine": 1}')
    refused = qdq("run", model, "-o", tmp_path / "third")
    assert refused.code == 2
    assert f"{model}/qdq.json: has the name of a file that OUTPUT gets; rename it" in refused.error


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shard is written from now on."""

    def fail(*_: object) -> None:
        raise AssertionError("a shard is written")

    monkeypatch.setattr("qdqcli.output.tree.OutputTree.create", fail)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_finished_output_is_recognised_without_writing(
    qdq: Qdq, model: Path, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    source, output = (model, tmp_path / "out") if kind == "folder" else (tiny, tmp_path / "out.safetensors")
    arguments = ("run", source, "-o", output, *SETTINGS, "--format", "json", "--provenance")
    first = qdq(*arguments)
    request.getfixturevalue("unwritten")
    again = qdq(*arguments, "--resume")
    assert (again.code, again.out) == (0, first.out)
    assert again.err == f"note: {output}: is finished already, nothing is written\n"
    verified = qdq(*arguments, "--resume", "--verify")
    assert (verified.code, "verification" in verified.report) == (0, True)


def test_where_no_report_is_wanted_nothing_is_even_measured(
    qdq: Qdq, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", model, "-o", tmp_path / "out", "--format", "none")
    assert qdq(*arguments).code == 0
    monkeypatch.setattr(write, "measure_plans", None)
    assert qdq(*arguments, "--resume").code == 0


CHANGES = ("setting", "input data", "input name", "output data", "output file more", "output file less", "marker")


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_the_same_to_the_last_byte_is_not_recognised(
    qdq: Qdq, model: Path, tmp_path: Path, request: pytest.FixtureRequest, change: str
) -> None:
    """Also where sizes, names and times tell nothing."""
    output, settings = tmp_path / "out", [*SETTINGS]
    assert qdq("run", model, "-o", output, *SETTINGS).code == 0
    shard = sorted(model.glob("*.safetensors"))[0].name
    match change:
        case "setting":
            settings[-1] = 6
        case "input data":
            flip(model / shard)
        case "input name":
            model = model.rename(tmp_path / "other")
        case "output data":
            flip(output / shard)
        case "output file more":
            (output / "more.txt").touch()
        case "output file less":
            (output / "config.json").unlink()
        case _:
            (output / "qdq.json").write_text("[]")
    request.getfixturevalue("unwritten")
    again = qdq("run", model, "-o", output, *settings, "--resume")
    assert "is finished already" not in again.err
    if change == "setting":
        assert again.error.startswith(f"error: {output}: was made with other settings: num_bits was 5 and is 6; ")
        assert not list(tmp_path.glob("*.qdq-partial"))
    else:
        assert again.code == 70, "it began to write"


def flip(path: Path) -> None:
    """Change the last byte, and nothing else that can be seen."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_folder_of_gradients_says_it_too(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    assert qdq("grad", model, model, "-o", tmp_path / "out").code == 0
    found = provenance(tmp_path / "out" / "qdq.json")
    assert found["command"] == "grad"
    assert [entry["files"] for entry in found["inputs"]] == [digests(model)] * 2  # type: ignore[attr-defined]
    assert found["outputs"] == digests(tmp_path / "out", but="qdq.json")
    assert found["summary"]["num_tensors"] > 0  # type: ignore[index]
    assert qdq("grad", model, model, "-o", tmp_path / "out", "--overwrite").code == 0


def test_private_inputs_keep_it_private(qdq: Qdq, tmp_path: Path) -> None:
    for name, mode in (("open", 0o755), ("closed", 0o700)):
        write_safetensors(tmp_path / name / "w.safetensors", {"w": sample((4, 6))})
        (tmp_path / name).chmod(mode)
        assert qdq("run", tmp_path / name, "-o", tmp_path / f"{name}-out").code == 0
    assert (tmp_path / "open-out" / "qdq.json").stat().st_mode & 0o077
    assert not (tmp_path / "closed-out" / "qdq.json").stat().st_mode & 0o077


def test_names_that_are_no_text_are_kept(qdq: Qdq, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / os.fsdecode(b"\xff.npy"), sample((4, 6)))
    arguments = ("run", folder, "-o", tmp_path / "out", "--format", "none")
    assert qdq(*arguments).code == 0
    assert "is finished already" in qdq(*arguments, "--resume").err
