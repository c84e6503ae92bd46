"""Several pieces of work at a time: bounds, failures, and processes that end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from ractobatch_dagster.errors import ConfigurationError, ProviderError, StoreError
from ractobatch_dagster.submission.parallel import Workers


@pytest.mark.parametrize("transfers", [1, 3])
def test_what_goes_wrong_at_the_provider_is_a_result(transfers: int) -> None:
    """The others go on."""

    def work(number: int) -> int:
        if number == 1:
            raise ProviderError("no")
        return number

    found = dict(Workers(transfers).each(work, range(4)))
    assert isinstance(found.pop(1), ProviderError)
    assert found == {0: 0, 2: 2, 3: 3}


def test_no_more_than_allowed_are_under_way() -> None:
    """And all of them are, once there is enough to do."""
    together = threading.Barrier(3, timeout=10)
    now, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()
        with lock:
            now -= 1
        return number

    assert sorted(number for number, _ in Workers(3).each(work, range(9))) == list(range(9))
    assert most == 3


def test_a_failure_begins_nothing_new_and_loses_nothing() -> None:
    """What is under way when a disk is full is finished and told, and then the failure is raised."""
    failed, begun = threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            failed.set()
            raise StoreError("full")
        assert failed.wait(10)
        return number

    told: list[int] = []
    with pytest.raises(StoreError, match="full"):
        told.extend(number for number, _ in _each(Workers(3), work, told))
    assert sorted(told) == sorted(begun)[1:]
    assert len(begun) <= 5


def _each(workers: Workers, work: object, told: list[int]) -> Iterator[tuple[int, object]]:
    for number, result in workers.each(work, range(50)):  # type: ignore[arg-type]
        told.append(number)
        yield number, result
        told.remove(number)


def test_an_interruption_loses_nothing() -> None:
    """Whoever stops the caller is heard, once it is told what came of the tasks under way."""
    finish = threading.Event()

    def tasks() -> Iterator[int]:
        yield from (1, 2)
        finish.set()
        raise KeyboardInterrupt

    def work(number: int) -> int:
        assert finish.wait(10)
        return number

    results = Workers(3).each(work, tasks())
    assert sorted(next(results)[0] for _ in range(2)) == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_a_process_that_is_killed_says_what_to_do() -> None:
    """And the next piece of work has another."""
    workers = Workers(1, 1)
    with pytest.raises(ConfigurationError, match="fewer `processes`"):
        workers.apart(os._exit, 3)
    assert workers.apart(abs, -1) == 1
    workers.close()


def test_processes_are_started_once() -> None:
    """However many threads are the first to need them."""
    workers = Workers(8, 1)
    assert len({result for _, result in workers.each(lambda _: workers.apart(os.getpid), range(16))}) == 1
    workers.close()


def test_work_that_stays_here_is_done_one_after_the_other() -> None:
    """Whatever the number of transfers, only one batch of answers is in memory."""
    busy = threading.Lock()

    def work(number: int) -> int:
        assert busy.acquire(blocking=False)
        busy.release()
        return number

    workers = Workers(6)
    assert len(list(workers.each(lambda number: workers.in_turn(work, number), range(30)))) == 30
