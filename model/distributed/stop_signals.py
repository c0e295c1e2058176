"""Turns SIGTERM and SIGINT into a stop flag that all workers agree on. No TensorFlow here."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from model.errors import OrphanedError, StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)

STOP_SECONDS = 8.0
"""How long after a signal the process exits by itself if the training can't save."""

PAUSE_SECONDS = 1.0
"""Signals that come sooner after the first one belong to it: systemd and batch systems send one to
the launcher and to each worker, and the launcher passes its own on."""

VOTE_SECONDS = 0.5
"""Approximate interval at which the workers check whether one of them was asked to stop."""

_MAX_STRIDE = 50
_TICK_SECONDS = 0.1


class StopSignals:
    """Receives SIGTERM and SIGINT in a dedicated thread.

    TensorFlow's strategy replaces our SIGTERM handler, and a Python handler does not run while the
    main thread is inside a C++ call, such as compiling a step. So both signals are blocked in every
    thread, and one thread waits for them. It ends the process by itself

    - immediately, before the training has started or at a second signal;
    - after `STOP_SECONDS`, if the training has not reached a point where it can save. A save that
      is under way is not counted: it is the point.

    A second signal is one that comes `PAUSE_SECONDS` after the first, and not from the launcher,
    which kills workers that it no longer wants to wait for.
    """

    def __init__(
        self,
        end: Callable[[str], None] | None = None,
        *,
        seconds: float = STOP_SECONDS,
        launcher: int | None = None,
    ):
        """Does nothing until `listen` is called.

        Args:
          end: exits with the restartable code; receives the reason.
          seconds: replaces `STOP_SECONDS`.
          launcher: its process id, if it runs on this machine.
        """
        self._end = end
        self._seconds = seconds
        self._launcher = launcher
        self.orphaned = False
        """Whether the request came from `stop_orphan`."""
        self._requested = threading.Event()
        self._training = False
        self._saving = False
        self._safe = False

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._requested.is_set()

    def listen(self) -> None:
        """Starts; call it before any other thread starts, as threads inherit the signal mask."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=self._wait, name="stop-signals", daemon=True).start()

    def stop_orphan(self) -> None:
        """Asks this process to stop as an orphan; callable from any thread.

        Does nothing after an earlier request: a second signal would abort the saving.
        """
        if not self.requested:
            self.orphaned = True
            os.kill(os.getpid(), signal.SIGTERM)

    def training_begins(self) -> None:
        """Leaves the handling of requests to the training from now on."""
        self._training = True
        if self.requested:  # it has just arrived and is about to end the process
            time.sleep(self._seconds)

    def reached_safe_point(self) -> None:
        """Lifts the time limit: the training is about to save and leave."""
        self._safe = True

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Suspends the time limit while the training saves, or waits for worker 0 to save."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _wait(self) -> None:
        number = signal.sigwait(SIGNALS)
        training, asked = self._training, time.monotonic()
        self._requested.set()
        name = signal.Signals(number).name
        if not training:
            self._leave(f"stopped by {name} before the training started")
            return
        deadline = asked + self._seconds
        while not self._is_second(signal.sigtimedwait(SIGNALS, _TICK_SECONDS), asked):
            if self._saving or self._safe:
                deadline = time.monotonic() + self._seconds
            elif time.monotonic() > deadline:
                self._leave(
                    f"stopped by {name} without saving: no step ended within {self._seconds:g} s"
                )
                return
        how = "while saving" if self._saving or self._safe else "without saving"
        self._leave(f"stopped immediately by a second signal, {how}")

    def _is_second(self, info: signal.struct_siginfo | None, asked: float) -> bool:
        return (
            info is not None
            and (self._launcher is None or info.si_pid != self._launcher)
            and time.monotonic() - asked > PAUSE_SECONDS
        )

    def _leave(self, reason: str) -> None:
        if self._end:
            self._end(reason)


class Group(Protocol):
    """The worker group, such as a `model.distributed.cluster.Cluster`."""

    def add(self, values: Sequence[float]) -> list[float]:
        """Returns sums over all workers, the same on each."""


class StopVote:
    """Checks across all workers, about twice a second, whether one of them was asked to stop.

    All workers must call it at the same points of the training, and all get the same answer. The
    number of points between two votes follows from the mean time between points, which is summed
    with the flag so that all workers use the same number.
    """

    def __init__(self, group: Group, signals: StopSignals):
        """Makes the next call a vote."""
        self._group = group
        self._signals = signals
        self._stride, self._left = 1, 1
        self._since = time.monotonic()
        self._orphaned = False

    def __call__(self) -> bool:
        """Returns whether to stop here; if so, lifts the time limit for saving."""
        self._left -= 1
        if self._left:
            return False
        elapsed = time.monotonic() - self._since
        asked, orphaned, seconds, workers = self._group.add(
            [self._signals.requested, self._signals.orphaned, elapsed, 1.0]
        )
        if asked:
            self._orphaned = orphaned > 0
            self._signals.reached_safe_point()
            return True
        points = VOTE_SECONDS * workers * self._stride / max(seconds, 1e-6)
        # At most twice as many as before: a run of quick steps says little about the next one.
        self._stride = int(max(1, min(points, 2 * self._stride, _MAX_STRIDE)))
        self._left = self._stride
        self._since = time.monotonic()
        return False

    def at_once(self) -> bool:
        """Votes now. Returns once all workers have come here, and whether to stop."""
        self.begin_phase()
        return self()

    def saving(self) -> contextlib.AbstractContextManager[None]:
        """Suspends this worker's time limit for stopping while the block runs."""
        return self._signals.saving()

    def error(self, text: str) -> StoppedError:
        """Returns the error to raise after a vote to stop, the same on all workers."""
        return OrphanedError(text) if self._orphaned else StoppedError(text)

    def begin_phase(self) -> None:
        """Votes at the next point: points of a new phase may take longer."""
        self._stride, self._left = 1, 1
        self._since = time.monotonic()
