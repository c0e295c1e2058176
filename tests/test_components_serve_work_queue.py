"""In which order the steps of requests are done."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from components.serve import work_queue as module
from components.serve.work_queue import SMALL, Job, Step, WorkQueue

LONG = 60.0


class Gate:
    """A job that waits in its first step until it is let go."""

    def __init__(self) -> None:
        self.began, self._open = threading.Event(), threading.Event()

    def steps(self) -> Iterator[Step]:
        self.began.set()
        assert self._open.wait(LONG)
        yield from ()

    def open(self) -> None:
        self._open.set()


class Recorder:
    """Jobs that record the order of their steps."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self._done = threading.Semaphore(0)

    def job(self, name: str, *costs: int, heavy: bool = False) -> Job:
        def steps() -> Iterator[Step]:
            for cost in costs:
                self.order.append(name)
                yield Step(cost, heavy)
            self.order.append(name)
            self._done.release()

        return Job(steps())

    def wait(self, jobs: int) -> None:
        for _ in range(jobs):
            assert self._done.acquire(timeout=LONG)


def test_small_steps_go_before_large_ones_that_came_first() -> None:
    queue, gate, recorder = WorkQueue(1), Gate(), Recorder()
    queue.put(Job(gate.steps()), Step(0))
    assert gate.began.wait(LONG)
    queue.put(recorder.job("large"), Step(10**6))
    queue.put(recorder.job("steps", 600, 600), Step(600))
    queue.put(recorder.job("small"), Step(1))
    queue.put(recorder.job("other small"), Step(1))
    gate.open()
    recorder.wait(4)
    assert recorder.order == ["small", "other small", *["steps"] * 3, "large"]


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self._calls = itertools.count()

    def monotonic(self) -> float:
        return 0.01 * next(self._calls)


def test_a_large_step_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", Clock())
    queue, gate, recorder = WorkQueue(1), Gate(), Recorder()
    queue.put(Job(gate.steps()), Step(0))
    assert gate.began.wait(LONG)
    queue.put(recorder.job("large"), Step(SMALL + 1))
    queue.put(recorder.job("more", SMALL, SMALL, SMALL), Step(1))
    gate.open()
    recorder.wait(2)
    assert recorder.order == ["more", "large", "more", "more", "more"]


def test_one_thread_takes_small_steps_only() -> None:
    queue, recorder = WorkQueue(2), Recorder()
    gates = [Gate(), Gate()]
    for gate in gates:
        queue.put(Job(gate.steps()), Step(SMALL + 1))
    while not any(gate.began.wait(0.01) for gate in gates):
        pass
    queue.put(recorder.job("small", 1, SMALL), Step(1))
    recorder.wait(1)
    assert sorted(gate.began.is_set() for gate in gates) == [False, True]
    for gate in gates:
        gate.open()


def test_a_cancelled_job_is_dropped_at_its_next_step() -> None:
    queue, gate, recorder = WorkQueue(1), Gate(), Recorder()
    dropped = threading.Event()

    def steps() -> Iterator[Step]:
        yield from gate.steps()
        try:
            yield Step(1)
        finally:
            dropped.set()
        recorder.order.append("never")

    running, waiting = Job(steps()), recorder.job("waiting")
    queue.put(running, Step(0))
    queue.put(waiting, Step(0))
    assert gate.began.wait(LONG)
    running.cancel()
    waiting.cancel()
    gate.open()
    assert dropped.wait(LONG)
    queue.put(recorder.job("last"), Step(0))
    recorder.wait(1)
    assert recorder.order == ["last"]


def test_few_heavy_jobs_are_under_way_at_a_time() -> None:
    queue, gate, recorder = WorkQueue(1), Gate(), Recorder()
    queue.put(Job(gate.steps()), Step(0))
    assert gate.began.wait(LONG)

    for name in "abcd":
        queue.put(recorder.job(name, 0, 0, 0, heavy=True), Step(0, heavy=True))
    cancelled = recorder.job("cancelled")
    queue.put(cancelled, Step(0, heavy=True))
    cancelled.cancel()
    queue.put(recorder.job("e"), Step(0, heavy=True))
    gate.open()
    recorder.wait(5)
    order = recorder.order
    assert sorted(order) == sorted("aaaabbbbccccdddde")
    begun: list[str] = []
    for at, name in enumerate(order):
        under_way = {one for one in order[:at] if one in order[at:]}
        assert len(under_way | {name}) <= 2
        begun += [] if name in begun else [name]
    assert begun == list("abcde")
