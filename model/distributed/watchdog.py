"""Ends a worker that makes no progress: nothing may hang for ever. No TensorFlow here."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

from model.errors import EXIT_RESTARTABLE

STALL_SECONDS = 300.0
"""How long may pass without a sign of progress."""

FIRST_SECONDS = 600.0
"""At least so long may take what compiles, reads or writes much."""

_BACKSTOP_SECONDS = 60.0


class Watchdog:
    """Expects a sign of progress every so often; without one it ends the process.

    Before that, the stacks of all threads go to stderr. Where the main thread keeps
    Python's lock, no thread of ours can run; a timer of the system then ends the process
    a minute later, without a word.
    """

    def __init__(self, end: Callable[[str], None] | None = None, *, seconds: float = STALL_SECONDS):
        """Watches nothing until `watching`.

        Args:
          end: ends the process with the restartable code; gets the reason.
          seconds: how long may pass between two signs of progress.
        """
        self._end = end
        self._seconds = seconds
        self.doing = ""
        """What was said last."""
        self._limit = self._deadline = float("inf")
        self._stopped = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block runs."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._stopped.clear()
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()
            self._limit = self._deadline = float("inf")

    def beat(self, doing: str, *, slow: bool = False) -> None:
        """Says what is being done now.

        Args:
          doing: as in "step 12".
          slow: whether it may take as long as `FIRST_SECONDS`.
        """
        self.doing = doing
        self._limit = max(self._seconds, FIRST_SECONDS if slow else 0.0)
        self._deadline = time.monotonic() + self._limit

    def _watch(self) -> None:
        timer = ExitTimer()
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() > self._deadline:
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                if self._end:
                    self._end(f"no progress for {self._limit:g} s in {self.doing}")
            timer.set(max(self._seconds, _BACKSTOP_SECONDS))
        timer.set(0.0)


class ExitTimer:
    """Ends the process after some time, whatever thread holds Python's lock.

    Creating the strategy, TensorFlow waits an hour for its peers and holds that lock, so
    that neither a thread nor a signal handler in Python runs. A timer of the system calls
    `_exit` from a thread that knows nothing of Python. Where there is no `timer_create`
    (macOS) it does nothing.
    """

    def __init__(self, code: int = EXIT_RESTARTABLE):
        """Makes a timer that is not set.

        Args:
          code: the exit code.
        """
        self._timer = ctypes.c_void_p()
        self._system = ctypes.CDLL(None)
        self._usable = hasattr(self._system, "timer_create")
        if self._usable:
            event = _Event(value=code, notify=_NOTIFY_BY_THREAD)
            event.function = ctypes.cast(self._system._exit, ctypes.c_void_p)
            places = ctypes.byref(event), ctypes.byref(self._timer)
            self._usable = self._system.timer_create(_MONOTONIC, *places) == 0

    def set(self, seconds: float) -> None:
        """Lets the process end in so many seconds; 0: not at all."""
        if self._usable:
            whole = int(seconds)
            times = _Times(0, 0, whole, int((seconds - whole) * 1e9))
            self._system.timer_settime(self._timer, 0, ctypes.byref(times), None)


_MONOTONIC, _NOTIFY_BY_THREAD = 1, 2


class _Event(ctypes.Structure):
    """`struct sigevent` of timer_create(2); Linux pads it to 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`: interval and time until the first end."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every", "every_ns", "in_", "in_ns"))
