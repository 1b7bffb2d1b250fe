"""Places where a program may be started: no home, no network, few descriptors, folders that cannot be written."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qdqcli
from tests.cli.process import COMMAND, PATIENCE, environment, run_process
from tests.run.checkpoints import sample, write_safetensors, write_sparse

PACKAGE = Path(qdqcli.__file__).parent


def at_most(kind: int, limit: int) -> Callable[[], None]:
    """For a child: a limit that it cannot raise."""
    return lambda: resource.setrlimit(kind, (limit, limit))


def unshared(flags: str, script: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A shell script in namespaces of its own; `"$@"` is `qdq` with the arguments."""
    return subprocess.run(
        ["unshare", flags, "sh", "-c", script, "sh", *COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=3 * PATIENCE,  # where nothing is cached, kernels are compiled
        check=False,
    )


def can_unshare(flags: str) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", flags, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("home", [None, "/nonexistent/home", "/proc", ""])
def test_no_home_is_needed(tiny: Path, home: str | None) -> None:
    variables = environment(**({} if home is None else {"HOME": home}))
    for name in ("XDG_CACHE_HOME", "QDQ_CACHE_DIR", *(("HOME",) if home is None else ())):
        variables.pop(name, None)
    process = run_process("inspect", tiny, env=variables)
    assert (process.returncode, process.stderr) == (0, "")


def test_three_hundred_shards_need_no_more_than_32_descriptors(tmp_path: Path) -> None:
    folder, output = tmp_path / "model", tmp_path / "out"
    names = [f"model-{i:05}-of-00300.safetensors" for i in range(300)]
    for i, name in enumerate(names):
        write_safetensors(folder / name, {f"w{i}": sample((4,), seed=i)})
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for arguments in (("stats", folder), ("run", folder, "-o", output), ("compare", folder, output)):
        process = run_process(
            *arguments, "--format", "json", "--threads", 2, preexec_fn=at_most(resource.RLIMIT_NOFILE, 32)
        )
        assert process.returncode == 0, process.stderr
        assert len(json.loads(process.stdout)["tensors"]) == 300
    assert len(list(output.iterdir())) == 302


@pytest.mark.skipif(not can_unshare("-rn"), reason="no network namespaces here (unshare -rn)")
@pytest.mark.parametrize("command", ["run", "info"])
def test_no_network_is_needed(tiny: Path, tmp_path: Path, command: str) -> None:
    more = (tiny, "-o", tmp_path / "out.safetensors") if command == "run" else ()
    process = unshared("-rn", '"$@"', command, *more)
    assert (process.returncode, process.stderr.count("error")) == (0, 0), process.stderr


@pytest.mark.skipif(not can_unshare("-rm"), reason="no mount namespaces here (unshare -rm)")
def test_an_installation_and_a_home_that_cannot_be_written_are_enough(tmp_path: Path) -> None:
    """As in a container with a read-only root: nothing may be cached, and nothing is lost but time."""
    script = (
        f'mount --bind "{PACKAGE}" "{PACKAGE}" && mount -o remount,bind,ro "{PACKAGE}" && '
        f'! touch "{PACKAGE}/x" 2>/dev/null && exec "$@"'
    )
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    call = ("stats", source, "--format", "json")
    process = unshared("-rm", script, *call, HOME="/proc", XDG_CACHE_HOME="/proc/x", QDQ_CACHE_DIR="/proc/y")
    assert process.returncode == 0, process.stderr
    assert process.stdout == run_process(*call).stdout


# What cannot be imported


def broken(folder: Path, package: str, what: str) -> dict[str, str]:
    """An environment in which the package's import does something else."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(what + "\n")
    return environment(PYTHONPATH=str(folder))


@pytest.mark.parametrize(
    ("package", "what", "code"),
    [
        ("click", "raise ModuleNotFoundError('no such module')", 5),
        ("click", "raise OSError('Could not find/load shared object file')", 5),
        ("click", "raise MemoryError", 4),
        ("click", "raise ValueError('a\\nb\\x1b[2J')", 70),
        ("click", "this is no Python", 70),
        ("numba", "raise ImportError('Numba needs NumPy 2.3 or less')", 5),  # later, when a kernel is compiled
        ("numba", "raise RuntimeError('the unexpected')", 70),
    ],
)
def test_an_import_that_fails_is_one_line_and_never_exit_code_1(
    tiny: Path, tmp_path: Path, package: str, what: str, code: int
) -> None:
    process = run_process("stats", tiny, env=broken(tmp_path / "broken", package, what))
    assert process.returncode == code, process.stderr
    assert process.stdout == ""
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.splitlines()) == 1
    assert process.stderr[:-1].isprintable()


def test_debug_shows_the_traceback_of_an_import_that_fails(tiny: Path, tmp_path: Path) -> None:
    env = broken(tmp_path / "broken", "click", "raise RuntimeError('the unexpected')")
    process = run_process("stats", tiny, "--debug", env=env)
    assert process.returncode == 70
    assert "Traceback" in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: a bug in qdq")


# Memory and threads


@pytest.mark.faults
def test_too_little_memory_is_never_exit_code_1_and_leaves_nothing(tmp_path: Path) -> None:
    """Address space from too little for Python itself to more than enough."""
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((512, 1024))})
    output = tmp_path / "out.safetensors"
    codes = set()
    for mib in (64, 100, 150, 200, 300, 400, 500, *range(512, 900, 24)):
        process = run_process("run", source, "-o", output, preexec_fn=at_most(resource.RLIMIT_AS, mib << 20))
        codes.add(process.returncode)
        assert process.returncode in (0, 4, 5), (mib, process.stderr)
        assert process.stderr.count("error: ") == (process.returncode != 0)
        if process.returncode == 0:
            output.unlink()
        else:
            assert not output.exists(), mib
    assert codes >= {0, 5}, codes


def test_no_more_threads_is_exit_code_4(tmp_path: Path) -> None:
    script = (
        "import sys, threading; sys.argv = ['qdq', 'stats', sys.argv[1]]\n"
        'def refuse(*_): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\n"
        "from qdqcli.__main__ import main; main()"
    )
    source = write_sparse(tmp_path / "in.safetensors", (1 << 22,))
    process = subprocess.run(
        [sys.executable, "-c", script, str(source)], capture_output=True, text=True, env=environment(), check=False
    )
    assert process.returncode == 4, process.stderr
    assert "--threads" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no always-full device here")
@pytest.mark.parametrize(
    "arguments", [("stats", "FILE"), ("run", "FILE", "-o", "OUT"), ("check", "FILE", "--budget", "B")]
)
def test_both_streams_full_never_give_exit_code_1(tiny: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "b.toml").write_text("schema = 1\n[limits]\nmin_sqnr_db = 0\n")
    places = {"FILE": tiny, "OUT": tmp_path / "out.safetensors", "B": tmp_path / "b.toml"}
    with Path("/dev/full").open("w") as full:
        process = run_process(*(places.get(a, a) for a in arguments), stdout=full, stderr=full)
    assert process.returncode == 4
    if "OUT" in arguments:  # it was whole before the table was shown
        assert (tmp_path / "out.safetensors").stat().st_size == tiny.stat().st_size
    assert not (tmp_path / "out.safetensors.qdq-partial").exists()


# Limits: exit code 1 belongs to a verdict, whatever they are


def check_call(tmp_path: Path) -> tuple[object, ...]:
    """`qdq check` with a budget that is kept: what it wants to say with exit code 1 is not so."""
    source = write_safetensors(tmp_path / "in.safetensors", {"w": sample((4, 6))})
    (tmp_path / "b.toml").write_text("schema = 1\n[limits]\nmin_sqnr_db = 1\n")
    return "check", source, "--budget", tmp_path / "b.toml", "--format", "none"


def test_few_descriptors_are_named(tmp_path: Path) -> None:
    call = check_call(tmp_path)
    for limit in range(5, 10):
        process = run_process(*call, preexec_fn=at_most(resource.RLIMIT_NOFILE, limit))
        assert process.returncode in (0, 3, 4), (limit, process.stderr)
        assert process.stderr.count("error: ") == (process.returncode != 0), process.stderr
        assert process.returncode == 0 or "ulimit -n" in process.stderr
        assert process.stderr.count("\n") <= 1


def test_little_memory_for_data_is_never_exit_code_1(tmp_path: Path) -> None:
    """OpenBLAS calls `exit(1)`, LLVM `abort()`."""
    call = check_call(tmp_path)
    for mib in (8, 24, 32, 48, 64, 100, 150):
        process = run_process(*call, preexec_fn=at_most(resource.RLIMIT_DATA, mib << 20))
        assert process.returncode in (4, 5), (mib, process.stderr)
        assert process.stderr.count("\n") == process.stderr.count("error: ") == 1, process.stderr


def test_what_is_raised_where_nothing_reports_it_is_not_exit_code_1() -> None:
    """An error before the boundary is there, and a library that wants to exit."""
    errors = {"OSError('x')": 4, "MemoryError": 4, "SystemExit(1)": 70, "SyntaxError('a\\nb')": 70, "Unsayable": 4}
    for raised, code in errors.items():
        script = (
            "import sys\nsys.modules['qdqcli.cli.boundary'] = None\n"
            "class Unsayable(OSError):\n def __str__(self): raise MemoryError\n"
            f"import qdqcli.cli.signals as s\ndef fail(_): raise {raised}\ns.listen = fail\n"
            "from qdqcli.__main__ import main\nmain()"
        )
        process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert process.returncode == code, process.stderr
        assert process.stderr.startswith("error: ")
        assert len(process.stderr.splitlines()) == 1


@pytest.mark.skipif(not can_unshare("-rm"), reason="no mount namespaces here (unshare -rm)")
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_no_dev_and_closed_streams_are_no_failure(tmp_path: Path, closed: str) -> None:
    script = f'mount -t tmpfs none /dev && ! test -e /dev/null && exec "$@" {closed}'
    output = tmp_path / "out.safetensors"
    assert unshared("-rm", script, *check_call(tmp_path)).returncode == 0
    process = unshared("-rm", script, "run", tmp_path / "in.safetensors", "-o", output)
    assert process.returncode == 0, process.stderr
    assert output.stat().st_size == (tmp_path / "in.safetensors").stat().st_size


# What the environment says


BAD_SETTINGS = {
    "NUMBA_DISABLE_JIT": "1",
    "NUMBA_NUM_THREADS": "0",
    "NUMBA_OPT": "7",
    "NUMBA_BOUNDSCHECK": "yes",
    "NUMBA_CPU_FEATURES": "avx",
    "NUMBA_FUNCTION_CACHE_SIZE": "-4",
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_setting_that_numba_does_not_take_is_named(tiny: Path, name: str) -> None:
    process = run_process("stats", tiny, env=environment(**{name: BAD_SETTINGS[name], "QDQ_CACHE_DIR": ""}))
    assert process.returncode == 5, process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert f"{name}={BAD_SETTINGS[name]}" in process.stderr
    assert "unset" in process.stderr


@pytest.mark.parametrize(
    "variables",
    [{"_QDQ_COMPLETE": "bash_complete"}, {"_QDQ_COMPLETE": "x"},
     {"_QDQ_COMPLETE": "bash_complete", "COMP_WORDS": "qdq", "COMP_CWORD": "x"}],
)  # fmt: skip
def test_a_request_for_completions_without_its_words_is_exit_code_2(variables: dict[str, str]) -> None:
    process = run_process("info", env=environment(**variables))
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "_QDQ_COMPLETE" in process.stderr
    assert "unset" in process.stderr


def test_a_current_folder_that_is_gone_is_named(tiny: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f'mkdir "{gone}" && cd "{gone}" && rmdir "{gone}" && exec "$@"'
    process = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "run", str(tiny), "-o", "out.safetensors"],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(PACKAGE.parent)),
        check=False,
    )
    assert process.returncode == 4
    assert process.stderr == "error: the current folder no longer exists; change to another one\n"


def test_a_clock_that_stands_still_is_no_bug(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time\ntime.perf_counter = time.monotonic = time.time = lambda: 1.7e9\n"
        "sys.argv = ['qdq', *sys.argv[1:]]\nfrom qdqcli.__main__ import main\nmain()"
    )
    call = ["run", str(tiny), "-o", str(tmp_path / "out.safetensors"), "--verbose", "--format", "none"]
    process = subprocess.run(
        [sys.executable, "-c", script, *call], capture_output=True, text=True, env=environment(), check=False
    )
    assert process.returncode == 0, process.stderr
    assert " in 0.00 s, " in process.stderr
