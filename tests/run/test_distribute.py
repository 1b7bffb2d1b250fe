"""Shards that run elsewhere: the bytes and the report of a local run, whatever an engine does to the tasks."""

import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqcli
from qdqcli.api import Settings, _job
from qdqcli.errors import Interrupted, QdqError
from qdqcli.interrupt import Interruption
from qdqcli.measure.workers import Workers
from qdqcli.output.tree import OutputTree, output_tree
from qdqcli.recipe.pairing import entries_of
from qdqcli.recipe.sweep import Setting
from qdqcli.result.result import row_to_json, to_json
from qdqcli.run.calibrate import calibrate
from qdqcli.run.compare import compare_entries
from qdqcli.run.digest import DigestTask, VerificationError
from qdqcli.run.distribute import Distribution
from qdqcli.run.driver import TransientError, drive
from qdqcli.run.execute import measure_plans, result_of_job
from qdqcli.run.journal import Target
from qdqcli.run.pipeline import Measuring
from qdqcli.run.shard import ShardTask, WorkerResources, process
from qdqcli.run.verify import VerifyTask
from qdqcli.run.write import Destination, execute_run
from qdqcli.study.sweep import run_sweep
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.cli.test_output import contents
from tests.run.checkpoints import sample, write_safetensors

NUM_SHARDS = 6
RESOURCES = WorkerResources(threads=1, max_memory=16 << 20)


class Fake:
    """An engine at its worst: tasks run twice and at the same time, in random order; some fail, results are lost."""

    def __init__(self, seed: int = 0, *, twice: float = 0.3, failing: float = 0.2, lost: float = 0.2) -> None:
        self._random = random.Random(seed)
        self._chances = twice, failing, lost
        self._pool = ThreadPoolExecutor(3)
        self.slots = 4
        self.num_calls = 0

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        self.num_calls += not isinstance(args[0], DigestTask)
        travelled = pickle.dumps((function, args))
        twice, failing, lost = (self._random.random() < chance for chance in self._chances)
        return self._pool.submit(self._run, travelled, twice, failing, lost)

    def check(self) -> None: ...

    def preflight(self, *_: Any) -> None: ...

    def _run(self, travelled: bytes, twice: bool, failing: bool, lost: bool) -> Any:
        function, args = pickle.loads(travelled)
        other = self._again(travelled) if twice else None
        if failing:
            raise pickle.loads(pickle.dumps(TransientError(qdqcli.InputError("the network failed"))))
        result = function(*args)
        if lost:
            result = function(*args)
        if other is not None:
            assert other.result() == result
        return pickle.loads(pickle.dumps(result))

    def _again(self, travelled: bytes) -> Future[Any]:
        function, args = pickle.loads(travelled)
        pool = ThreadPoolExecutor(1)
        future = pool.submit(function, *args)
        pool.shutdown(wait=False)
        return future


class Stopping(Fake):
    """An engine that is gone after some tasks."""

    def __init__(self, num_tasks: int, error: BaseException) -> None:
        super().__init__(twice=0, failing=0, lost=0)
        self._num_tasks, self._error, self.slots = num_tasks, error, 1
        self.tasks: list[Any] = []
        """The first argument of each call, that of the refused one too."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        self.tasks.append(args[0])
        if self.num_calls == self._num_tasks:
            raise self._error
        return super().submit(function, *args)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Shards of several dtypes and sizes, two of .npy and .npz, and side files, one in a folder."""
    folder = tmp_path / "source"
    for i in range(NUM_SHARDS - 2):
        tensors = {f"{i}.w": sample((40, 300 + i), ["F32", "BF16", "F16"][i % 3], i), f"{i}.norm": sample((9,), seed=i)}
        write_safetensors(folder / f"model-{i}.safetensors", tensors, {"format": "pt"})
    np.save(folder / "extra.npy", sample((64, 64)))
    np.savez(folder / "more.npz", a=sample((20, 30)), ids=np.arange(5))
    (folder / "sub").mkdir()
    (folder / "sub" / "tokenizer.txt").write_text("x")
    (folder / "config.json").write_text("{}")
    return folder


@contextmanager
def opened(source: Path, output: Path, *, resume: bool) -> Iterator[tuple[Any, OutputTree]]:
    checkpoint = open_checkpoint(source)
    with output_tree([checkpoint], output, resume=resume) as tree:
        yield checkpoint, tree


