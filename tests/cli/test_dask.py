"""`--dask` with a real scheduler and real workers on loopback: the bytes and the report of a local run."""

import ctypes
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

import qdqcli
from qdqcli.run import cluster
from qdqcli.run.cluster import _Answer, _compare, risk_of
from tests.cli.process import heed_signals
from tests.cli.test_output import contents
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors
from tests.tensors.packed.golden import GOLDEN

pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of the library's, closed by its thread
ROOT = Path(__file__).parents[2]
SECONDS = 120.0
NUM_SHARDS = 8
SETTINGS = ("--scheme", "int4-g16", "--max-memory", "16MiB")


class Cluster:
    """A scheduler and workers as users start them, each a process."""

    def __init__(self, folder: Path, num_workers: int = 2) -> None:
        self.file = folder / "scheduler.json"
        self._folder = folder
        arguments = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self.file, "--no-dashboard"]
        self.scheduler = self._start(*arguments)
        self.workers = [self.add_worker() for _ in range(num_workers)]

    def add_worker(self) -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        return self._start("worker", "--scheduler-file", self.file, *options)

    def replace_dead(self) -> None:
        """Start a worker for each that was killed."""
        for k, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[k] = self.add_worker()

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def _start(self, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *map(str, arguments)]
        environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(self._folder)}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, preexec_fn=end_with_the_tests
        )

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def end_with_the_tests() -> None:
    """Let the kernel kill this process with its parent: tests that are killed run no fixture."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


PR_SET_PDEATHSIG = 1


@contextmanager
def cluster_in(folder: Path, num_workers: int = 2) -> Iterator[Cluster]:
    folder.mkdir(exist_ok=True)
    started = Cluster(folder, num_workers)
    try:
        wait_until(lambda: started.file.exists() and started.file.stat().st_size > 0)
        yield started
    finally:
        started.close()


def wait_until(condition: Any) -> None:
    end = monotonic() + SECONDS
    while not condition():
        assert monotonic() < end, "too slow"
        sleep(0.02)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of two workers; a test that kills one starts another."""
    with cluster_in(tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 60.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what killed processes leave goes with the test


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for i in range(NUM_SHARDS):
        write_safetensors(folder / f"model-{i}.safetensors", {f"{i}.w": sample((64, 512), ["F32", "BF16"][i % 2], i)})
    np.save(folder / "extra.npy", sample((16, 16)))
    (folder / "config.json").write_text("{}")
    return folder


def test_bytes_and_reports_are_those_of_a_local_run(
    qdq: Qdq, shared: Cluster, source: Path, model: Path, tmp_path: Path
) -> None:
    options = ("--format", "json", "--per-channel")
    for inputs, settings in (([source], SETTINGS), ([model, source], ("--axis", "0", "--estimator", "mse"))):
        expected = qdq("run", *inputs, "-o", tmp_path / "local", *settings, *options, "--verify", "--overwrite")
        far = ("run", *inputs, "-o", tmp_path / "far", *settings, *options, "--verify", "--overwrite")
        found = qdq(*far, "--dask", shared.file)
        assert (found.code, expected.code) == (0, 0), found.err
        assert found.report == expected.report
        assert contents(tmp_path / "far") == contents(tmp_path / "local")
    (tmp_path / "budget.toml").write_text("[limits]\nmin_sqnr_db = 60\n")
    for command in (("stats", source), ("check", source, "--budget", tmp_path / "budget.toml")):
        expected = qdq(*command, *SETTINGS, "--format", "json")
        found = qdq(*command, *SETTINGS, "--format", "json", "--dask", shared.address)
        assert (found.code, found.out) == (expected.code, expected.out), found.err
        assert found.code == (command[0] == "check")


def test_studies_are_those_of_a_local_run(qdq: Qdq, shared: Cluster, source: Path, model: Path, tmp_path: Path) -> None:
    options = ("--format", "json", "--max-memory", "16MiB")
    assert qdq("run", source, "-o", tmp_path / "int4", *SETTINGS).code == 0
    plan = ("plan", source, "-o", tmp_path / "plan.toml", "--overwrite", "--avg-bits", "6", "--group-size", "16")
    diagnose = ("diagnose", source, "--num-bits", "4")
    sweep = ("sweep", model, source, "--scheme", "int4-channel", "--scheme", "int3-g16", "--estimator", "minmax,mse")
    compare = ("compare", source, tmp_path / "int4", "--report", tmp_path / "page.html")
    for command in (sweep, compare, plan, diagnose):
        expected = qdq(*command, *options)
        pages = {path: path.read_bytes() for path in tmp_path.glob("*.html")}
        found = qdq(*command, *options, "--dask", shared.file)
        assert (found.code, found.out) == (expected.code, expected.out), found.err
        assert found.code == 0
        assert {path: path.read_bytes() for path in tmp_path.glob("*.html")} == pages
    for suffix in ("safetensors", "json"):
        calibrate = ("calibrate", model, source, "--scheme", "int4-channel", "--estimator", "mse", *options, "-o")
        expected = qdq(*calibrate, tmp_path / f"here.{suffix}")
        found = qdq(*calibrate, tmp_path / f"there.{suffix}", "--dask", shared.file)
        assert (found.code, expected.code, found.out) == (0, 0, expected.out), (found.err, expected.err)
        assert (tmp_path / f"there.{suffix}").read_bytes() == (tmp_path / f"here.{suffix}").read_bytes()
    assert not list(tmp_path.glob("*.qdq-partial"))


def test_packed_weights_are_decoded_by_the_workers(qdq: Qdq, shared: Cluster) -> None:
    folder = GOLDEN / "gptq"
    for command in (
        ("stats", folder / "packed", "--from-packed"),
        ("compare", folder / "decoded.safetensors", folder / "packed"),
    ):
        expected = qdq(*command, "--format", "json")
        found = qdq(*command, "--format", "json", "--dask", shared.file)
        assert (found.code, found.out) == (expected.code, expected.out), found.err
        assert found.code == 0


def test_the_same_in_python(shared: Cluster, source: Path, tmp_path: Path) -> None:
    address = str(shared.file)
    settings: Any = {"scheme": "int4-g16", "max_memory": 16 << 20}
    here = qdqcli.run(source, tmp_path / "here", **settings)
    there = qdqcli.run(source, tmp_path / "there", dask=address, **settings)
    assert (
        there.to_json()
        == here.to_json()
        == qdqcli.measure(source, dask=address, **settings).to_json() | {"command": "run"}
    )
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    pair = source, tmp_path / "here"
    assert qdqcli.compare(*pair, dask=address).to_json() == qdqcli.compare(*pair).to_json()
    schemes = ["int4-channel", "int8"]
    assert qdqcli.sweep(source, schemes, dask=address).to_json() == qdqcli.sweep(source, schemes).to_json()


def test_a_batch_has_one_cluster(
    qdq: Qdq, shared: Cluster, source: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    start = cluster.Dask.__init__

    def count(self: cluster.Dask, *arguments: Any) -> None:
        starts.append(arguments)
        start(self, *arguments)

    monkeypatch.setattr(cluster.Dask, "__init__", count)
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    inputs = (source, tmp_path / "broken.safetensors", model)
    options = ("--keep-going", "--num-bits", "4", "--max-memory", "16MiB")
    assert qdq("run", *inputs, "-o", tmp_path / "here", *options).code == 3
    found = qdq("run", *inputs, "-o", tmp_path / "there", *options, "--dask", shared.file)
    assert found.code == 3, found.err
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(starts) == 1
    assert qdq("stats", *inputs, *options, "--dask", shared.file).code == 3
    assert len(starts) == 2


def test_workers_on_this_machine(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    assert qdq("run", source, "-o", tmp_path / "local", *SETTINGS).code == 0
    command = [sys.executable, "-m", "qdqcli", "run", source, "-o", tmp_path / "far", *SETTINGS, "--dask", "local"]
    done = subprocess.run([*command, "-q"], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


class Slow:
    """A task that takes long enough to be met by a kill; with `poison`, one shard ends every worker."""

    def __init__(self, function: Any, poison: str = "") -> None:
        self._function, self._poison = function, poison

    def __call__(self, task: Any) -> Any:
        if task.path.name == self._poison:
            os._exit(9)  # as where a shard is too large for the memory
        sleep(0.2)
        return self._function(task)


@contextmanager
def slow_tasks(poison: str = "", kill: Any = None, after: int = 0, delay_s: float = 0.0) -> Iterator[None]:
    """Slow down the tasks; call `kill` some time after this many of them are done."""
    count = itertools.count()
    submit, settle = cluster.Dask.submit, cluster.Dask._settle

    def tick() -> None:
        if next(count) == after and kill is not None:
            Timer(delay_s, kill).start()

    def submit_slow(self: Any, function: Any, /, *args: Any) -> Any:
        return submit(self, Slow(function, poison), *args)

    def settle_and_count(*args: Any) -> None:
        settle(*args)
        tick()

    tick()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cluster.Dask, "submit", submit_slow)
        patched.setattr(cluster.Dask, "_settle", settle_and_count)
        yield


@pytest.mark.faults
def test_a_shard_that_no_worker_survives_costs_only_itself(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    assert qdq("run", source, "-o", tmp_path / "local", *SETTINGS).code == 0
    arguments = ("run", source, "-o", tmp_path / "far", *SETTINGS)
    with cluster_in(tmp_path / "dask", 6) as started:
        with slow_tasks(poison="model-3.safetensors"):
            failed = qdq(*arguments, "--dask", started.file)
        assert failed.code == 4, failed.err
        assert "model-3.safetensors: ended every worker that worked on it" in failed.error
        assert failed.error.endswith(f"{NUM_SHARDS} of {NUM_SHARDS + 1} files are finished, --resume goes on from here")
        assert not (tmp_path / "far").exists()
        again = qdq(*arguments, "--dask", started.file, "--resume")
    assert again.code == 0, again.err
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


SHORT = [1]
"""Seeds of the default run."""


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[] if n in SHORT else pytest.mark.faults) for n in range(10)])
def test_a_worker_is_killed(
    qdq: Qdq, shared: Cluster, source: Path, tmp_path: Path, every_fault: bool, seed: int
) -> None:
    """One of two workers, at a random moment of a random shard."""
    if seed > 3 and not every_fault:
        pytest.skip("more seeds with --every-fault")
    chance = random.Random(seed)
    options = (*SETTINGS, "--per-channel", "--format", "json")
    expected = qdq("run", source, "-o", tmp_path / "local", *options)
    victim, after, delay_s = chance.randrange(2), chance.randrange(NUM_SHARDS), chance.random() * 0.3
    with slow_tasks(kill=shared.workers[victim].kill, after=after, delay_s=delay_s):
        found = qdq("run", source, "-o", tmp_path / "far", *options, "--dask", shared.file)
    shared.replace_dead()
    assert (found.code, found.out) == (0, expected.out), found.err
    assert "Traceback" not in found.err
    assert contents(tmp_path / "far") == contents(tmp_path / "local")
    assert not list(tmp_path.glob("*.qdq-partial"))


@pytest.mark.faults
def test_a_worker_is_killed_in_a_study(qdq: Qdq, shared: Cluster, source: Path, tmp_path: Path) -> None:
    options = ("--format", "json", "--max-memory", "16MiB")
    assert qdq("run", source, "-o", tmp_path / "int4", *SETTINGS).code == 0
    ranges = ("-o", tmp_path / "ranges.json", "--overwrite")
    commands = {
        "sweep": ("sweep", source, "--scheme", "int4-channel", *options),
        "compare": ("compare", source, tmp_path / "int4", *options),
        "calibrate": ("calibrate", source, "--scheme", "int4-channel", *ranges, *options),
    }
    for seed, command in enumerate(commands.values()):
        expected = qdq(*command)
        files = contents(tmp_path)
        with slow_tasks(kill=shared.workers[seed % 2].kill, after=2 * seed, delay_s=0.1):
            found = qdq(*command, "--dask", shared.file)
        shared.replace_dead()
        assert (found.code, found.out) == (0, expected.out), found.err
        assert contents(tmp_path) == files


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", ["all workers", "the scheduler"])
def test_everything_is_killed_and_the_run_goes_on(
    qdq: Qdq, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_fault: bool, loss: str, seed: int
) -> None:
    """It goes on here, or on new workers."""
    if seed and not every_fault:
        pytest.skip("more seeds with --every-fault")
    chance = random.Random(seed)
    options = (*SETTINGS, "--format", "json")
    expected = qdq("run", source, "-o", tmp_path / "local", *options)
    arguments = ("run", source, "-o", tmp_path / "far", *options)
    monkeypatch.setattr(cluster, "NO_WORKER_S", 2.0)
    with cluster_in(tmp_path / "dask") as started:
        lost = started.workers if loss == "all workers" else [started.scheduler]

        def kill() -> None:
            for process in lost:
                process.kill()

        with slow_tasks(kill=kill, after=1 + chance.randrange(NUM_SHARDS - 2), delay_s=chance.random() * 0.3):
            outcome = qdq(*arguments, "--dask", started.file)
        assert outcome.code == 4, outcome.err
        assert "Traceback" not in outcome.err
        assert "files are finished, --resume goes on from here" in outcome.error
        assert (tmp_path / "far.qdq-partial" / "rows").is_dir()
        assert not (tmp_path / "far").exists()
        started.replace_dead()
        elsewhere = () if loss == "the scheduler" else ("--dask", started.file)
        resumed = qdq(*arguments, "--resume", *elsewhere)
    assert (resumed.code, resumed.out) == (0, expected.out), resumed.err
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("num_rows", [1, 4])
def test_the_driver_is_stopped(qdq: Qdq, source: Path, tmp_path: Path, number: int, num_rows: int) -> None:
    slow = (*SETTINGS, "--estimator", "mse")
    for i in range(NUM_SHARDS):
        path = source / f"model-{i}.safetensors"
        write_safetensors(path, {f"{i}.w": sample((512, 1024), "F32", i)})
    assert qdq("run", source, "-o", tmp_path / "local", *slow).code == 0
    command = [sys.executable, "-m", "qdqcli", "run", source, "-o", tmp_path / "far", *slow, "--dask", "local"]
    rows = tmp_path / "far.qdq-partial" / "rows"
    driver = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_signals
    )
    wait_until(lambda: driver.poll() is not None or len(list(rows.glob("*.json"))) >= num_rows)
    os.killpg(driver.pid, number) if number == signal.SIGINT else driver.kill()
    _, error = driver.communicate(timeout=120)
    if number == signal.SIGINT:
        assert driver.returncode == 130, error
        lines = [line for line in error.splitlines() if not line.startswith("quantizing")]
        assert len(lines) == 1, error
        assert lines[0].startswith("error: interrupted")
    wait_until(lambda: not workers_below(driver.pid))
    assert qdq("run", source, "-o", tmp_path / "far", *slow, "--resume").code == 0
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


