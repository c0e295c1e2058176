"""Shares a few threads between requests that take very different times.

A request is worked on in steps. Between two of its steps others get their turn, small steps before
large ones, and one thread takes only small steps: so a few large requests can't hold up the small
ones, and a request whose client has gone is dropped at the next step.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator

SMALL = 1024
"""Largest cost of a small step."""
SECONDS_PER_COST = 1e-3
"""A step waits behind those that arrive within this time of it and cost less by one."""


class Job:
    """One request: an iterator that does a step and yields the cost of the next one."""

    def __init__(self, steps: Iterator[int]):
        """Takes the iterator; a cost is about that of reading as many words."""
        self._steps: Iterator[int] | None = steps
        self._cancelled = False
        self._lock = threading.Lock()

    def step(self) -> int | None:
        """Does a step and returns the cost of the next one; None after the last one."""
        with self._lock:
            steps, self._steps = self._steps, None
        if steps is None:
            return None
        cost = next(steps, None)
        with self._lock:
            if cost is None or self._cancelled:
                return None
            self._steps = steps
        return cost

    def cancel(self) -> None:
        """Drops the steps that have not begun."""
        with self._lock:
            self._cancelled = True
            self._steps = None


class WorkQueue:
    """Runs the steps of jobs in threads."""

    def __init__(self, threads: int):
        """Starts the threads.

        Args:
          threads: how many; if there are several, one of them takes only small steps.
        """
        self._small: list[tuple[float, int, Job]] = []
        self._large: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        for number in range(threads):
            small_only = number == 0 and threads > 1
            threading.Thread(
                target=self._work, args=(small_only,), name=f"work-{number}", daemon=True
            ).start()

    def put(self, job: Job, cost: int) -> None:
        """Adds a job whose next step has the given cost."""
        due = time.monotonic() + cost * SECONDS_PER_COST
        with self._changed:
            heap = self._small if cost <= SMALL else self._large
            heapq.heappush(heap, (due, next(self._numbers), job))
            self._changed.notify_all()

    def _take(self, small_only: bool) -> Job:
        with self._changed:
            while True:
                heaps = [self._small] if small_only else [self._small, self._large]
                filled = [heap for heap in heaps if heap]
                if filled:
                    return heapq.heappop(min(filled, key=lambda heap: heap[0]))[2]
                self._changed.wait()

    def _work(self, small_only: bool) -> None:
        while True:
            job = self._take(small_only)
            cost = job.step()
            if cost is not None:
                self.put(job, cost)
