"""Threads that share work: order, errors, buffers, interruption."""

from threading import Event, Lock, get_ident, main_thread
from time import sleep

import numpy as np
import pytest

from qdqcli.errors import Interrupted
from qdqcli.interrupt import Interruption
from qdqcli.measure import workers as workers_module
from qdqcli.measure.workers import Workers
from qdqcli.op.threads import available_threads
from qdqcli.stats.sums import CHUNK_ELEMENTS


def test_results_stand_in_the_order_of_the_items() -> None:
    with Workers(4) as workers:
        assert workers.map(lambda i: sleep(0.02 * (3 - i % 4)) or i * i, range(12)) == [i * i for i in range(12)]


@pytest.mark.parametrize("count", [0, 1])
def test_few_items(count: int) -> None:
    with Workers(2) as workers:
        assert workers.map(str, range(count)) == ["0"][:count]


def test_items_are_worked_on_at_the_same_time() -> None:
    met = [Event(), Event()]

    def meet(i: int) -> bool:
        met[i].set()
        return met[1 - i].wait(10)

    with Workers(2) as workers:
        assert workers.map(meet, range(2)) == [True, True]


def test_the_caller_works_on_its_own_items_beside_the_workers() -> None:
    theirs, own = Event(), Event()

    def meet(i: int) -> int:
        (own if i == 1 else theirs).set()
        assert (theirs if i == 1 else own).wait(10)
        assert (get_ident() == main_thread().ident) == (i == 1)
        return i

    with Workers(2) as workers:
        assert workers.map(meet, range(3), lambda i: i == 1) == [0, 1, 2]


def test_after_a_failure_of_the_caller_no_item_is_still_worked_on() -> None:
    begun, ended = Event(), Event()

    def fail(i: int) -> None:
        if i == 1:
            begun.wait(10)
            raise ValueError(i)
        begun.set()
        sleep(0.05)
        ended.set()

    with Workers(2) as workers:
        with pytest.raises(ValueError, match="1"):
            workers.map(fail, range(2), lambda i: i == 1)
        assert ended.is_set()


def test_one_thread_works_on_one_item_at_a_time() -> None:
    inside, lock = [0], Lock()

    def count(_: int) -> int:
        with lock:
            inside[0] += 1
            seen = inside[0]
        sleep(0.001)
        with lock:
            inside[0] -= 1
        return seen

    with Workers(1) as workers:
        assert set(workers.map(count, range(20))) == {1}


def test_the_error_of_the_first_item_that_failed_is_raised() -> None:
    def fail(i: int) -> None:
        sleep(0.05 if i == 1 else 0)
        if i in (1, 2):
            raise ValueError(i)

    with Workers(4) as workers, pytest.raises(ValueError, match="1"):
        workers.map(fail, range(4))


def test_after_a_failure_items_that_were_not_begun_are_dropped() -> None:
    begun: list[int] = []

    def fail(i: int) -> None:
        begun.append(i)
        if i == 0:
            raise ValueError(i)
        sleep(0.05)

    with Workers(2) as workers:
        with pytest.raises(ValueError, match="0"):
            workers.map(fail, range(200))
        sleep(0.3)
        assert len(begun) < 10


def test_after_a_failure_no_item_is_still_worked_on() -> None:
    """What comes next closes the files that a straggler would read and write."""
    started, running = Event(), [0]

    def fail_or_linger(i: int) -> None:
        if i == 0:
            started.wait(10)
            raise ValueError(i)
        running[0] += 1
        started.set()
        sleep(0.3)
        running[0] -= 1

    with Workers(2) as workers:
        with pytest.raises(ValueError, match="0"):
            workers.map(fail_or_linger, range(2))
        assert running == [0]


def test_workers_go_on_after_a_failure() -> None:
    with Workers(2) as workers:
        with pytest.raises(ZeroDivisionError):
            workers.map(lambda i: 1 // i, range(3))
        assert workers.map(lambda i: i, range(3)) == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 100])
def test_nothing_begins_once_interrupted(count: int) -> None:
    interruption = Interruption()
    interruption.request(2)
    begun: list[int] = []
    with Workers(2, interruption=interruption) as workers, pytest.raises(Interrupted) as raised:
        workers.map(begun.append, range(count))
    assert begun == []
    assert raised.value.exit_code == 130


def test_an_interruption_stops_the_work_at_the_next_item() -> None:
    interruption = Interruption()
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        if len(begun) == 3:
            interruption.request(15)
        sleep(0.02)

    with Workers(2, interruption=interruption) as workers, pytest.raises(Interrupted) as raised:
        workers.map(work, range(1000))
    assert len(begun) <= 5
    assert raised.value.exit_code == 143


def test_a_buffer_is_used_again_where_it_is_large_enough() -> None:
    with Workers(1) as workers:
        first = workers.buffer("input", np.float32, 100)
        assert (first.dtype, first.size) == (np.float32, 100)
        again = workers.buffer("input", np.int16, 150)
        assert (again.dtype, again.size) == (np.int16, 150)
        assert np.shares_memory(first, again)


def test_a_buffer_grows() -> None:
    with Workers(1) as workers:
        workers.buffer("input", np.float32, 10)
        assert workers.buffer("input", np.float64, 10).size == 10


def test_buffers_of_two_names_are_apart() -> None:
    with Workers(1) as workers:
        assert not np.shares_memory(workers.buffer("input", np.float32, 9), workers.buffer("output", np.float32, 9))


def test_each_thread_has_buffers_of_its_own() -> None:
    both = [Event(), Event()]

    def fill(i: int) -> tuple[int, bool]:
        buffer = workers.buffer("input", np.int64, 1000)
        buffer[:] = i
        both[i].set()
        assert both[1 - i].wait(10)
        return get_ident(), bool((buffer == i).all())

    with Workers(2) as workers:
        results = workers.map(fill, range(2))
    assert [kept for _, kept in results] == [True, True]
    assert len({thread for thread, _ in results}) == 2


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_a_block_is_whole_chunks_within_the_memory(threads: int, itemsize: int) -> None:
    for max_memory in (0, 1 << 20, 64 << 20, 256 << 20, 8 << 30):
        elements = Workers(threads, max_memory).block_elements(itemsize)
        assert elements % CHUNK_ELEMENTS == 0
        assert elements >= CHUNK_ELEMENTS
        if elements > CHUNK_ELEMENTS:
            assert 3 * threads * elements * itemsize <= max_memory
            assert elements * itemsize <= workers_module.LARGEST_BLOCK_BYTES


def test_all_processors_are_used_by_default() -> None:
    assert Workers().num_threads == available_threads() >= 1


def test_a_single_item_needs_no_thread() -> None:
    with Workers(2) as workers:
        assert workers.map(lambda _: get_ident(), [0]) == [main_thread().ident]