def run(
    source: Path,
    output: Path,
    executor: Any,
    *,
    resume: bool = False,
    interruption: Interruption | None = None,
    patience_s: float = 10.0,
    verify: bool = False,
    **settings: Any,
) -> qdqcli.Report:
    distribution = Distribution(
        executor=executor,
        resources=RESOURCES,
        interruption=interruption or Interruption(),
        patience_s=patience_s,
    )
    with opened(source, output, resume=resume) as (checkpoint, tree), Workers(1) as workers:
        job, _ = _job("run", [checkpoint], Settings(**settings))
        job = replace(job, distribution=distribution)
        return qdqcli.Report(execute_run(job, Destination(tree=tree, verify=verify), workers, Silent()))


class Silent:
    def __call__(self, num_bytes: int) -> None: ...

    def begin(self, phase: str) -> None: ...


SETTINGS: list[dict[str, Any]] = [
    {},
    {"scheme": "int4-g32", "ragged_groups": True, "per_channel": True},
    {"num_bits": 3, "axis": 0, "estimator": "percentile"},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_bytes_and_report_are_those_of_a_local_run(
    source: Path, tmp_path: Path, seed: int, settings: dict[str, Any]
) -> None:
    verify = seed == 0
    expected = qdqcli.run(source, tmp_path / "local", verify=verify, **settings)
    fake = Fake(seed)
    report = run(source, tmp_path / "far", fake, verify=verify, **settings)
    assert contents(tmp_path / "far") == contents(tmp_path / "local")
    assert report.to_json() == expected.to_json()
    assert fake.num_calls >= NUM_SHARDS * (1 + verify)
    assert not list(tmp_path.glob("*.qdq-partial"))


@pytest.mark.parametrize("seed", range(4))
def test_studies_are_those_of_a_local_run(source: Path, tmp_path: Path, seed: int) -> None:
    distribution = Distribution(executor=Fake(seed), resources=RESOURCES, interruption=Interruption())
    plans = _job("stats", [open_checkpoint(source)], Settings(num_bits=4))[0].plans
    qdqcli.run(source, tmp_path / "int4", num_bits=4)
    others = _job("stats", [open_checkpoint(tmp_path / "int4")], Settings())[0].plans
    names = {entry.name: entry.name for entry in entries_of(plans)}
    columns = [plans, _job("stats", [open_checkpoint(source)], Settings(scheme="int3-channel"))[0].plans]
    found = []
    with Workers(1) as workers:
        for where in (None, distribution):
            rows = compare_entries(entries_of(plans), entries_of(others), names, workers, distribution=where)
            swept = run_sweep(columns, SWEPT, Measuring(), workers, {}, where)
            path = tmp_path / f"{where is None}.safetensors"
            ranges = calibrate(columns[1], path, workers, distribution=where)
            results = [to_json(run) for run in swept.results]
            found.append((list(map(row_to_json, rows)), results, ranges, path.read_bytes()))
    assert found[0] == found[1]
    assert not list(tmp_path.glob("*.qdq-partial"))


SWEPT = [Setting(num_bits=4), Setting(num_bits=3, axis="channel")]


def test_measuring_alone_writes_nothing(source: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    with Workers(1) as workers:
        job, _ = _job("stats", [open_checkpoint(source)], Settings(num_bits=4))
        distribution = Distribution(executor=Fake(1), resources=RESOURCES, interruption=Interruption())
        rows = measure_plans(job.plans, job.measuring, workers, distribution)
        report = qdqcli.Report(result_of_job(job, rows, workers))
    assert report.to_json() == qdqcli.measure(source, num_bits=4).to_json()
    assert contents(tmp_path) == before


def test_ranges_travel_with_the_tensors_that_they_are_for(source: Path, tmp_path: Path) -> None:
    ranges = tmp_path / "ranges.json"
    own = [f"{i}.w" for i in range(NUM_SHARDS - 2)]
    entries = ", ".join(f'"{name}": {{"input_min": -0.5, "input_max": {0.1 * i + 0.2}}}' for i, name in enumerate(own))
    ranges.write_text("{" + entries + "}")
    expected = qdqcli.run(source, tmp_path / "local", ranges=ranges, include="*.w")
    report = run(source, tmp_path / "far", Fake(2), ranges=ranges, include="*.w")
    assert contents(tmp_path / "far") == contents(tmp_path / "local")
    assert report.to_json() == expected.to_json()


@pytest.mark.parametrize("num_tasks", [0, 1, 3, NUM_SHARDS - 1])
@pytest.mark.parametrize("way", ["here", "there"])
def test_a_run_whose_engine_is_gone_goes_on_here_or_there(
    source: Path, tmp_path: Path, num_tasks: int, way: str
) -> None:
    qdqcli.run(source, tmp_path / "local")
    lost = qdqcli.UnavailableError("the scheduler is gone")
    with pytest.raises(qdqcli.UnavailableError, match="scheduler is gone") as raised:
        run(source, tmp_path / "far", Stopping(num_tasks, lost))
    assert not (tmp_path / "far").exists()
    assert (f"{num_tasks} of {NUM_SHARDS} files are finished, --resume" in str(raised.value)) == (num_tasks > 0)
    if way == "here":
        qdqcli.run(source, tmp_path / "far", resume=True)
    else:
        fake = Fake(3, failing=0)
        run(source, tmp_path / "far", fake, resume=True)
        assert fake.num_calls == NUM_SHARDS - num_tasks
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


def test_a_shard_that_was_finished_without_the_driver_is_not_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is killed: a worker still finishes its shard, and writes the rows beside it."""
    qdqcli.run(source, tmp_path / "local")

    class Killed(BaseException): ...

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Distribution, "_seen", die)
        patched.setattr(OutputTree, "__exit__", lambda self, *_: self.suspend())
        with pytest.raises(Killed):
            run(source, tmp_path / "far", Stopping(1, Killed()))
    again = Fake(0, failing=0)
    run(source, tmp_path / "far", again, resume=True)
    assert again.num_calls == NUM_SHARDS - 1
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


def test_a_bad_shard_costs_only_itself(source: Path, tmp_path: Path) -> None:
    qdqcli.run(source, tmp_path / "local")

    class Changing(Fake):
        """The input of one shard changes on the way, and later changes back."""

        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            (job,) = args
            if isinstance(job, ShardTask) and job.shard.name == "model-1.safetensors":
                args = (replace(job, shard=replace(job.shard, header="0")),)
            return super().submit(function, *args)

    with pytest.raises(qdqcli.InputError, match=r"model-1\.safetensors: changed after .* 5 of 6 files are finished"):
        run(source, tmp_path / "far", Changing(4, failing=0))
    assert not (tmp_path / "far").exists()
    again = Fake(0, failing=0)
    run(source, tmp_path / "far", again, resume=True)
    assert again.num_calls == 1
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


def test_a_damaged_output_is_found_elsewhere_and_made_again(source: Path, tmp_path: Path) -> None:
    qdqcli.run(source, tmp_path / "local")

    class Damaging(Fake):
        """The disk loses a byte of one output before it is read back."""

        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            (task,) = args
            if isinstance(task, VerifyTask) and task.path.name == "model-2.safetensors":
                data = bytearray(task.path.read_bytes())
                data[-1] ^= 1
                task.path.write_bytes(data)
            return super().submit(function, *args)

    with pytest.raises(
        VerificationError, match=r"model-2\.safetensors: verification failed: .*--resume makes the file"
    ):
        run(source, tmp_path / "far", Damaging(twice=0, failing=0), verify=True)
    assert not (tmp_path / "far").exists()
    run(source, tmp_path / "far", Fake(1), resume=True, verify=True)
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


def test_what_always_fails_ends_the_run_with_its_error(source: Path, tmp_path: Path) -> None:
    fake = Fake(0, failing=1)
    with pytest.raises(qdqcli.InputError, match="the network failed"):
        run(source, tmp_path / "far", fake)
    assert fake.num_calls <= 4 * NUM_SHARDS
    assert not (tmp_path / "far").exists()
    qdqcli.run(source, tmp_path / "far")  # starts over in the folder that is left
    assert not list(tmp_path.glob("*.qdq-partial"))


def test_an_interruption_stops_the_driver(source: Path, tmp_path: Path) -> None:
    interruption = Interruption()

    class Interrupting(Fake):
        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            if self.num_calls == 2:
                interruption.request(2)
            return super().submit(function, *args)

    with pytest.raises(Interrupted) as raised:
        run(source, tmp_path / "far", Interrupting(0, failing=0), interruption=interruption)
    assert raised.value.exit_code == 130
    assert not (tmp_path / "far").exists()
    run(source, tmp_path / "far", Fake(1), resume=True)


def test_an_output_that_is_not_on_a_shared_disk_is_named(source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Elsewhere(Fake):
        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            (job,) = args
            target = replace(job.target, path=elsewhere / job.target.path.name, rows=elsewhere / job.target.rows.name)
            return super().submit(function, replace(job, target=target))

    with pytest.raises(qdqcli.QdqError, match="OUTPUT must be on a disk that all machines share") as raised:
        run(source, tmp_path / "far", Elsewhere(0, failing=0), patience_s=0.0)
    assert raised.value.exit_code == 4


def test_rows_of_another_run_are_not_taken(source: Path, tmp_path: Path) -> None:
    """A worker that outlived its run finishes a shard with other settings."""
    engine = Stopping(1, QdqError("gone"))
    with pytest.raises(QdqError):
        run(source, tmp_path / "far", engine, num_bits=4)
    with pytest.raises(QdqError):
        run(source, tmp_path / "far", Stopping(1, QdqError("gone")), num_bits=8)
    before = contents(tmp_path / "far.qdq-partial")
    with pytest.raises(QdqError, match="is built by another run now"):
        process(engine.tasks[1]).get()  # of the first run, in the folder of the second
    assert contents(tmp_path / "far.qdq-partial") == before
    run(source, tmp_path / "far", Fake(0), resume=True, num_bits=8)
    qdqcli.run(source, tmp_path / "local", num_bits=8)
    assert contents(tmp_path / "far") == contents(tmp_path / "local")


@pytest.mark.parametrize("resume", [False, True])
def test_a_worker_that_looked_before_the_next_run_began_adds_nothing_to_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """The worker finds its run, sleeps while another run of the same settings begins, and then renames its files."""
    engine = Stopping(2, QdqError("gone"))
    with pytest.raises(QdqError):
        run(source, tmp_path / "far", engine)
    partial = tmp_path / "far.qdq-partial"
    (partial / "rows" / "1.json").unlink()
    check = Target.check_run
    before: dict[Any, Any] = {}

    def sleep(target: Target) -> None:
        check(target)
        if len(list((partial / "rows").glob("*.tmp"))) == 2:
            monkeypatch.setattr(Target, "check_run", check)
            with pytest.raises(QdqError):
                run(source, tmp_path / "far", Stopping(0, QdqError("gone")), resume=resume)
            before.update(contents(partial))

    monkeypatch.setattr(Target, "check_run", sleep)
    with pytest.raises(QdqError, match="No such file"):
        process(engine.tasks[1]).get()
    assert before
    assert contents(partial) == before


def test_a_job_is_small_and_a_table_travels_once(tmp_path: Path) -> None:
    many = {f"model.layers.{i}.mlp.weight": sample((2, 2), seed=i) for i in range(2000)}
    source = write_safetensors(tmp_path / "m.safetensors", many)
    sizes: list[int] = []

    class Weighing(Fake):
        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            sizes.append(len(pickle.dumps((function, args))))
            return super().submit(function, *args)

    run(source, tmp_path / "far.safetensors", Weighing(0, failing=0))
    assert sizes[0] < 10_000  # no names, shapes or offsets: 5 bytes a tensor


def test_the_driver_keeps_to_its_window_and_repeats_only_what_may_pass() -> None:
    in_flight: set[int] = set()
    peak = 0
    attempts: dict[int, int] = {}

    class Counting(Fake):
        def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
            nonlocal peak
            in_flight.add(args[0])
            peak = max(peak, len(in_flight))
            attempts[args[0]] = attempts.get(args[0], 0) + 1
            return super().submit(function, *args)

    received: list[int] = []

    def receive(index: int, result: int) -> None:
        in_flight.discard(index)
        if index == 7:
            raise qdqcli.InputError("seven")
        if index == 9 and attempts[9] < 3:
            raise TransientError(qdqcli.InputError("nine"))
        received.append(result)

    with pytest.raises(qdqcli.InputError, match="seven"):
        drive(abs, [(i, i) for i in range(40)], Counting(0, twice=0, failing=0, lost=0), receive, Interruption())
    assert sorted(received) == [i for i in range(40) if i != 7]
    assert peak <= 5
    assert (attempts[7], attempts[9]) == (1, 3)
