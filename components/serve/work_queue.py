"""Shares a few threads between requests that take very different times.

A request is worked on in steps. Between two of its steps others get their turn, small steps before
large ones, and one thread takes only small steps: so a few large requests can't hold up the small
ones, and a request whose client has gone is dropped at the next step. Only some requests that keep
much in memory between their steps are under way at a time; others of the kind wait.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

SMALL = 256
"""Largest cost of a small step."""
SECONDS_PER_COST = 1e-3
"""A step waits behind those that arrive within this time of it and cost less by one."""


class Step(NamedTuple):
    """What a request will do next."""

    cost: int
    """About that of reading so many words."""
    heavy: bool = False
    """Whether the request keeps much in memory from now on."""


class Job:
    """One request: an iterator that does a step and yields what the next one will be."""

    def __init__(self, steps: Iterator[Step]):
        """Takes the iterator."""
        self.is_admitted = False
        """Whether it is one of the heavy requests that are under way."""
        self._steps: Iterator[Step] | None = steps
        self._cancelled = False
        self._lock = threading.Lock()

    def step(self) -> Step | None:
        """Does a step and returns the next one; None after the last one."""
        with self._lock:
            steps, self._steps = self._steps, None
        if steps is None:
            return None
        following = next(steps, None)
        with self._lock:
            if following is None or self._cancelled:
                return None
            self._steps = steps
        return following

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
          threads: how many; if there are several, one of them takes only small steps. Twice as many
            heavy jobs are under way at a time.
        """
        self._small: list[tuple[float, int, Job]] = []
        self._large: list[tuple[float, int, Job]] = []
        self._heavy: collections.deque[tuple[Job, Step]] = collections.deque()
        """Heavy jobs that wait until others are done."""
        self._free = 2 * threads
        """Heavy jobs that may still begin."""
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        for number in range(threads):
            small_only = number == 0 and threads > 1
            threading.Thread(
                target=self._work, args=(small_only,), name=f"work-{number}", daemon=True
            ).start()

    def put(self, job: Job, step: Step) -> None:
        """Adds a job with its next step."""
        with self._changed:
            if step.heavy and not job.is_admitted:
                self._heavy.append((job, step))
                self._admit()
            else:
                self._push(job, step)

    def _admit(self) -> None:
        """Lets heavy jobs begin, as far as there is room."""
        while self._heavy and self._free:
            job, step = self._heavy.popleft()
            job.is_admitted = True
            self._free -= 1
            self._push(job, step)

    def _push(self, job: Job, step: Step) -> None:
        due = time.monotonic() + step.cost * SECONDS_PER_COST
        heap = self._small if step.cost <= SMALL else self._large
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
            step = job.step()
            if step is not None:
                self.put(job, step)
            elif job.is_admitted:
                with self._changed:
                    self._free += 1
                    self._admit()
            del job  # it may hold an answer
