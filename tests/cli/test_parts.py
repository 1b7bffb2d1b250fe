"""Runs in parts: any order, at once, again after failures; the output and the report of a run in one piece."""

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qdqcli.cli.part import part_of_scheduler
from qdqcli.errors import UsageError
from qdqcli.output.tree import OutputTree
from qdqcli.run.parts import Part
from qdqcli.run.pipeline import ShardJob
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.cli.test_output import contents
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

PAGE = Path(__file__).parents[2] / "qdqcli" / "docs" / "ci.md"
SETTINGS = ("--scheme", "int4-g4", "--indivisible", "channel")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Five shards of other sizes and dtypes, an array, and side files."""
    folder = tmp_path / "sharded"
    for i in range(5):
        tensors = {f"{i}.w": sample((8 * i + 4, 16), ["F32", "BF16"][i % 2], i), f"{i}.b": sample((9,), seed=i)}
        write_safetensors(folder / f"model-{i}.safetensors", tensors)
    np.save(folder / "extra.npy", sample((16, 16)))
    (folder / "sub").mkdir()
    (folder / "sub" / "vocabulary.txt").write_text("x")
    return folder


def report_of(qdq: Qdq, source: Path, output: Path, *options: object) -> dict[str, Any]:
    outcome = qdq("run", source, "-o", output, *SETTINGS, "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    return outcome.report


@pytest.mark.parametrize("order", [[1], [2, 1], [3, 1, 3, 2], [5, 2, 9, 1, 7, 4, 8, 3, 6]], ids=str)
def test_parts_in_any_order_are_a_run_in_one_piece(
    qdq: Qdq, sharded: Path, tmp_path: Path, order: Sequence[int]
) -> None:
    expected = report_of(qdq, sharded, tmp_path / "whole", "--verify")
    for number in order:
        part = qdq("run", sharded, "-o", tmp_path / "out", *SETTINGS, "--part", f"{number}/{max(order)}")
        assert (part.code, part.out) == (0, ""), part.err
        assert part.err.startswith(f"part {number}/{max(order)}: ")
        assert part.err.endswith(f"when all parts are done: qdq finish {tmp_path / 'out'}\n")
        assert not (tmp_path / "out").exists()
    finished = qdq("finish", tmp_path / "out", "--verify", "--format", "json")
    assert finished.code == 0, finished.err
    assert finished.report == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["out.safetensors", "out"])
def test_a_file_and_a_batch_in_parts(qdq: Qdq, sharded: Path, tiny: Path, tmp_path: Path, name: str) -> None:
    inputs = [tiny] if name.endswith(".safetensors") else [sharded, tiny]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    whole = qdq("run", *inputs, "-o", tmp_path / "one" / name, "--provenance", "--format", "json")
    for part in ("2/2", "1/2"):
        assert qdq("run", *inputs, "-o", tmp_path / "two" / name, "--part", part).code == 0
    finished = qdq("finish", tmp_path / "two" / name, "--provenance", "--format", "json")
    assert finished.report == whole.report
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_several_parts_at_once(qdq: Qdq, sharded: Path, tmp_path: Path) -> None:
    report_of(qdq, sharded, tmp_path / "whole")
    command = [sys.executable, "-m", "qdqcli", "run", sharded, "-o", tmp_path / "out", *SETTINGS, "--threads", "1"]
    parts = [
        subprocess.Popen([*command, "--part", part], stderr=subprocess.PIPE) for part in ("1/2", "2/2", "1/3", "3/3")
    ]
    for part in parts:
        _, error = part.communicate(timeout=300)
        assert part.returncode == 0, error
    assert qdq("finish", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_missing_is_named_and_what_is_done_is_kept(qdq: Qdq, sharded: Path, tmp_path: Path) -> None:
    report_of(qdq, sharded, tmp_path / "whole")
    arguments = ("run", sharded, "-o", tmp_path / "out", *SETTINGS)
    assert qdq(*arguments, "--part", "2/3").code == 0
    refused = qdq("finish", tmp_path / "out")
    assert refused.code == 4
    assert f"{tmp_path / 'out'}: 3 of 6 files are not made yet, '{sharded}" in refused.error
    assert refused.error.endswith("run their parts again (what is done is skipped), then qdq finish")
    again = qdq(*arguments, "--part", "1/1")
    assert again.err.startswith("part 1/1: 6 files made, 3 of them before, in ")
    assert qdq("finish", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    twice = qdq("finish", tmp_path / "out")
    assert (twice.code, "exists, and no parts are left to finish" in twice.error) == (2, True)


def test_a_resumed_run_ends_a_run_in_parts(qdq: Qdq, sharded: Path, tmp_path: Path) -> None:
    expected = report_of(qdq, sharded, tmp_path / "whole")
    assert qdq("run", sharded, "-o", tmp_path / "out", *SETTINGS, "--part", "1/2").code == 0
    assert report_of(qdq, sharded, tmp_path / "out", "--resume") == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_file_that_fails_stops_no_other(
    qdq: Qdq, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_of(qdq, sharded, tmp_path / "whole")
    arguments = ("run", sharded, "-o", tmp_path / "out", *SETTINGS, "--part", "1/1")
    original = ShardJob.run

    def fail(job: ShardJob) -> Any:
        if job.plan.shard.name == "model-2.safetensors":
            raise UsageError("2.w: broken")
        return original(job)

    with monkeypatch.context() as patched:
        patched.setattr(ShardJob, "run", fail)
        failed = qdq(*arguments)
    assert (failed.code, failed.error) == (2, "error: 2.w: broken")
    assert "1 of 6 files are not made yet" in qdq("finish", tmp_path / "out").error
    assert qdq(*arguments).err.startswith("part 1/1: 6 files made, 5 of them before")
    assert qdq("finish", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["output", "rows", "torn"])
def test_what_is_damaged_is_made_again(qdq: Qdq, sharded: Path, tmp_path: Path, damage: str) -> None:
    report_of(qdq, sharded, tmp_path / "whole")
    arguments = ("run", sharded, "-o", tmp_path / "out", *SETTINGS, "--part", "1/1")
    assert qdq(*arguments).code == 0
    partial = tmp_path / "out.qdq-partial"
    if damage == "output":
        os.truncate(partial / "result" / "model-3.safetensors", 100)
    elif damage == "rows":
        (partial / "rows" / "3.json").unlink()
    else:
        os.truncate(partial / "rows" / "3.json", 50)
    (partial / "result" / ".qdq-0123456789abcdef-0123456701234567.tmp").write_text("of a part that was killed")
    assert qdq("finish", tmp_path / "out").code == 4
    assert qdq(*arguments).err.startswith("part 1/1: 6 files made, 5 of them before")
    assert qdq("finish", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_settings_and_inputs_are_refused(qdq: Qdq, sharded: Path, tmp_path: Path) -> None:
    arguments = ("run", sharded, "-o", tmp_path / "out", *SETTINGS)
    assert qdq(*arguments, "--part", "1/2").code == 0
    other = qdq(*arguments, "--part", "2/2", "-b", 5)
    assert other.code == 2
    assert other.error.endswith(
        "cannot join the other parts: num_bits was 4 and is 5; give all parts the same input and settings"
    )
    np.save(sharded / "extra.npy", sample((17, 16)))
    assert "input file 'extra.npy' has changed" in qdq(*arguments, "--part", "2/2").error
    assert "input file 'extra.npy' has changed" in qdq("finish", tmp_path / "out").error
    assert qdq(*arguments).code == 0  # without --resume a run starts over


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--part", "0/2"), "'0/2' is not auto, or I/N with I from 1 to N, e.g. 3/16"),
        (("--part", "3/2"), "'3/2' is not auto"),
        (("--part", "2"), "'2' is not auto"),
        (("--part", "auto"), "neither SLURM_ARRAY_TASK_ID (a Slurm array) nor JOB_COMPLETION_INDEX"),
        (("--part", "1/2", "--report", "x.json"), "--report is not for a part; give it to qdq finish"),
        (("--part", "1/2", "--verify"), "--verify is not for a part"),
        (("--part", "1/2", "--keep-going"), "--keep-going is not for a part; leave out one"),
    ],
)
def test_usage(qdq: Qdq, tiny: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    outcome = qdq("run", tiny, "-o", tmp_path / "out.safetensors", *options)
    assert (outcome.code, words in outcome.error) == (2, True), outcome.err


def test_a_run_that_was_begun_whole_is_not_joined(
    qdq: Qdq, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", sharded, "-o", tmp_path / "out", *SETTINGS)
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise UsageError("stop")

        patched.setattr(OutputTree, "copy_side_files", fail)
        assert qdq(*arguments).code == 2
    joined = qdq(*arguments, "--part", "1/2")
    assert (joined.code, joined.error.endswith("go on with --resume, without --part")) == (2, True)
    assert "there is no run in parts to finish" in qdq("finish", tmp_path / "out").error
    assert qdq(*arguments, "--resume").code == 0


def test_a_part_keeps_others_out_that_are_alone(qdq: Qdq, sharded: Path, tmp_path: Path) -> None:
    arguments = ("run", sharded, "-o", tmp_path / "out", *SETTINGS)
    assert qdq(*arguments, "--part", "1/1").code == 0
    with OutputTree([open_checkpoint(sharded)], tmp_path / "out", is_part=True):
        assert qdq(*arguments, "--part", "1/2").code == 0
        for other in (("finish", tmp_path / "out"), (*arguments, "--resume")):
            assert "another run is writing here" in qdq(*other).error
    with OutputTree([open_checkpoint(sharded)], tmp_path / "out", resume=True) as alone:
        alone.is_kept = True
        assert "another run is writing here" in qdq(*arguments, "--part", "1/2").error
        alone.suspend()
    assert qdq(*arguments, "--part", "1/1").code == 0
    assert qdq("finish", tmp_path / "out").code == 0


def test_parts_on_a_disk_without_locks(
    qdq: Qdq, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    report_of(qdq, sharded, tmp_path / "whole")
    monkeypatch.setattr(fcntl, "flock", refuse)
    for part in ("2/2", "1/2"):
        assert qdq("run", sharded, "-o", tmp_path / "out", *SETTINGS, "--part", part).code == 0
    assert qdq("finish", tmp_path / "out").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_last_step_judges(qdq: Qdq, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    for limit, code in ((60, 1), (1, 0)):
        (tmp_path / "elsewhere" / "budget.toml").write_text(f"[limits]\nmin_sqnr_db = {limit}\n")
        monkeypatch.chdir(tmp_path)
        assert qdq("run", sharded.name, "-o", f"out{limit}", *SETTINGS, "--part", "1/1").code == 0
        monkeypatch.chdir(tmp_path / "elsewhere")
        finished = qdq("finish", f"../out{limit}", "--budget", "budget.toml", "--report", "r.json", "--format", "json")
        assert finished.code == code, finished.err
        assert finished.report["verdict"]["passed"] == (code == 0)
        assert json.loads((tmp_path / "elsewhere" / "r.json").read_text()) == finished.report
        assert (tmp_path / f"out{limit}" / "model-0.safetensors").exists()


def test_a_folder_of_the_parts_that_is_not_seen_is_named(
    qdq: Qdq, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out = tmp_path / "out.safetensors"
    assert qdq("run", tiny, "-o", out, "--part", "1/1").code == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rmdir()
    refused = qdq("finish", out)
    assert (refused.code, f"{tmp_path / 'here'}: No such file or directory" in refused.error) == (4, True)
    (tmp_path / "here").mkdir()
    assert qdq("finish", out).code == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_parts_are_balanced_and_make_each_file_once(count: int) -> None:
    sizes = [int(size) for size in np.random.default_rng(count).integers(1, 1000, 30)]
    chosen = [Part(number, count).choose(sizes) for number in range(1, count + 1)]
    assert sorted(index for own in chosen for index in own) == list(range(30))
    loads = [sum(sizes[index] for index in own) for own in chosen]
    assert max(loads) - min(loads) <= max(sizes)


SLURM = "SLURM_ARRAY_TASK_"


def slurm(task: int, count: int, first: int, last: int, **others: object) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": first, "MAX": last, **others}
    return {f"{SLURM}{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (slurm(1, 16, 1, 16), (1, 16)),
        (slurm(0, 16, 0, 15), (1, 16)),
        (slurm(15, 16, 0, 15), (16, 16)),
        (slurm(7, 3, 3, 11, STEP=4), (2, 3)),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "16"}, (1, 16)),
        ({"JOB_COMPLETION_INDEX": "15", "JOB_COMPLETIONS": "16"}, (16, 16)),
        (slurm(7, 2, 3, 7), '--part "$SLURM_ARRAY_TASK_ID/N"'),
        ({f"{SLURM}ID": "1"}, "SLURM_ARRAY_TASK_COUNT is '', not a number"),
        ({"JOB_COMPLETION_INDEX": "0"}, "add it to the container's env with the value of spec.completions"),
        ({"JOB_COMPLETION_INDEX": "4", "JOB_COMPLETIONS": "4"}, "the index must be less"),
    ],
    ids=str,
)
def test_the_scheduler_says_which_part_this_is(environment: dict[str, str], expected: tuple[int, int] | str) -> None:
    if isinstance(expected, tuple):
        assert part_of_scheduler(environment) == expected
        return
    with pytest.raises(UsageError, match=re.escape(expected)):
        part_of_scheduler(environment)


def block(language: str, start: str) -> str:
    """The block of the page that starts with these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (found,) = [text for text in blocks if text.startswith(start)]
    return found