def workers_below(session: int) -> Sequence[int]:
    """Processes of that session that still live."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(session) and fields[0] not in "ZX":
            found.append(int(path.name))
    return found


def test_errors_before_the_work(
    qdq: Qdq, source: Path, shared: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", source, "-o", tmp_path / "far", *SETTINGS)
    both = qdq(*arguments, "--dask", "local", "--part", "1/2")
    assert (both.code, "--dask and --part are two ways" in both.error) == (2, True)
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "CONNECT_S", 0.5)
        nobody = qdq(*arguments, "--dask", "tcp://127.0.0.1:9")
        assert (nobody.code, "no Dask scheduler with workers answers there" in nobody.error) == (5, True)
        for content in (None, "[]", "{"):  # not there, of something else, half written
            if content:
                (tmp_path / "s.json").write_text(content)
            no_file = qdq(*arguments, "--dask", tmp_path / "s.json")
            assert (no_file.code, "s.json: no Dask scheduler" in no_file.error) == (5, True)
        patched.setitem(sys.modules, "distributed", None)
        missing = qdq(*arguments, "--dask", "local")
        assert (missing.code, "pip install 'qdqcli[dask]'" in missing.error) == (5, True)
    monkeypatch.setattr(cluster, "__version__", "0.0.1")
    other = qdq(*arguments, "--dask", shared.file)
    assert (other.code, "has qdqcli 0.1.0, this is 0.0.1; install the same" in other.error) == (5, True)
    assert not list(tmp_path.glob("far*"))


FOUND = _Answer("1", "a", "", "")


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (_Answer("2", "a", "", ""), 5, "worker tcp://h:1: has qdqcli 2, this is 1"),
        (_Answer("1", "b", "", ""), 5, "computes other numbers than this machine"),
        (_Answer("1", "a", "m: is another file there", ""), 3, "INPUT must be on a disk that all machines share"),
        (_Answer("1", "a", "s3://b/m: refused", ""), 3, "refused; each worker reads it with credentials of its own"),
        (_Answer("1", "a", "", "out: Permission denied"), 4, "OUTPUT must be on a disk that all machines share"),
        (FOUND, 4, "is not seen here"),
    ],
)
def test_preflight(tmp_path: Path, found: _Answer, code: int, words: str) -> None:
    with pytest.raises(cluster.QdqError, match=words) as raised:
        _compare("tcp://h:1", found, FOUND, tmp_path / "no")
    assert raised.value.exit_code == code
    (tmp_path / "probe").write_text("")
    _compare("tcp://h:1", FOUND, FOUND, tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("local", False),
        ("tcp://127.0.0.1:8786", False),
        ("localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://node7:8786", False),
        ("/data/scheduler.json", False),
        ("tcp://node7:8786", True),
        ("node7:8786", True),
        ("tcp://10.0.0.7:8786", True),
    ],
)
def test_an_address_that_others_can_reach_is_warned_of(address: str, exposed: bool) -> None:
    assert (risk_of(address) is not None) == exposed


@pytest.mark.parametrize(("address", "exposed"), [("tcp://127.0.0.1:8786", False), ("tcp://10.0.0.7:8786", True)])
def test_the_address_in_a_scheduler_file_is_warned_of(tmp_path: Path, address: str, exposed: bool) -> None:
    file = tmp_path / "dask.json"
    assert risk_of(str(file)) is None
    file.write_text(json.dumps({"address": address}))
    risk = risk_of(str(file))
    assert (risk is not None) == exposed
    assert risk is None or str(file) in risk
