"""Pipes, terminals, encodings, colours."""

import json
import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.cli.process import COMMAND, PATIENCE, environment, run_process
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors, write_sparse

ESCAPE = "\x1b["


def run_in_shell(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`$qdq` is the command, `$code` gets its exit code on stderr where the script says so."""
    script = f'qdq() {{ {" ".join(COMMAND)} "$@"; }}; {command}'
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("call", ["--help", "stats FILE", "stats FILE --format json", "info"])
def test_a_reader_that_has_gone_is_not_exit_code_1(tiny: Path, call: str) -> None:
    """`qdq ... | head` in a script with `pipefail`."""
    process = run_in_shell(f'qdq {call.replace("FILE", str(tiny))} | true; exit "${{PIPESTATUS[0]}}"')
    assert process.returncode == 0
    assert process.stderr == ""


def test_a_reader_that_goes_meanwhile_is_not_exit_code_1(tmp_path: Path) -> None:
    tensors = {f"w{i}": sample((4,), seed=i) for i in range(3000)}
    source = write_safetensors(tmp_path / "in.safetensors", tensors)
    process = run_in_shell(f'qdq inspect {source} --format jsonl | head -n 1; exit "${{PIPESTATUS[0]}}"')
    assert process.returncode == 0
    assert process.stderr == ""
    assert process.stdout.startswith('{"schema_version": 1')


@pytest.mark.parametrize(
    ("call", "output_format", "limit", "code"),
    [
        ("check TINY --axis -1", "table", 200, 1),
        ("check TINY --axis -1 --exit-zero", "table", 200, 0),
        ("check --report-in REPORT", "json", 1, 0),
        ("compare ONE OTHER", "github", 200, 1),
    ],
)
def test_a_verdict_holds_though_the_reader_has_gone(
    qdq: Qdq, tiny: Path, tmp_path: Path, call: str, output_format: str, limit: int, code: int
) -> None:
    """`qdq check ... | head -1`: exit code 1 is what a CI job waits for."""
    budget, report, summary = tmp_path / "b.toml", tmp_path / "r.json", tmp_path / "summary.md"
    budget.write_text(f"schema = 1\n[limits]\nmin_sqnr_db = {limit}\n")
    one, other = (write_safetensors(tmp_path / f"{n}.safetensors", {"w": sample((4, 6)) * n}) for n in (1, 1.001))
    qdq("stats", tiny, "--axis", -1, "--report", report)
    for name, path in {"TINY": tiny, "REPORT": report, "ONE": one, "OTHER": other}.items():
        call = call.replace(name, str(path))
    line = f"qdq {call} --budget {budget} --format {output_format}"
    process = run_in_shell(f'{line} | true; exit "${{PIPESTATUS[0]}}"', GITHUB_STEP_SUMMARY=str(summary))
    assert process.returncode == code
    assert "error" not in process.stderr
    assert summary.exists() is (output_format == "github")


@pytest.mark.parametrize("call", ["--help", "stats FILE"])
def test_a_closed_standard_output_is_no_bug(tiny: Path, call: str) -> None:
    process = run_in_shell(f"qdq {call.replace('FILE', str(tiny))} >&-")
    assert process.returncode in (0, 4)
    assert "bug" not in process.stderr


def test_all_streams_may_be_closed(tiny: Path, tmp_path: Path) -> None:
    """The files that are written then must not get a stream's descriptor."""
    output, report = tmp_path / "out.safetensors", tmp_path / "r.json"
    process = run_in_shell(f"qdq run {tiny} -o {output} --axis -1 --report {report} --verbose <&- >&- 2>&-")
    assert process.returncode == 0
    assert output.stat().st_size == tiny.stat().st_size
    assert json.loads(report.read_text())["command"] == "run"


@pytest.mark.parametrize(("call", "code"), [("stats FILE --axis -1", 0), ("stats nothing.npy", 3)])
def test_a_closed_standard_error_does_not_change_the_exit_code(tiny: Path, call: str, code: int) -> None:
    assert run_in_shell(f"qdq {call.replace('FILE', str(tiny))} 2>&-").returncode == code


def test_a_reader_of_standard_error_that_has_gone_is_not_exit_code_1(tiny: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        process = run_process("stats", tiny, "--axis", -1, stderr=write)
    finally:
        os.close(write)
    assert process.returncode == 0
    assert "SQNR" in process.stdout


def test_an_ascii_terminal_shows_what_it_can(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"gewöhnlich": sample((4, 6))})
    calls = [("stats", "table"), ("stats", "csv"), ("stats", "json"), ("inspect", "table"), ("inspect", "markdown")]
    for command, name in calls:
        process = run_process(
            command,
            source,
            "--format",
            name,
            env=environment(PYTHONIOENCODING="ascii", LC_ALL="C"),
            encoding="ascii",
        )
        assert process.returncode == 0, process.stderr
        assert "gew" in process.stdout


def test_an_ascii_terminal_shows_errors_and_help(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "ünï.safetensors", {"gewöhnlich": sample((4,))})
    ascii_only = environment(PYTHONIOENCODING="ascii", LC_ALL="C")
    process = run_process("stats", source, "--axis", 1, env=ascii_only, encoding="ascii")
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert "gew\\xf6hnlich" in process.stderr
    assert run_process("stats", "--help", env=ascii_only, encoding="ascii").returncode == 0


def test_colours_are_for_terminals(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    assert ESCAPE not in run_process("stats", source).stdout


def test_force_color_colours_a_pipe(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    assert ESCAPE in run_process("stats", source, env=environment(FORCE_COLOR="1")).stdout


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "markdown"])
def test_force_color_leaves_data_alone(tmp_path: Path, name: str) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    assert ESCAPE not in run_process("stats", source, "--format", name, env=environment(FORCE_COLOR="1")).stdout


def on_terminal(*arguments: object, **variables: str) -> tuple[str, str]:
    """What `qdq` writes to standard output and to standard error where both are terminals of 200 columns."""
    texts: list[bytes] = [b"", b""]
    pairs = [pty.openpty(), pty.openpty()]

    def drain(i: int) -> None:
        while True:
            try:
                data = os.read(pairs[i][0], 65536)
            except OSError:
                return
            if not data:
                return
            texts[i] += data

    readers = [threading.Thread(target=drain, args=(i,)) for i in range(2)]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=pairs[0][1],
        stderr=pairs[1][1],
        env=environment(TERM="xterm", COLUMNS="200", **variables),
    )
    for _, child_end in pairs:
        os.close(child_end)
    for reader in readers:
        reader.start()
    assert process.wait(PATIENCE) == 0
    for reader in readers:
        reader.join()
    for own_end, _ in pairs:
        os.close(own_end)
    return texts[0].decode(), texts[1].decode()