@pytest.fixture
def data(qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Check that the calls of a page give, in a folder with `model`, what a run in one piece gives."""
    folder = tmp_path / "data"
    for i in range(3):
        write_safetensors(folder / "model" / f"model-{i}.safetensors", {f"{i}.w": sample((4, 256), seed=i)})
    monkeypatch.chdir(folder)

    def check(finish: Sequence[str]) -> None:
        assert qdq(*finish[1:]).code == 0
        assert qdq("run", "model", "-o", "whole", "--scheme", "int4-g128", "--report", "whole.json").code == 0
        assert contents(folder / "model-int4") == contents(folder / "whole")
        found, expected = (json.loads((folder / name).read_text()) for name in ("loss.json", "whole.json"))
        assert {**found, "inputs": [], "tensors": []} == {**expected, "inputs": [], "tensors": []}

    return check


def test_the_slurm_script_of_the_manual(qdq: Qdq, data: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    script = block("sh", "#!/bin/bash")
    first, last = map(int, re.findall(r"--array=(\d+)-(\d+)", script)[0])
    threads = re.findall(r"--cpus-per-task=(\d+)", script)[0]
    (line,) = [line for line in script.splitlines() if line.startswith("qdq ")]
    for task in reversed(range(first, last + 1)):
        for name, value in slurm(task, last - first + 1, first, last).items():
            monkeypatch.setenv(name, value)
        outcome = qdq(*shlex.split(line.replace("$SLURM_CPUS_PER_TASK", threads))[1:])
        assert outcome.code == 0, outcome.err
    data(shlex.split(re.findall(r'--wrap "(.*)"', block("sh", "job="))[0]))


def test_the_kubernetes_job_of_the_manual(qdq: Qdq, data: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load(block("yaml", "apiVersion: batch/v1"))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert (job["completionMode"], job["parallelism"]) == ("Indexed", job["completions"])
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment == {"JOB_COMPLETIONS": str(job["completions"])}
    for index in range(job["completions"]):
        for name, value in (environment | {"JOB_COMPLETION_INDEX": str(index)}).items():
            monkeypatch.setenv(name, value)
        outcome = qdq(*(word.removeprefix("/data/") for word in container["command"][1:]))
        assert outcome.code == 0, outcome.err
    (finish,) = re.findall(r"command: \[(qdq, finish, .*?)\]", PAGE.read_text(encoding="utf-8"))
    data([word.removeprefix("/data/") for word in finish.split(", ")])
