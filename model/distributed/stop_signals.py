"""Asked to stop: SIGTERM and SIGINT become a flag on which all workers agree. No TensorFlow here."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from model.errors import OrphanedError, StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)

STOP_SECONDS = 8.0
"""How long after a signal the process ends by itself if the training does not come to save."""

VOTE_SECONDS = 0.5
"""About how often the workers ask one another whether one of them was asked to stop."""

_MAX_STRIDE = 50


class StopSignals:
    """Receives SIGTERM and SIGINT in a thread of its own.

    The strategy of TensorFlow puts its own handler of SIGTERM in place of ours, and a
    handler in Python does not run while the main thread is inside a C++ call, such as
    compiling a step. So both signals are blocked in every thread, and one thread waits
    for them. It ends the process by itself

    - at once, before the training has begun, and at a second signal;
    - after `STOP_SECONDS`, if the training has not come to a point where it can save.
    """

    def __init__(self, end: Callable[[str], None] | None = None, *, seconds: float = STOP_SECONDS):
        """Does nothing until `listen`.

        Args:
          end: ends the process with the restartable code; gets the reason.
          seconds: in place of `STOP_SECONDS`.
        """
        self._end = end
        self._seconds = seconds
        self.orphaned = False
        """Whether the request came from `stop_orphan`."""
        self._requested = threading.Event()
        self._training = False
        self._safe = False

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self._requested.is_set()

    def listen(self) -> None:
        """Starts; must come before any other thread, as threads inherit what is blocked."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=self._wait, name="stop-signals", daemon=True).start()

    def stop_orphan(self) -> None:
        """Asks this process to stop as an orphan, from any thread.

        If it was asked to stop before, it does nothing: a second signal would end the saving.
        """
        if not self.requested:
            self.orphaned = True
            os.kill(os.getpid(), signal.SIGTERM)

    def training_begins(self) -> None:
        """From now on a request is answered by the training."""
        self._training = True
        if self.requested:  # it came a moment before, and is about to end the process
            time.sleep(self._seconds)

    def reached_safe_point(self) -> None:
        """The training is about to save and leave: it may take as long as it needs."""
        self._safe = True

    def _wait(self) -> None:
        number = signal.sigwait(SIGNALS)
        training = self._training
        self._requested.set()
        name = signal.Signals(number).name
        if not training:
            self._leave(f"stopped by {name} before the training began")
        elif signal.sigtimedwait(SIGNALS, self._seconds):
            self._leave("stopped at once by a second signal, without saving")
        elif not self._safe:
            self._leave(
                f"stopped by {name} without saving: no step ended within {self._seconds:g} s"
            )
        signal.sigwait(SIGNALS)
        self._leave("stopped at once by a second signal, while saving")

    def _leave(self, reason: str) -> None:
        if self._end:
            self._end(reason)


class Group(Protocol):
    """The workers; a `model.distributed.cluster.Cluster` is one."""

    def add(self, values: Sequence[float]) -> list[float]:
        """Returns sums over all workers, the same on each."""


class StopVote:
    """Asks all workers, about twice a second, whether one of them was asked to stop.

    All workers must call it at the same points of the training, and all get the same
    answer at the same point. How many points pass between two votes follows from the
    mean time between points over all workers, which is summed with the flag, so that
    all reckon with the same number.
    """

    def __init__(self, group: Group, signals: StopSignals):
        """The next call is a vote."""
        self._group = group
        self._signals = signals
        self._stride, self._left = 1, 1
        self._since = time.monotonic()
        self._orphaned = False

    def __call__(self) -> bool:
        """Returns whether to stop here; if so, the process is given the time to save."""
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
        # At most twice as many as before: a stretch of quick steps says little of the next.
        self._stride = int(max(1, min(points, 2 * self._stride, _MAX_STRIDE)))
        self._left = self._stride
        self._since = time.monotonic()
        return False

    def error(self, text: str) -> StoppedError:
        """Returns the error to raise, on all workers the same, after a vote to stop."""
        return OrphanedError(text) if self._orphaned else StoppedError(text)

    def begin_phase(self) -> None:
        """Votes at the next point: the points to come may take longer than those before."""
        self._stride, self._left = 1, 1
        self._since = time.monotonic()