def test_a_terminal_gets_colours_and_a_progress_bar(tmp_path: Path) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (64 << 20,))
    out, err = on_terminal("stats", source)
    assert ESCAPE in out
    assert re.search(r"MB|MiB|bytes", err)


def test_no_color_ends_colours_on_a_terminal_too(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    out, err = on_terminal("stats", source, NO_COLOR="1")
    assert ESCAPE not in out
    assert err == ""


def test_no_color_wins_over_force_color(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    assert ESCAPE not in run_process("stats", source, env=environment(NO_COLOR="1", FORCE_COLOR="1")).stdout


def test_quiet_ends_the_progress_bar(tmp_path: Path) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (64 << 20,))
    assert on_terminal("stats", source, "--quiet")[1] == ""


def test_names_of_files_are_escaped_in_errors(qdq: Qdq, tmp_path: Path) -> None:
    outcome = qdq("stats", tmp_path / "a\x1b[2J\nb.npy")
    assert outcome.code == 3
    assert outcome.error.isprintable()
    assert len(outcome.err.splitlines()) == 1


def test_names_of_files_are_escaped_in_tables_and_notes(qdq: Qdq, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "a\x1b[2J.npy", np.zeros(3, "V2"))
    np.save(tmp_path / "b.npy", sample((3,)))
    outcome = qdq("stats", tmp_path / "*.npy")
    assert outcome.code == 0
    assert "--dtype bf16" in outcome.err
    assert "\x1b" not in outcome.out + outcome.err
